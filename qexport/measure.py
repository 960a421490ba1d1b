"""One metric of one artifact in a fresh process, so that no measurement sees another's memory, threads or caches.

The parent computes token ids once and hands the same ones to every artifact; the child (``python -m qexport.measure``)
gets its job on stdin, reads the ids from a temporary folder and leaves its answer there, out of the reach of whatever
libraries print.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from qexport import __version__, cpu, errors, progress
from qexport.artifact import Artifact, load_artifact
from qexport.errors import InputError, NotComparable, QExportError, UnsupportedHere, near_names
from qexport.metrics import Samples, Trial, footprint, latency, perplexity
from qexport.record import Conditions, Measurement, Published
from qexport.runtime import Observe, Provider, ProviderUnavailable, Session, open_session, warm_up

if TYPE_CHECKING:
    from qexport.inputs.text import TokenSet

logger = logging.getLogger(__name__)

TIMEOUT_S = 4 * 3600.0
"""After this a child counts as hung. GPT-2 in bitsandbytes on two cores, the slowest row known, takes minutes."""

_WARMUPS = 5
_TAIL_BYTES = 4000
_PACKAGES = {"onnx": ("numpy", "onnxruntime"), "torch": ("numpy", "torch", "transformers", "bitsandbytes")}
"""What running an artifact of each kind takes, and all it may take."""

_ERRORS: dict[str, type[QExportError]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, QExportError)
} | {ProviderUnavailable.__name__: ProviderUnavailable}


@dataclass(frozen=True, kw_only=True)
class StoredMetric:
    """A figure that the artifact has without being run."""

    unit: str
    read: Callable[[Artifact], int]


@dataclass(frozen=True, kw_only=True)
class RunMetric:
    """A metric of an artifact at work."""

    unit: str
    tokens: Literal["windows", "sentences"]
    """The kind of token set that it is fed."""
    run: Callable[[Session, Trial], Samples]
    observe: Observe = "nothing"
    needs_device: bool = False
    """Whether there is nothing to measure on the CPU."""


METRICS: dict[str, StoredMetric | RunMetric] = {
    "disk_bytes": StoredMetric(unit="bytes", read=footprint.disk_bytes),
    "weight_bytes": StoredMetric(unit="bytes", read=footprint.weight_bytes),
    "loaded_rss_bytes": RunMetric(unit="bytes", tokens="sentences", run=footprint.loaded_rss),
    "peak_rss_bytes": RunMetric(unit="bytes", tokens="sentences", run=footprint.peak_rss),
    "peak_device_bytes": RunMetric(
        unit="bytes", tokens="sentences", run=footprint.peak_device, observe="device memory", needs_device=True
    ),
    "latency_s": RunMetric(unit="s", tokens="sentences", run=latency.time_sentences),
    "perplexity": RunMetric(unit="", tokens="windows", run=perplexity.score, observe="kernels"),
    "sentence_perplexity": RunMetric(unit="", tokens="sentences", run=perplexity.score),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell of the table."""

    artifact: Path
    row: str
    metric: str
    """A key of :data:`METRICS`."""
    tokens: TokenSet | None = None
    """The windows or sentences; None for metrics that are fed nothing."""
    provider: Provider = "cpu"
    threads: int | None = None
    """Threads for the runtime; None takes every processor this process may use."""
    warmups: int = _WARMUPS
    round: int = 0
    published: Published | None = None
    timeout_s: float = TIMEOUT_S


class _Question(BaseModel):
    """A job as the child gets it; the token ids lie beside the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Path
    metric: str
    provider: Provider
    threads: int
    warmups: int
    round: int
    sequences: Path
    answer: Path


class _Answer(BaseModel):
    """What the child leaves: samples and the conditions that only it knows, or the error it stopped with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] = ()
    samples: tuple[tuple[float, ...], ...] = ()
    warmups: tuple[tuple[float, ...], ...] = ()
    facts: dict[str, float | int | str] = {}
    conditions: Conditions = Conditions()
    error: str | None = None
    """Name of an error class of qexport."""
    message: str = ""


def measure(job: Job) -> Measurement:
    """Measure one metric of one artifact, in a fresh process where anything is run.

    A row that cannot run here, a process that dies and one that never answers give a measurement that is ``skipped``
    with the reason.

    Raises:
        ProviderUnavailable: the provider asked for is not there.
        InputError: no such metric, or a job without the tokens that its metric needs.
        QExportError: what else the child raised, with its class and message.
    """
    metric = METRICS.get(job.metric)
    if metric is None:
        raise InputError(f"{job.metric}: no such metric; {near_names(job.metric, METRICS)}")
    artifact = load_artifact(job.artifact)
    if isinstance(metric, StoredMetric):
        return _record(job, artifact, _Answer(samples=((float(metric.read(artifact)),),), columns=(job.metric,)))
    if job.tokens is None or job.tokens.kind != metric.tokens:
        raise InputError(f"{job.metric} of {job.row}: needs a token set of {metric.tokens}")
    if metric.needs_device and job.provider == "cpu":
        return _record(job, artifact, _Answer(), skipped="runs on the CPU, which has no device memory")
    try:
        return _record(job, artifact, _ask_child(job, artifact, job.tokens))
    except ProviderUnavailable:
        raise
    except UnsupportedHere as error:
        return _record(job, artifact, _Answer(), skipped=str(error))


def measure_rounds(jobs: Sequence[Job], rounds: int) -> list[Measurement]:
    """Measure every job ``rounds`` times in turn (A B C A B C), and merge each job's rounds into one measurement.

    Taking turns lets the machine's drift fall on all jobs alike; each turn is a fresh process.
    """
    taken: list[list[Measurement]] = [[] for _ in jobs]
    what = ", ".join(sorted({job.metric for job in jobs}))
    with progress.task(f"measuring {what}", total=rounds * len(jobs)) as advance:
        for number in range(rounds):
            for job, mine in zip(jobs, taken, strict=True):
                mine.append(measure(replace(job, round=number)))
                advance()
    return [merge_rounds(mine) for mine in taken]


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
            raise NotComparable(f"{first.row}, {first.metric}: rounds under unlike conditions are not one measurement")
    return first.model_copy(
        update={
            "samples": tuple(row for record in records for row in record.samples),
            "warmups": tuple(row for record in records for row in record.warmups),
        }
    )


def _record(job: Job, artifact: Artifact, answer: _Answer, *, skipped: str | None = None) -> Measurement:
    manifest = artifact.manifest
    conditions = answer.conditions if answer.conditions.machine else _here()
    if job.tokens is not None:
        conditions = conditions.model_copy(
            update={
                "sequence": job.tokens.description,
                "text": job.tokens.origin,
                "text_sha256": job.tokens.sha256,
            }
        )
    return Measurement(
        row=job.row,
        model=manifest.model.name,
        recipe=manifest.recipe,
        selector=manifest.selection.rules if manifest.selection else "",
        engine=manifest.engine,
        artifact_sha256=artifact.sha256,
        settings=manifest.settings,
        metric=job.metric,
        columns=answer.columns,
        samples=answer.samples,
        warmups=answer.warmups,
        facts=answer.facts,
        conditions=conditions,
        published=job.published,
        skipped=skipped,
    )


def _here() -> Conditions:
    """The conditions that hold for every process on this machine."""
    return Conditions(machine=cpu.cpu_name(), isa=cpu.isa(), cores=cpu.cores(), commit=__version__)


def _ask_child(job: Job, artifact: Artifact, tokens: TokenSet) -> _Answer:
    """Run a job in a process of its own.

    Raises:
        UnsupportedHere: the process died, or gave no answer in time.
        QExportError: the error that the child stopped with.
    """
    with tempfile.TemporaryDirectory(prefix="qexport-measure-") as name:
        folder = Path(name)
        question = _Question(
            artifact=artifact.path.resolve(),
            metric=job.metric,
            provider=job.provider,
            threads=job.threads or cpu.cores(),
            warmups=job.warmups,
            round=job.round,
            sequences=folder / "sequences.npz",
            answer=folder / "answer.json",
        )
        np.savez(question.sequences, *tokens.sequences)
        output = folder / "output"
        code = _run_child(question, output, job.timeout_s)
        if code is None:
            raise UnsupportedHere(f"no answer within {job.timeout_s:.0f} s")
        if not question.answer.is_file():
            logger.debug("%s of %s: the child's output:\n%s", job.metric, job.row, _tail(output))
            raise UnsupportedHere(_cause_of_death(code, output))
        answer = _Answer.model_validate_json(question.answer.read_text())
    if answer.error is not None:
        raise _ERRORS.get(answer.error, QExportError)(answer.message)
    return answer


def _run_child(question: _Question, output: Path, timeout_s: float) -> int | None:
    """Exit status of a child with this question, negative for a signal; None if it had to be stopped for the time."""
    with output.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "qexport.measure"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(question.threads),
        )
        try:
            assert child.stdin is not None  # a pipe was asked for
            try:
                # The pipe stays open: its end tells the child that this process is gone.
                child.stdin.write(question.model_dump_json().encode() + b"\n")
                child.stdin.flush()
            except BrokenPipeError:
                logger.debug("the child ended before it was asked")
            return child.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:  # Ctrl-C included
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()


def _environment(threads: int) -> dict[str, str]:
    return os.environ | {
        # The parent's search path in its order, so that the child imports the same qexport; -P leaves out the
        # working folder, where a user may keep an `onnx` of their own.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        # bitsandbytes' own OpenMP does not hear torch.set_num_threads.
        "OMP_NUM_THREADS": str(threads),
        # A measurement never waits for a network; bitsandbytes would look for a kernel on the hub.
        "HF_HUB_OFFLINE": "1",
    }


def _cause_of_death(code: int, output: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by signal {-code} ({name})" + (", most likely out of memory" if name == "SIGKILL" else "")
    lines = [line for line in _tail(output).splitlines() if line.strip()]
    return f"ended with exit code {code}: {lines[-1].strip() if lines else 'without a word'}"


def _tail(output: Path) -> str:
    with output.open("rb") as handle:
        handle.seek(max(0, output.stat().st_size - _TAIL_BYTES))
        return handle.read().decode(errors="replace")


def main() -> None:
    """The child: read a question from stdin, leave the answer in its file."""
    question = _Question.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = _answer(question)
    except QExportError as error:
        answer = _Answer(error=type(error).__name__, message=str(error))
    beside = question.answer.with_suffix(".part")
    beside.write_text(answer.model_dump_json())
    beside.replace(question.answer)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _answer(question: _Question) -> _Answer:
    artifact = load_artifact(question.artifact)
    metric = METRICS[question.metric]
    if not isinstance(metric, RunMetric):
        raise InputError(f"{question.metric}: not a metric of a running artifact")
    with np.load(question.sequences) as archive:
        sequences = tuple(archive[f"arr_{index}"] for index in range(len(archive.files)))
    versions = _import_runtime(artifact.manifest.kind)
    if artifact.manifest.kind == "onnx":
        warm_up()
    baseline_rss_bytes = footprint.rss_bytes()
    session = open_session(artifact, provider=question.provider, threads=question.threads, observe=metric.observe)
    trial = Trial(
        sequences=sequences,
        warmups=question.warmups,
        round=question.round,
        baseline_rss_bytes=baseline_rss_bytes,
    )
    samples = metric.run(session, trial)
    conditions = _here().model_copy(
        update={
            "threads": session.threads,
            "runtime": session.runtime,
            "provider": session.provider,
            "device": session.device,
            "versions": versions,
        }
    )
    return _Answer(
        columns=samples.columns,
        samples=samples.rows,
        warmups=samples.warmups,
        facts=samples.facts | session.facts(),
        conditions=conditions,
    )


def _import_runtime(kind: Literal["onnx", "torch"]) -> dict[str, str]:
    """Import all that an artifact of this kind needs, so that the baseline holds it, and tell the versions.

    Raises:
        UnsupportedHere: something is not installed.
    """
    versions = {}
    for package in _PACKAGES[kind]:
        try:
            versions[package] = str(importlib.import_module(package).__version__)
        except ImportError as error:
            raise UnsupportedHere(
                f"{package} cannot be imported ({error}); install qexport[cpu] or qexport[gpu]"
            ) from error
    return versions


if __name__ == "__main__":
    main()
