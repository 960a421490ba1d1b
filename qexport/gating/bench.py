"""Artifacts side by side: each measured where a budget asks for it, on as much of the text as a verdict needs."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from qexport import measure, pipeline, progress
from qexport.answering import Apart
from qexport.artifact import Artifact
from qexport.baseline import DECIMALS, Feed, Ran
from qexport.catalogue import CATALOGUE
from qexport.conditions import identity
from qexport.errors import InputError, QExportError, UnsupportedHere
from qexport.graph import load_verified
from qexport.harness.evaluate import Place, evaluate
from qexport.harness.tasks import LoadedTask, load_task
from qexport.inputs.budgets import ACCURACIES, LIKELIHOODS, SIZES, SPEEDS, GatePlan
from qexport.inputs.models import load_tokenizer
from qexport.inputs.prompts import encode_prompts, load_prompts
from qexport.inputs.rows import table_rows
from qexport.inputs.shown import require_utf8, shown
from qexport.inputs.text import TokenSet, load_text, make_sentences, make_windows
from qexport.measure import Job, Probe
from qexport.record import Measurement
from qexport.runtime import NODES_ON, QUANTIZED_KERNELS
from qexport.scratch import scratch_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qexport.runtime import Provider

_PROBES = {
    "disk_bytes": "files",
    "weight_bytes": "files",
    "perplexity": "perplexity",
    "sentence_perplexity": "sentence perplexity",
    "latency_s": "sentences",
    "first_token_s": "generation",
    "token_latency_s": "generation",
    "tokens_per_s": "generation",
}
"""What yields each metric; those of tasks are lm-eval's."""
_WEIGHTS = frozenset({".onnx", ".data", ".safetensors"})


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """Choices for a whole gate."""

    provider: Provider = "cpu"
    threads: int | None = None
    add_windows: bool = False
    """Go on with more of the text while a verdict is inconclusive."""


class Bench:
    """The artifacts of one gate, and what was measured of them so far."""

    def __init__(self, paths: Sequence[Path], plan: GatePlan, options: GateOptions) -> None:
        """Read all manifests and hash all files again; what is wrong with an artifact is kept, and is no error.

        Raises:
            InputError: two folders of a name, two fp32 artifacts, artifacts of several models, or a text that cannot be read.
        """
        self.plan, self.options = plan, options
        self.names = tuple(shown(Path(os.path.abspath(path)).name) for path in paths)  # noqa: PTH100 (links keep their name)
        self.artifacts: dict[str, Artifact] = {}
        self.problems: dict[str, str] = {}
        """Why a row can not be measured at all."""
        self.records: dict[tuple[str, str], Measurement] = {}
        """By row and metric; skipped ones among them."""
        self._run = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._tokens: dict[tuple[str, str], TokenSet] = {}
        fed = {_kind(metric) for metric in plan.metrics}
        self._text = load_text(plan.text_path) if fed & {"windows", "sentences"} else None
        self._prompts = load_prompts(plan.prompts_path) if "prompts" in fed else None
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{twice}: two artifacts are in folders of this name, which is their row's; rename one")
        for name, path in zip(self.names, paths, strict=True):
            try:
                require_utf8(path)
                self.artifacts[name] = load_verified(path)
            except QExportError as error:
                self.problems[name] = shown(str(error))
        models = sorted({artifact.manifest.model.name for artifact in self.artifacts.values()})
        if len(models) > 1:
            raise InputError(f"artifacts of several models, {' and '.join(models)}; gate each model by itself")
        self.model = models[0] if models else ""
        exact = [name for name in self.artifacts if self.recipe(name) == "fp32"]
        if len(exact) > 1:
            raise InputError(f"{' and '.join(exact)} are both fp32; give the one that the others are divided by")
        self.fp32 = exact[0] if exact else None

    def require_text(self) -> None:
        """Turn texts into tokens before anything is measured.

        Raises:
            InputError: a text that an artifact cannot be fed.
        """
        first = {_tokenizer_digest(artifact): name for name, artifact in reversed(self.artifacts.items())}
        for name in first.values():
            try:
                _reader(self.artifacts[name])
            except QExportError:
                continue  # what is wrong with an artifact is said of its row, once that is measured
            for metric in self.plan.metrics:
                if _kind(metric):
                    self.tokens(name, metric)

    def recipe(self, name: str) -> str:
        """The recipe of a row; empty where the artifact cannot be read."""
        return self.artifacts[name].manifest.recipe if name in self.artifacts else ""

    def tokens(self, name: str, metric: str) -> TokenSet:
        """All that a metric may be measured on, in the ids of the artifact's own tokenizer.

        Raises:
            InputError: the tokenizer cannot be used, or the text is too short.
        """
        artifact, kind = self.artifacts[name], _kind(metric)
        key = (_tokenizer_digest(artifact), kind)
        if key not in self._tokens:
            self._tokens[key] = self._make_tokens(artifact, kind)
        return self._tokens[key]

    def _make_tokens(self, artifact: Artifact, kind: str) -> TokenSet:
        tokenizer, context, rows = _reader(artifact)
        plan = self.plan
        if kind == "prompts":
            assert self._prompts is not None
            return encode_prompts(self._prompts, tokenizer, new_tokens=plan.new_tokens, context=context, rows=rows)
        assert self._text is not None
        if kind == "windows":
            return make_windows(self._text, tokenizer, window=min(plan.window, context), limit=None, rows=rows)
        return make_sentences(self._text, tokenizer, limit=None, max_tokens=context, rows=rows)

    def feed(self, name: str, metric: str) -> Feed:
        """What a metric of a row is measured on, whole; of a task's what was asked."""
        if metric in LIKELIHOODS:
            tokens = self.tokens(name, metric)
            return Feed(
                text=tokens.origin,
                sequence=tokens.description,
                sha256=tokens.sha256,
                tokens=tuple(len(sequence) - 1 for sequence in tokens.sequences),
            )
        record = self.records[name, metric]
        return Feed(
            text=record.conditions.text,
            sha256=record.conditions.text_sha256,
            plan_sha256=str(record.facts.get("plan_sha256", "")),
        )

    def scored(self, name: str) -> Measurement | None:
        """A record of a row that was scored or asked; None where it was neither."""
        records = (self.records.get((name, metric)) for metric in (*LIKELIHOODS, *ACCURACIES))
        return next((record for record in records if record is not None and record.skipped is None), None)

    def kernel_class(self, name: str) -> str:
        """The class of the kernels that ran a row, see :mod:`qexport.kernels`; empty where nothing ran."""
        record = self.scored(name)
        return "" if record is None else record.conditions.kernel_class

    def ran(self, name: str) -> Ran:
        """What ran when a row was scored or asked; nothing where it was neither."""
        record = self.scored(name)
        if record is None:
            return Ran()
        providers = [fact.removeprefix(NODES_ON) for fact in record.facts if fact.startswith(NODES_ON)]
        return Ran(
            runtime=record.conditions.runtime,
            providers=tuple(sorted(providers)) or (record.conditions.provider,),
            kernels={kind: count for kind in QUANTIZED_KERNELS if (count := int(record.facts.get(f"{kind}_run", 0)))},
        )

    def lengths(self, name: str, metric: str) -> tuple[int, ...]:
        """How many sequences a row is scored on at each look: twice as many each time, up to all of the text."""
        first = self.plan.windows if _kind(metric) == "windows" else self.plan.sentences
        total = len(self.tokens(name, metric).sequences)
        lengths = [min(first or total, total)]
        while self.options.add_windows and lengths[-1] < total:
            lengths.append(min(2 * lengths[-1], total))
        return tuple(lengths)

    def share(self, other: Bench) -> set[str]:
        """Take over the records of another bench on this machine for artifacts with the same bytes; returns their names."""
        both = self.artifacts.keys() & other.artifacts.keys()
        same = {name for name in both if self.artifacts[name].sha256 == other.artifacts[name].sha256}
        self.records |= {key: record for key, record in other.records.items() if key[0] in same}
        return same

    def has_more(self, look: int) -> bool:
        """Whether any row's text goes on at a look."""
        scored = [key for key, record in self.records.items() if key[1] in LIKELIHOODS and record.skipped is None]
        return any(look < len(self.lengths(*key)) for key in scored)

    def take(self, wanted: Mapping[str, Sequence[str]], look: int = 0) -> None:
        """Measure metrics of rows, sequences up to those of a look."""
        rows = {metric: [name for name in names if name in self.artifacts] for metric, names in wanted.items()}
        likelihoods = [(metric, name) for metric in LIKELIHOODS for name in rows.get(metric, ())]
        with progress.task("scoring text", total=len(likelihoods)) as advance:
            for metric, name in likelihoods:
                self._score(metric, name, look)
                advance()
        for metric in SIZES:
            for name in rows.get(metric, ()):
                self._keep([name], [metric], partial(measure.measure, self._job(name, metric)))
        self._ask({metric: names for metric, names in rows.items() if CATALOGUE[metric].task})
        self._time({metric: names for metric, names in rows.items() if metric in SPEEDS})

    def _score(self, metric: str, name: str, look: int) -> None:
        known = self.records.get((name, metric))

        def scored() -> list[Measurement]:
            done = () if known is None else known.samples
            tokens, lengths = self.tokens(name, metric), self.lengths(name, metric)
            part = tokens.sequences[len(done) : lengths[min(look, len(lengths) - 1)]]
            if not part:
                return []
            (record,) = measure.measure(replace(self._job(name, metric), tokens=replace(tokens, sequences=part)))
            # As a baseline holds them: what did not change must come out as 1.
            more = tuple((round(nll, DECIMALS), count) for nll, count in record.samples)
            return [record if record.skipped else record.model_copy(update={"samples": (*done, *more)})]

        self._keep([name], [metric], scored)

    def _ask(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Rows through the tasks that yield the metrics."""
        for task in dict.fromkeys(CATALOGUE[metric].task for metric in wanted):
            metrics = [metric for metric in wanted if CATALOGUE[metric].task == task]
            names = list(dict.fromkeys(name for metric in metrics for name in wanted[metric]))
            try:
                loaded = {task: load_task(task, self.plan.tasks)} if names else {}
            except UnsupportedHere as error:
                self._skip(names, metrics, str(error))
                continue
            for name in names:
                self._keep([name], metrics, partial(self._answers, name, loaded))

    def _answers(self, name: str, tasks: Mapping[str, LoadedTask]) -> list[Measurement]:
        artifact = self.artifacts[name]
        with scratch_folder("gate") as folder:
            respondent = Apart(
                artifact,
                Path(folder) / "answers.jsonl",
                row=name,
                provider=self.options.provider,
                threads=self.options.threads,
            )
            return evaluate(artifact, tasks, self.plan.tasks, respondent, Place(run=self._run, row=name))

    def _time(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Rows in turn, in the same rounds, since they are divided by each other; none that could not be scored."""
        failed = {name for (name, _), record in self.records.items() if record.skipped}
        for probe in dict.fromkeys(_PROBES[metric] for metric in wanted):
            metrics = [metric for metric in wanted if _PROBES[metric] == probe]
            named = dict.fromkeys(name for metric in metrics for name in wanted[metric])
            self._skip(failed & named.keys(), metrics, "was not timed, since it could not be measured otherwise")
            names = [name for name in named if name not in failed]
            self._keep(names, metrics, partial(self._timed, names, metrics[0]))

    def _timed(self, names: Sequence[str], metric: str) -> list[Measurement]:
        jobs = []
        for name in names:
            tokens = self.tokens(name, metric)
            sequences = tokens.sequences[: self.plan.sentences] if tokens.kind == "sentences" else tokens.sequences
            jobs.append(replace(self._job(name, metric), tokens=replace(tokens, sequences=sequences)))
        return [record for records in measure.measure_rounds(jobs, self.plan.rounds) for record in records]

    def _job(self, name: str, metric: str) -> Job:
        return Job(
            artifact=self.artifacts[name].path,
            row=name,
            probe=_PROBES[metric],
            provider=self.options.provider,
            threads=self.options.threads,
            new_tokens=self.plan.new_tokens,
            run=self._run,
        )

    def _keep(self, names: Iterable[str], metrics: Collection[str], work: Callable[[], list[Measurement]]) -> None:
        """Keep what some work yields of the metrics; an error is what all the rows have instead."""
        try:
            records = work()
        except QExportError as error:
            self._skip(names, metrics, str(error))
        else:
            self.records |= {(record.row, record.metric): record for record in records if record.metric in metrics}

    def _skip(self, names: Iterable[str], metrics: Iterable[str], reason: str) -> None:
        for name, metric in itertools.product(names, metrics):
            self.records[name, metric] = Measurement(
                run=self._run, row=name, metric=metric, skipped=reason, **identity(self.artifacts[name])
            )


def _kind(metric: str) -> str:
    """The kind of token set that a metric is measured on; empty where it is none."""
    probe = measure.PROBES.get(_PROBES.get(metric, ""))
    return probe.tokens if isinstance(probe, Probe) else ""


def _reader(artifact: Artifact) -> tuple[PreTrainedTokenizerBase, int, int | None]:
    """An artifact's tokenizer, the positions that it has, and the tokens that it has a row for.

    Raises:
        InputError: one of them cannot be read.
    """
    source = pipeline.source_of(artifact)
    return load_tokenizer(source), source.context_length, table_rows(source)


def _tokenizer_digest(artifact: Artifact) -> str:
    """A digest that artifacts share whose tokenizers are the same: of all files but the weights."""
    files = [info for info in artifact.manifest.files if PurePath(info.path).suffix not in _WEIGHTS]
    return hashlib.sha256("".join(f"{info.path}\0{info.sha256}\n" for info in files).encode()).hexdigest()
