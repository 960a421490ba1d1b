"""One probe of one artifact in a fresh process, so that no measurement sees another's memory, threads or caches.

The parent computes token ids once and hands the same ones to every artifact; the child (``python -m qexport.measure``)
gets its job on stdin, reads the ids from a temporary folder and leaves its answer there, out of the reach of whatever
libraries print.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from qexport import child, cpu, cuda, fits, progress, ram, runtime
from qexport.artifact import Artifact, load_artifact
from qexport.catalogue import CATALOGUE
from qexport.conditions import here, identity, import_runtime, of_session
from qexport.errors import InputError, NotComparable, QExportError, UnsupportedHere, near_names
from qexport.load import Meter
from qexport.metrics import Run, Trial, footprint, generation, latency, once, perplexity, session
from qexport.record import OTHERS, Conditions, Measurement, Published
from qexport.runtime import Observe, Provider, ProviderUnavailable, Session, open_session, warm_up
from qexport.scratch import scratch_folder
from qexport.torch_runtime import torch_warm_up

if TYPE_CHECKING:
    from qexport.inputs.text import TokenSet

logger = logging.getLogger(__name__)

TIMEOUT_S = 4 * 3600.0
"""After this a child counts as hung. GPT-2 in bitsandbytes on two cores, the slowest row known, takes minutes."""

_PROVIDER_TIMEOUT_S = 120.0
_WARMUPS = 5
_NO_DEVICE = "runs on the CPU, which has no device memory"
_ON_DEVICE = frozenset({"loaded_device_bytes", "peak_device_bytes", "device_context_bytes", "device_increase_bytes"})
"""Metrics without a figure on the CPU."""
_WITHOUT = {
    **dict.fromkeys(_ON_DEVICE, _NO_DEVICE),
    "response_correct": "no answer is expected; name one under [session] in the experiment",
}
"""Why a probe that ran may have no figure of a metric."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Figures that an artifact has without being run."""

    read: Mapping[str, Callable[[Artifact], int]]
    """By metric, in bytes."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.read)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Figures of an artifact at work that one fresh process yields together."""

    metrics: tuple[str, ...]
    tokens: Literal["windows", "sentences", "prompts"]
    """The kind of token set that it is fed."""
    run: Run
    observe: Observe = "nothing"
    replay: bool = False
    """Whether steps may be replayed as a CUDA graph: nothing but a decoder runs."""
    rounds: bool = False
    """Whether it is timed: in several rounds of fresh processes, the artifacts in turn."""


PROBES: Mapping[str, Stored | Probe] = {
    "files": Stored(read={"disk_bytes": footprint.disk_bytes, "weight_bytes": footprint.weight_bytes}),
    "resident memory": Probe(
        metrics=("loaded_rss_bytes", "peak_rss_bytes", "final_private_bytes", "final_shared_bytes"),
        tokens="sentences",
        run=footprint.resident,
    ),
    "device memory": Probe(
        metrics=("loaded_device_bytes", "peak_device_bytes"),
        tokens="sentences",
        run=footprint.on_device,
        observe="device memory",
    ),
    "sentences": Probe(
        metrics=("latency_s",), tokens="sentences", run=once("latency_s", latency.time_sentences), rounds=True
    ),
    "generation": Probe(
        metrics=("first_token_s", "token_latency_s", "generation_s", "sequential_s", "tokens_per_s"),
        tokens="prompts",
        run=generation.one_by_one,
        replay=True,
        rounds=True,
    ),
    "batched generation": Probe(
        metrics=("batch_s", "batch_tokens_per_s"), tokens="prompts", run=generation.as_batch, replay=True, rounds=True
    ),
    "perplexity": Probe(
        metrics=("perplexity",), tokens="windows", run=once("perplexity", perplexity.score), observe="kernels"
    ),
    "sentence perplexity": Probe(
        metrics=("sentence_perplexity",),
        tokens="sentences",
        run=once("sentence_perplexity", perplexity.score),
        observe="kernels",
    ),
    "session": Probe(
        metrics=tuple(metric.name for metric in CATALOGUE.values() if metric.group == "session"),
        tokens="prompts",
        run=session.profile,
        observe="warnings",
        rounds=True,
    ),
}
"""What is measured together, in the order in which it is."""


@dataclass(frozen=True, kw_only=True)
class AnswerKey:
    """How the answer of a session is read and judged."""

    read: Callable[[Sequence[int]], str]
    """From token ids to text."""
    prompt: str
    expected: tuple[str, ...] = ()
    """Any of these is right; empty where nobody judges."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One probe of one artifact."""

    artifact: Path
    row: str
    probe: str
    """A key of :data:`PROBES`."""
    metrics: tuple[str, ...] = ()
    """Those that are asked for; empty for all that the probe has."""
    tokens: TokenSet | None = None
    """What it is fed; None for figures without a run."""
    provider: Provider = "cpu"
    threads: int | None = None
    """Threads for the runtime; None takes every processor this process may use."""
    warmups: int = _WARMUPS
    round: int = 0
    repeats: int = 1
    """Passes over all sequences in a round; the quickest of each sequence counts."""
    new_tokens: int = 0
    """To generate after each prompt; in a session at most so many."""
    stop: tuple[int, ...] = ()
    """Tokens that end the answer of a session."""
    key: AnswerKey | None = None
    published: Mapping[str, Published] = field(default_factory=dict)
    """By metric."""
    run: str = ""
    stand_in: bool = False
    timeout_s: float = TIMEOUT_S


class _Question(BaseModel):
    """A job as the child gets it; the token ids lie beside the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Path
    probe: str
    provider: Provider
    threads: int
    warmups: int
    round: int
    repeats: int = 1
    new_tokens: int
    stop: tuple[int, ...]
    sequences: Path
    answer: Path


class _Figure(BaseModel):
    """Samples of one metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]
    samples: tuple[tuple[float, ...], ...]
    warmups: tuple[tuple[float, ...], ...] = ()
    facts: dict[str, float | int | str] = {}


class _Answer(BaseModel):
    """What the child leaves: samples and the conditions that only it knows, or the error it stopped with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    figures: dict[str, _Figure] = {}
    """By metric."""
    conditions: Conditions = Conditions()
    error: str | None = None
    """Name of an error class of qexport."""
    message: str = ""


Ask = Callable[[Job, Artifact, "TokenSet"], _Answer]
"""Runs a job; raises UnsupportedHere where that cannot be done here."""


def require_provider(provider: Provider) -> None:
    """Make sure, before any work, that a fresh process can run something on ``provider``.

    Raises:
        ProviderUnavailable: it cannot, with the reason.
    """
    runtime.require_provider(provider)
    if provider == "cpu":
        return
    code = f"from qexport.runtime import warm_up; warm_up({provider!r})"
    tried = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=child.environment(cpu.cores()),
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROVIDER_TIMEOUT_S,
    )
    if tried.returncode != 0:
        last = (tried.stderr.strip().splitlines() or ["without a word"])[-1]
        reason = last.partition("ProviderUnavailable: ")[2] or f"--provider {provider}: {last}; use --provider cpu"
        raise ProviderUnavailable(reason)


def measure(job: Job, ask: Ask | None = None) -> list[Measurement]:
    """Run one probe of one artifact, in a fresh process where anything is run: a measurement for each of its metrics.

    ``ask`` runs it in another way. What cannot run here, does not fit into memory, loses its device, dies or never answers gives measurements that are
    ``skipped`` with the reason.

    Raises:
        InputError: no such probe, or a job without the tokens that it needs.
        QExportError: what else the child raised, with its class and message.
    """
    probe = PROBES.get(job.probe)
    if probe is None:
        raise InputError(f"{job.probe}: no such probe; {near_names(job.probe, PROBES)}")
    artifact = load_artifact(job.artifact)
    if isinstance(probe, Stored):
        figures = {
            metric: _Figure(columns=(metric,), samples=((float(read(artifact)),),))
            for metric, read in probe.read.items()
        }
        return _records(job, artifact, probe.metrics, _Answer(figures=figures))
    if job.tokens is None or job.tokens.kind != probe.tokens:
        raise InputError(f"{job.probe} of {job.row}: needs a token set of {probe.tokens}; give one")
    if job.provider == "cpu" and set(job.metrics or probe.metrics) <= _ON_DEVICE:
        return _records(job, artifact, probe.metrics, _Answer(), skipped=_NO_DEVICE)
    try:
        fits.require_fit(artifact, job.provider)
        answer = (ask or _ask_child)(job, artifact, job.tokens)
    except child.Killed as error:
        return _records(job, artifact, probe.metrics, _Answer(), skipped=str(fits.killed(artifact, str(error))))
    except UnsupportedHere as error:
        return _records(job, artifact, probe.metrics, _Answer(), skipped=str(error))
    return _records(job, artifact, probe.metrics, _judged(answer, job.key))


def _judged(answer: _Answer, key: AnswerKey | None) -> _Answer:
    """An answer with the words of a session's response, and whether they are right."""
    told = answer.figures.get("response_tokens")
    if told is None or key is None:
        return answer
    ids = [int(token) for token in str(told.facts["response_ids"]).split()]
    words = {"prompt": key.prompt, "response": key.read(ids).strip(), "ended": told.facts["ended"]}
    figures = answer.figures | {"response_tokens": told.model_copy(update={"facts": words})}
    if key.expected:
        right = any(holds_words(str(words["response"]), expected) for expected in key.expected)
        ((_, number),) = told.samples
        figures["response_correct"] = _Figure(
            columns=("response_correct", "round"),
            samples=((float(right), number),),
            facts=words | {"expected": " | ".join(key.expected)},
        )
    return answer.model_copy(update={"figures": figures})


def holds_words(text: str, expected: str) -> bool:
    """Whether ``expected`` stands in ``text`` as whole words, whatever the case and the white space.

    >>> holds_words("It is Three.", "three"), holds_words("Threefold", "three")
    (True, False)
    """
    pattern = r"\s+".join(re.escape(word) for word in expected.split())
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) is not None


def measure_rounds(
    jobs: Sequence[Job], rounds: int, done: Callable[[list[Measurement]], None] = lambda _: None
) -> list[list[Measurement]]:
    """Run every job ``rounds`` times in turn (A B C A B C), and merge each job's rounds into one measurement a metric.

    Taking turns lets the machine's drift fall on all jobs alike; each turn is a fresh process. ``done`` is told the
    measurements of a job as soon as its last round is.
    """
    taken: list[list[list[Measurement]]] = [[] for _ in jobs]
    merged: list[list[Measurement]] = []
    what = ", ".join(sorted({job.probe for job in jobs}))
    meter = Meter()
    with progress.task(f"measuring {what}", total=rounds * len(jobs)) as advance:
        for number in range(rounds):
            for job, mine in zip(jobs, taken, strict=True):
                mine.append(measure(replace(job, round=number)))
                if number == rounds - 1:
                    records = [merge_rounds(records) for records in zip(*mine, strict=True)]
                    merged.append(with_load(records, meter.share_of_others()) if _is_timed(job.probe) else records)
                    done(merged[-1])
                advance()
    return merged


def _is_timed(name: str) -> bool:
    probe = PROBES[name]
    return isinstance(probe, Probe) and probe.rounds


def with_load(records: Sequence[Measurement], others: float) -> list[Measurement]:
    """Timed records with the part of the machine that other processes took meanwhile among their facts."""
    return [
        record if record.skipped else record.model_copy(update={"facts": record.facts | {OTHERS: round(others, 4)}})
        for record in records
    ]


def merge_rounds(records: Sequence[Measurement]) -> Measurement:
    """One measurement with the samples of all rounds in order; one skipped round skips the whole.

    Raises:
        NotComparable: the records differ in anything but samples and facts.
    """
    first = records[0]
    for record in records:
        if record.skipped is not None:
            return record
        same = {"samples": first.samples, "warmups": first.warmups, "facts": first.facts}
        if record.model_copy(update=same) != first:
            raise NotComparable(
                f"{first.row}, {first.metric}: rounds under unlike conditions are not one measurement; measure again"
            )
    return first.model_copy(
        update={
            "samples": tuple(row for record in records for row in record.samples),
            "warmups": tuple(row for record in records for row in record.warmups),
        }
    )


def _records(
    job: Job, artifact: Artifact, metrics: Sequence[str], answer: _Answer, *, skipped: str | None = None
) -> list[Measurement]:
    """One measurement for each metric that the probe has; one without a figure is skipped."""
    conditions = answer.conditions if answer.conditions.machine else here()
    if job.tokens is not None:
        conditions = conditions.model_copy(
            update={
                "batch": len(job.tokens.sequences) if job.probe == "batched generation" else 1,
                "sequence": job.tokens.description,
                "text": job.tokens.origin,
                "text_sha256": job.tokens.sha256,
            }
        )
    records = []
    for metric in metrics:
        figure = answer.figures.get(metric)
        told = {} if figure is None else figure.model_dump()
        reason = skipped or (_WITHOUT.get(metric, "gave no figure") if figure is None else None)
        records.append(
            Measurement(
                run=job.run,
                row=job.row,
                stand_in=job.stand_in,
                metric=metric,
                conditions=conditions,
                published=job.published.get(metric),
                skipped=reason,
                **identity(artifact),
                **told,
            )
        )
    return records


def question_of(job: Job, artifact: Artifact, tokens: TokenSet, folder: Path) -> _Question:
    """A job in the form a child gets it, with its token ids in ``folder``."""
    question = _Question(
        artifact=artifact.path.resolve(),
        probe=job.probe,
        provider=job.provider,
        threads=job.threads or cpu.cores(),
        warmups=job.warmups,
        round=job.round,
        repeats=job.repeats,
        new_tokens=job.new_tokens,
        stop=job.stop,
        sequences=folder / "sequences.npz",
        answer=folder / "answer.json",
    )
    np.savez(question.sequences, *tokens.sequences)
    return question


def _ask_child(job: Job, artifact: Artifact, tokens: TokenSet) -> _Answer:
    """Run a job in a process of its own.

    Raises:
        UnsupportedHere: the process died, or gave no answer in time.
        QExportError: the error that the child stopped with.
    """
    with scratch_folder("measure") as name:
        folder = Path(name)
        question = question_of(job, artifact, tokens, folder)
        output = folder / "output"
        code = child.run_child(
            "qexport.measure", question.model_dump_json(), output, threads=question.threads, timeout_s=job.timeout_s
        )
        if code is None or not question.answer.is_file():
            raise child.no_answer(f"{job.probe} of {job.row}", code, output, job.timeout_s)
        return read_answer(question.answer.read_text())


def read_answer(text: str) -> _Answer:
    """Read the answer that a child left.

    Raises:
        QExportError: the error that it stopped with.
    """
    answer = _Answer.model_validate_json(text)
    if answer.error is not None:
        raise child.raised(answer.error, answer.message)
    return answer


def failed(error: QExportError) -> _Answer:
    """The answer of a child that an error stopped."""
    return _Answer(error=type(error).__name__, message=str(error))


def main() -> None:
    """The child: read a question from stdin, leave the answer in its file."""
    question = _Question.model_validate_json(child.read_question())
    try:
        answer = _answer(question)
    except QExportError as error:
        answer = failed(error)
    beside = question.answer.with_suffix(".part")
    beside.write_text(answer.model_dump_json())
    beside.replace(question.answer)


def keep_answering() -> None:
    """The child of :mod:`qexport.worker`: questions about one artifact, until no more come."""
    subject: Subject | None = None

    def answer(line: bytes) -> str:
        nonlocal subject
        question = _Question.model_validate_json(line)
        try:
            subject = subject or Subject(question.artifact, question.provider)
            found = subject.answer(question, keep=True)
        except QExportError as error:
            found = failed(error)
        return found.model_dump_json()

    child.converse(answer)


def _answer(question: _Question) -> _Answer:
    return Subject(question.artifact, question.provider).answer(question)


class Subject:
    """An artifact in this process: its runtime is imported and warm, so that the memory added later is the artifact's."""

    def __init__(self, artifact: Path, provider: Provider) -> None:
        """Import the runtime.

        Raises:
            UnsupportedHere: it is not installed, or the provider is not there.
        """
        self._artifact, self._provider = load_artifact(artifact), provider
        self._device_start_bytes = cuda.used_bytes() if provider == "cuda" else None
        self._versions = import_runtime(self._artifact.manifest)
        if self._artifact.manifest.kind == "onnx":
            warm_up(provider)
        else:
            torch_warm_up(artifact, provider)
        self._baseline_rss_bytes = ram.rss_bytes()
        self._kept: tuple[tuple[int, Observe], Session] | None = None

    def answer(self, question: _Question, *, keep: bool = False) -> _Answer:
        """Run one probe.

        Args:
            question: of this artifact and provider.
            keep: leave the session open for the next question that asks for the same one.

        Raises:
            QExportError: see the errors of the probe.
        """
        probe = PROBES[question.probe]
        if not isinstance(probe, Probe):
            raise InputError(f"{question.probe}: reads files and runs nothing; ask another probe")
        with np.load(question.sequences) as archive:
            sequences = tuple(archive[f"arr_{index}"] for index in range(len(archive.files)))
        trial = Trial(
            sequences=sequences,
            warmups=question.warmups,
            round=question.round,
            repeats=question.repeats,
            baseline_rss_bytes=self._baseline_rss_bytes,
            new_tokens=question.new_tokens,
            stop=question.stop,
            folder=self._artifact.path,
            device_start_bytes=self._device_start_bytes,
        )
        conditions = here()

        def opened() -> Session:
            """The session; it is not held here where nobody keeps it, so that the probe can free it."""
            nonlocal conditions
            session = self._session(question, probe, keep=keep)
            conditions = of_session(session, self._versions)
            return session

        figures = {
            metric: _Figure(columns=samples.columns, samples=samples.rows, warmups=samples.warmups, facts=samples.facts)
            for metric, samples in probe.run(opened, trial).items()
        }
        return _Answer(figures=figures, conditions=conditions)

    def _session(self, question: _Question, probe: Probe, *, keep: bool) -> Session:
        wanted = (question.threads, probe.observe)
        if self._kept is not None and self._kept[0] == wanted:
            return self._kept[1]
        self._kept = None  # two at once would take the memory of two
        session = open_session(
            self._artifact,
            provider=self._provider,
            threads=question.threads,
            observe=probe.observe,
            replay=probe.replay,
        )
        if keep:
            self._kept = (wanted, session)
        return session


if __name__ == "__main__":
    main()
