"""The artifacts of a gate side by side, each measured for its budgets on as much text as a verdict needs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from qexport.core import (
    CATALOGUE,
    Artifact,
    InputError,
    Measurement,
    QExportError,
    load_verified_graph,
    progress,
    require_utf8,
    scratch_folder,
    shown,
)
from qexport.gating.baseline import DECIMALS, Ran, StoredFeed
from qexport.gating.budgets import ACCURACIES, DISTANCES, LIKELIHOODS, MEMORY, SIZES, SPEEDS, GatePlan
from qexport.inputs import TokenSet, load_prompts, load_text, source_of
from qexport.measurement import (
    DISTRIBUTIONS,
    Bench,
    BenchRow,
    Feed,
    Job,
    LoadedTask,
    Reader,
    Texts,
    is_timed,
    kind_of_tokens,
    load_tasks,
    probe_of,
    timestamp,
)
from qexport.runtime import NODES_ON, QUANTIZED_KERNELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qexport.core import Provider

_WEIGHTS = frozenset({".onnx", ".data", ".safetensors"})


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """Choices for a whole gate."""

    provider: Provider = "cpu"
    threads: int | None = None
    add_windows: bool = False
    """Go on with more of the text while a verdict is inconclusive."""


class GateBench:
    """The artifacts of one gate, and what was measured of them so far."""

    def __init__(self, paths: Sequence[Path], plan: GatePlan, options: GateOptions) -> None:
        """Read all manifests and hash all files again; a defect of an artifact is kept as a problem of its row.

        Raises:
            InputError: two folders of a name, two fp32 artifacts, artifacts of several models, or a text that cannot be read.
        """
        self.plan, self.options = plan, options
        self.names = tuple(shown(Path(os.path.abspath(path)).name) for path in paths)  # noqa: PTH100 (links keep their name)
        self.artifacts: dict[str, Artifact] = {}
        self.problems: dict[str, str] = {}
        """The reason why a row cannot be measured at all, by row."""
        self.records: dict[tuple[str, str], Measurement] = {}
        """Measurements by row and metric, skipped ones included."""
        self._bench = Bench(run=timestamp(), provider=options.provider, threads=options.threads)
        self._tokens: dict[tuple[str, str], TokenSet] = {}
        fed = {kind_of_tokens(metric) for metric in plan.metrics}
        self._texts = Texts(
            text=load_text(plan.text_path) if fed & {"windows", "sentences"} else None,
            prompts=load_prompts(plan.prompts_path) if "prompts" in fed else None,
            window=plan.window,
            windows=None,
            sentences=None,
            new_tokens=plan.new_tokens,
        )
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{twice}: two artifacts are in folders of this name, which is their row's; rename one")
        for name, path in zip(self.names, paths, strict=True):
            try:
                require_utf8(path)
                self.artifacts[name] = load_verified_graph(path)
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
                Reader.of(source_of(self.artifacts[name]))
            except QExportError:
                continue  # the row itself reports the defect once it is measured
            for metric in self.plan.metrics:
                if kind_of_tokens(metric):
                    self.tokens(name, metric)

    def recipe(self, name: str) -> str:
        """The recipe of a row; empty where the artifact cannot be read."""
        return self.artifacts[name].manifest.recipe if name in self.artifacts else ""

    def tokens(self, name: str, metric: str) -> TokenSet:
        """The tokens that a metric may be measured on, in ids of the artifact's own tokenizer.

        Raises:
            InputError: the tokenizer cannot be used, or the text is too short.
        """
        artifact, kind = self.artifacts[name], kind_of_tokens(metric)
        assert kind is not None, f"{metric} is measured on no tokens"
        key = (_tokenizer_digest(artifact), kind)
        if key not in self._tokens:
            self._tokens[key] = self._texts.feed(kind, Reader.of(source_of(artifact))).tokens
        return self._tokens[key]

    def feed(self, name: str, metric: str) -> StoredFeed:
        """The whole feed of a metric of a row: the text's tokens, or the questions of a task."""
        if metric in LIKELIHOODS:
            tokens = self.tokens(name, metric)
            return StoredFeed(
                text=tokens.origin,
                sequence=tokens.description,
                sha256=tokens.sha256,
                tokens=tuple(len(sequence) - 1 for sequence in tokens.sequences),
            )
        record = self.records[name, metric]
        return StoredFeed(
            text=record.conditions.text,
            sha256=record.conditions.text_sha256,
            plan_sha256=str(record.facts.get("plan_sha256", "")),
        )

    def scored(self, name: str) -> Measurement | None:
        """A record of a row that was scored or asked; None where it was neither."""
        records = (self.records.get((name, metric)) for metric in (*LIKELIHOODS, *ACCURACIES))
        return next((record for record in records if record is not None and record.skipped is None), None)

    def kernel_class(self, name: str) -> str:
        """The class of the kernels that ran a row, see :mod:`qexport.runtime.kernels`; empty where nothing ran."""
        record = self.scored(name)
        return "" if record is None else record.conditions.kernel_class

    def ran(self, name: str) -> Ran:
        """The runtime, providers and kernels that ran a row; empty if the row was neither scored nor asked."""
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
        """The number of sequences that a row is scored on at each look: twice as many each time, up to the whole text."""
        first = self.plan.windows if kind_of_tokens(metric) == "windows" else self.plan.sentences
        total = len(self.tokens(name, metric).sequences)
        lengths = [min(first or total, total)]
        while self.options.add_windows and lengths[-1] < total:
            lengths.append(min(2 * lengths[-1], total))
        return tuple(lengths)

    def share(self, other: GateBench) -> set[str]:
        """Copy the records of another bench for artifacts with the same bytes, and return their names."""
        both = self.artifacts.keys() & other.artifacts.keys()
        same = {name for name in both if self.artifacts[name].sha256 == other.artifacts[name].sha256}
        self.records |= {key: record for key, record in other.records.items() if key[0] in same}
        return same

    def has_more(self, look: int) -> bool:
        """True if any row has more text at a look."""
        scored = [key for key, record in self.records.items() if key[1] in LIKELIHOODS and record.skipped is None]
        return any(look < len(self.lengths(*key)) for key in scored)

    def take(self, wanted: Mapping[str, Sequence[str]], look: int = 0) -> None:
        """Measure metrics of rows, sequences up to those of a look.

        Distances are measured with perplexity, from fp32 if it is among the rows.
        """
        rows = {metric: [name for name in names if name in self.artifacts] for metric, names in wanted.items()}
        likelihoods = [
            (metric, name)
            for metric in LIKELIHOODS
            for name in sorted(rows.get(metric, ()), key=lambda name: name != self.fp32)
        ]
        with (
            scratch_folder("baseline") as folder,
            progress.task("scoring text", total=len(likelihoods)) as advance,
        ):
            for metric, name in likelihoods:
                self._score(metric, name, look, Path(folder) / DISTRIBUTIONS)
                advance()
        for metric in SIZES:
            for name in rows.get(metric, ()):
                self._keep([name], [metric], partial(self._measured, name, metric))
        self._ask({metric: names for metric, names in rows.items() if CATALOGUE[metric].task})
        self._probe({metric: names for metric, names in rows.items() if metric in (*SPEEDS, *MEMORY)})

    def _score(self, metric: str, name: str, look: int, distributions: Path) -> None:
        known = {
            each: self.records[name, each].samples for each in (metric, *DISTANCES) if (name, each) in self.records
        }

        def scored() -> list[Measurement]:
            tokens, lengths = self.tokens(name, metric), self.lengths(name, metric)
            part = tokens.sequences[len(known.get(metric, ())) : lengths[min(look, len(lengths) - 1)]]
            if not part:
                return []
            job = self._job(name, metric, part)
            if metric == "perplexity" and self._is_compared(name, distributions):
                job = replace(
                    job,
                    metrics=(metric, *(each for each in DISTANCES if each in self.plan.metrics)),
                    distributions=distributions,
                    is_baseline=name == self.fp32,
                )
            return [
                record
                if record.skipped
                else record.model_copy(update={"samples": (*known.get(record.metric, ()), *_rounded(record))})
                for record in self._bench.measure(job)
            ]

        self._keep([name], [metric, *DISTANCES], scored)

    def _is_compared(self, name: str, distributions: Path) -> bool:
        """True if a row writes the distributions of fp32, or is compared with them."""
        if name == self.fp32 or self.fp32 is None:
            return name == self.fp32 and not set(DISTANCES).isdisjoint(self.plan.metrics)
        same_tokens = self.tokens(name, "perplexity").sha256 == self.tokens(self.fp32, "perplexity").sha256
        return distributions.is_file() and same_tokens

    def _ask(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Ask rows the tasks that yield the metrics."""
        by_task: dict[str, list[str]] = {}
        for metric, names in wanted.items():
            if names:
                by_task.setdefault(CATALOGUE[metric].task, []).append(metric)
        tasks, away = load_tasks(by_task, self.plan.tasks)
        for task, metrics in by_task.items():
            names = list(dict.fromkeys(name for metric in metrics for name in wanted[metric]))
            if task in away:
                self._skip(names, metrics, away[task])
                continue
            for name in names:
                self._keep([name], metrics, partial(self._answers, name, {task: tasks[task]}))

    def _answers(self, name: str, tasks: Mapping[str, LoadedTask]) -> list[Measurement]:
        with scratch_folder("gate") as folder:
            return self._bench.ask(self._row(name), tasks, self.plan.tasks, Path(folder) / "answers.jsonl")

    def _probe(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Measure the metrics that are divided by fp32 of the same run, rows in turn, without rows that could not be scored."""
        failed = {name for (name, _), record in self.records.items() if record.skipped}
        for probe in dict.fromkeys(probe_of(metric) for metric in wanted):
            metrics = [metric for metric in wanted if probe_of(metric) == probe]
            named = dict.fromkeys(name for metric in metrics for name in wanted[metric])
            self._skip(failed & named.keys(), metrics, "was not timed, since it could not be measured otherwise")
            names = [name for name in named if name not in failed]
            self._keep(names, metrics, partial(self._in_turn, names, metrics[0]))

    def _in_turn(self, names: Sequence[str], metric: str) -> list[Measurement]:
        """The records of the probe that yields a metric, rows in turn."""
        rounds = self.plan.rounds if is_timed(probe_of(metric)) else 1
        return self._bench.probe([self._job(name, metric) for name in names], rounds)

    def _measured(self, name: str, metric: str, part: Sequence[NDArray[np.int64]] | None = None) -> list[Measurement]:
        return self._bench.measure(self._job(name, metric, part))

    def _job(self, name: str, metric: str, part: Sequence[NDArray[np.int64]] | None = None) -> Job:
        """The job that yields a metric of a row on some sequences of the text; None takes the plan's share."""
        feed, kind = None, kind_of_tokens(metric)
        if kind is not None:
            tokens = self.tokens(name, metric)
            most = self.plan.sentences if kind == "sentences" else None
            sequences = tuple(part) if part is not None else tokens.sequences[:most]
            feed = Feed(tokens=replace(tokens, sequences=sequences), new_tokens=self.plan.new_tokens)
        return self._bench.job(self._row(name), probe_of(metric), feed)

    def _row(self, name: str) -> BenchRow:
        return BenchRow(label=name, artifact=self.artifacts[name])

    def _keep(self, names: Iterable[str], metrics: Collection[str], work: Callable[[], list[Measurement]]) -> None:
        """Keep the records of some metrics that a piece of work yields; on an error, all its rows are skipped with the reason."""
        try:
            records = work()
        except QExportError as error:
            self._skip(names, metrics, str(error))
        else:
            self.records |= {(record.row, record.metric): record for record in records if record.metric in metrics}

    def _skip(self, names: Iterable[str], metrics: Iterable[str], reason: str) -> None:
        for name in names:
            for record in self._bench.skip(self._row(name), metrics, reason):
                self.records[name, record.metric] = record


def _rounded(record: Measurement) -> tuple[tuple[float, ...], ...]:
    """The samples; likelihoods are rounded as in a baseline, so that the ratio of an unchanged artifact is exactly 1."""
    if record.metric not in LIKELIHOODS:
        return record.samples
    return tuple((round(nll, DECIMALS), count) for nll, count in record.samples)


def _tokenizer_digest(artifact: Artifact) -> str:
    """A digest of all files but the weights: artifacts with the same tokenizer have the same digest."""
    files = [info for info in artifact.manifest.files if PurePath(info.path).suffix not in _WEIGHTS]
    return hashlib.sha256("".join(f"{info.path}\0{info.sha256}\n" for info in files).encode()).hexdigest()
