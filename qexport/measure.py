"""One probe of one artifact in a fresh process, so that no measurement sees another's memory, threads or caches.

The parent computes token ids once and hands the same ones to every artifact; the child (``python -m qexport.measure``)
gets its job on stdin, reads the ids from a temporary folder and leaves its answer there, out of the reach of whatever
libraries print.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from qexport import __version__, cpu, cuda, errors, fits, progress, ram, runtime
from qexport.artifact import Artifact, Manifest, load_artifact
from qexport.catalogue import CATALOGUE
from qexport.errors import InputError, NotComparable, QExportError, UnsupportedHere, near_names
from qexport.metrics import Run, Trial, footprint, generation, latency, once, perplexity, session
from qexport.record import Conditions, Measurement, Published
from qexport.runtime import Observe, Provider, ProviderUnavailable, Session, open_session, warm_up
from qexport.torch_runtime import torch_warm_up

if TYPE_CHECKING:
    from qexport.inputs.text import TokenSet

logger = logging.getLogger(__name__)

TIMEOUT_S = 4 * 3600.0
"""After this a child counts as hung. GPT-2 in bitsandbytes on two cores, the slowest row known, takes minutes."""

_PROVIDER_TIMEOUT_S = 120.0
_WARMUPS = 5
_TAIL_BYTES = 4000
_NO_DEVICE = "runs on the CPU, which has no device memory"
_ON_DEVICE = frozenset({"loaded_device_bytes", "peak_device_bytes", "device_context_bytes", "device_increase_bytes"})
"""Metrics without a figure on the CPU."""
_WITHOUT = {
    **dict.fromkeys(_ON_DEVICE, _NO_DEVICE),
    "response_correct": "no answer is expected; name one under [session] in the experiment",
}
"""Why a probe that ran may have no figure of a metric."""
_PACKAGES = {"onnx": ("numpy", "onnxruntime"), "torch": ("numpy", "torch", "transformers")}
"""What running an artifact of each kind takes, and all it may take; quantized ones in torch take bitsandbytes too."""

_ERRORS: dict[str, type[QExportError]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, QExportError)
} | {ProviderUnavailable.__name__: ProviderUnavailable}


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
        metrics=("sentence_perplexity",), tokens="sentences", run=once("sentence_perplexity", perplexity.score)
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
        env=_environment(cpu.cores()),
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROVIDER_TIMEOUT_S,
    )
    if tried.returncode != 0:
        lines = tried.stderr.strip().splitlines() or ["without a word"]
        raise ProviderUnavailable(lines[-1].partition("ProviderUnavailable: ")[2] or lines[-1])


def measure(job: Job) -> list[Measurement]:
    """Run one probe of one artifact, in a fresh process where anything is run: a measurement for each of its metrics.

    What cannot run here, does not fit into memory, loses its device, dies or never answers gives measurements that are
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
        raise InputError(f"{job.probe} of {job.row}: needs a token set of {probe.tokens}")
    if job.provider == "cpu" and set(job.metrics or probe.metrics) <= _ON_DEVICE:
        return _records(job, artifact, probe.metrics, _Answer(), skipped=_NO_DEVICE)
    try:
        fits.require_fit(artifact, job.provider)
        answer = _ask_child(job, artifact, job.tokens)
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
    what = ", ".join(sorted({job.probe for job in jobs}))
    with progress.task(f"measuring {what}", total=rounds * len(jobs)) as advance:
        for number in range(rounds):
            for job, mine in zip(jobs, taken, strict=True):
                mine.append(measure(replace(job, round=number)))
                if number == rounds - 1:
                    done(_merged(mine))
                advance()
    return [_merged(mine) for mine in taken]


def _merged(rounds: Sequence[list[Measurement]]) -> list[Measurement]:
    return [merge_rounds(records) for records in zip(*rounds, strict=True)]


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


def _records(
    job: Job, artifact: Artifact, metrics: Sequence[str], answer: _Answer, *, skipped: str | None = None
) -> list[Measurement]:
    """One measurement for each metric that the probe has; one without a figure is skipped."""
    conditions = answer.conditions if answer.conditions.machine else _here()
    if job.tokens is not None:
        conditions = conditions.model_copy(
            update={
                "batch": len(job.tokens.sequences) if job.probe == "batched generation" else 1,
                "sequence": job.tokens.description,
                "text": job.tokens.origin,
                "text_sha256": job.tokens.sha256,
            }
        )
    manifest = artifact.manifest
    records = []
    for metric in metrics:
        figure = answer.figures.get(metric)
        told = {} if figure is None else figure.model_dump()
        reason = skipped or (_WITHOUT.get(metric, "gave no figure") if figure is None else None)
        records.append(
            Measurement(
                run=job.run,
                row=job.row,
                model=manifest.model.name,
                stand_in=job.stand_in,
                recipe=manifest.recipe,
                selector=manifest.selection.rules if manifest.selection else "",
                engine=manifest.engine,
                artifact_sha256=artifact.sha256,
                settings=manifest.settings,
                metric=metric,
                conditions=conditions,
                published=job.published.get(metric),
                skipped=reason,
                **told,
            )
        )
    return records


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
            probe=job.probe,
            provider=job.provider,
            threads=job.threads or cpu.cores(),
            warmups=job.warmups,
            round=job.round,
            new_tokens=job.new_tokens,
            stop=job.stop,
            sequences=folder / "sequences.npz",
            answer=folder / "answer.json",
        )
        np.savez(question.sequences, *tokens.sequences)
        output = folder / "output"
        code = _run_child(question, output, job.timeout_s)
        if code is None:
            raise UnsupportedHere(f"no answer within {job.timeout_s:.0f} s")
        if not question.answer.is_file():
            logger.debug("%s of %s: the child's output:\n%s", job.probe, job.row, _tail(output))
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
    probe = PROBES[question.probe]
    if not isinstance(probe, Probe):
        raise InputError(f"{question.probe}: nothing of it is run")
    with np.load(question.sequences) as archive:
        sequences = tuple(archive[f"arr_{index}"] for index in range(len(archive.files)))
    device_start_bytes = cuda.used_bytes() if question.provider == "cuda" else None
    versions = _import_runtime(artifact.manifest)
    if artifact.manifest.kind == "onnx":
        warm_up(question.provider)
    else:
        torch_warm_up(artifact.path, question.provider)
    trial = Trial(
        sequences=sequences,
        warmups=question.warmups,
        round=question.round,
        baseline_rss_bytes=ram.rss_bytes(),
        new_tokens=question.new_tokens,
        stop=question.stop,
        folder=artifact.path,
        device_start_bytes=device_start_bytes,
    )
    conditions = _here()

    def opened() -> Session:
        """The session; what it ran under is kept, and the session is not, so that it can be freed."""
        nonlocal conditions
        session = open_session(
            artifact, provider=question.provider, threads=question.threads, observe=probe.observe, replay=probe.replay
        )
        conditions = _here().model_copy(
            update={
                "threads": session.threads,
                "runtime": session.runtime,
                "provider": session.provider,
                "device": session.device,
                "versions": versions,
            }
        )
        return session

    figures = {
        metric: _Figure(columns=samples.columns, samples=samples.rows, warmups=samples.warmups, facts=samples.facts)
        for metric, samples in probe.run(opened, trial).items()
    }
    return _Answer(figures=figures, conditions=conditions)


def _import_runtime(manifest: Manifest) -> dict[str, str]:
    """Import all that an artifact needs, so that the baseline holds it, and tell the versions.

    Raises:
        UnsupportedHere: something is not installed.
    """
    packages = _PACKAGES[manifest.kind]
    if manifest.kind == "torch" and manifest.quantized:
        packages += ("bitsandbytes",)
    versions = {}
    for package in packages:
        try:
            versions[package] = str(importlib.import_module(package).__version__)
        except ImportError as error:
            raise UnsupportedHere(
                f"{package} cannot be imported ({error}); install qexport[cpu] or qexport[gpu]"
            ) from error
    return versions


if __name__ == "__main__":
    main()
