"""One probe of one artifact in a fresh process, so that measurements do not share memory, threads or caches.

The parent computes token ids once and gives the same ids to every artifact. The child
(``python -m qexport.measurement.subject``) gets its job on stdin, reads the ids from a temporary folder and writes its
answer there, so that output of libraries cannot mix with it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qexport import runtime
from qexport.core import (
    DISTANCES,
    OTHERS,
    Artifact,
    InputError,
    Measurement,
    NotComparable,
    Provider,
    UnsupportedHere,
    cpu,
    load_artifact,
    near_names,
    progress,
    scratch_folder,
)
from qexport.measurement import child, memory
from qexport.measurement.conditions import here, identity
from qexport.measurement.cpu_load import Meter
from qexport.measurement.job import Answer, AnswerKey, Ask, Figure, Job, Question
from qexport.measurement.probes import NO_DEVICE, ON_DEVICE, PROBES, WITHOUT_FIGURE, Stored, is_timed
from qexport.runtime import ProviderUnavailable

if TYPE_CHECKING:
    from qexport.inputs import TokenSet

_PROVIDER_TIMEOUT_S = 120.0


def require_provider(provider: Provider) -> None:
    """Make sure, before any work, that a fresh process can run an operator on ``provider``.

    Raises:
        ProviderUnavailable: it cannot, with the reason.
    """
    runtime.require_provider(provider)
    if provider == "cpu":
        return
    code = f"from qexport.runtime.onnx_session import warm_up; warm_up({provider!r})"
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
    """Run one probe of one artifact, in a fresh process if the artifact must run: one measurement for each metric.

    ``ask`` replaces the fresh process. Measurements are ``skipped`` with the reason if the artifact cannot run here,
    does not fit into memory or loses its device, or if the child dies or never answers.

    Raises:
        InputError: the probe does not exist, or the job lacks the tokens that it needs.
        QExportError: any other error of the child, with its class and message.
    """
    probe = PROBES.get(job.probe)
    if probe is None:
        raise InputError(f"{job.probe}: no such probe; {near_names(job.probe, PROBES)}")
    artifact = load_artifact(job.artifact)
    if isinstance(probe, Stored):
        figures = {
            metric: Figure(columns=(metric,), samples=((float(read(artifact)),),))
            for metric, read in probe.read.items()
        }
        return _records(job, artifact, probe.metrics, Answer(figures=figures))
    if job.tokens is None or job.tokens.kind != probe.tokens:
        raise InputError(f"{job.probe} of {job.row}: needs a token set of {probe.tokens}; give one")
    if job.provider == "cpu" and set(job.metrics or probe.metrics) <= ON_DEVICE:
        return _records(job, artifact, probe.metrics, Answer(), skipped=NO_DEVICE)
    try:
        memory.require_fit(artifact, job.provider)
        answer = (ask or _ask_child)(job, artifact, job.tokens)
    except child.Killed as error:
        return _records(job, artifact, probe.metrics, Answer(), skipped=str(memory.killed(artifact, str(error))))
    except UnsupportedHere as error:
        return _records(job, artifact, probe.metrics, Answer(), skipped=str(error))
    return _records(job, artifact, probe.metrics, _judged(answer, job.key))


def _judged(answer: Answer, key: AnswerKey | None) -> Answer:
    """An answer with the words of a session's response, and their correctness."""
    answered = answer.figures.get("response_tokens")
    if answered is None or key is None:
        return answer
    ids = [int(token) for token in str(answered.facts["response_ids"]).split()]
    words = {"prompt": key.prompt, "response": key.read(ids).strip(), "ended": answered.facts["ended"]}
    figures = answer.figures | {"response_tokens": answered.model_copy(update={"facts": words})}
    if key.expected:
        right = any(holds_words(str(words["response"]), expected) for expected in key.expected)
        ((_, number),) = answered.samples
        figures["response_correct"] = Figure(
            columns=("response_correct", "round"),
            samples=((float(right), number),),
            facts=words | {"expected": " | ".join(key.expected)},
        )
    return answer.model_copy(update={"figures": figures})


def holds_words(text: str, expected: str) -> bool:
    """True if ``expected`` is in ``text`` as whole words, in any case and with any white space.

    >>> holds_words("It is Three.", "three"), holds_words("Threefold", "three")
    (True, False)
    """
    pattern = r"\s+".join(re.escape(word) for word in expected.split())
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) is not None


def measure_rounds(
    jobs: Sequence[Job], rounds: int, done: Callable[[list[Measurement]], None] = lambda _: None
) -> list[list[Measurement]]:
    """Run every job ``rounds`` times in turn (A B C A B C), and merge each job's rounds into one measurement a metric.

    Jobs take turns so that the machine's drift affects all alike; each turn is a fresh process. ``done`` gets the
    measurements of a job as soon as its last round is complete.
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
                    merged.append(with_load(records, meter.share_of_others()) if is_timed(job.probe) else records)
                    done(merged[-1])
                advance()
    return merged


def with_load(records: Sequence[Measurement], others: float) -> list[Measurement]:
    """Timed records; the share of the machine that other processes used is among their facts."""
    return [
        record if record.skipped else record.model_copy(update={"facts": record.facts | {OTHERS: round(others, 4)}})
        for record in records
    ]


def merge_rounds(records: Sequence[Measurement]) -> Measurement:
    """One measurement with the samples of all rounds in order. One skipped round skips all.

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
    job: Job, artifact: Artifact, metrics: Sequence[str], answer: Answer, *, skipped: str | None = None
) -> list[Measurement]:
    """One measurement for each metric of the probe; a metric without a figure is skipped."""
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
    for metric in (metric for metric in metrics if metric not in DISTANCES or metric in job.metrics):
        figure = answer.figures.get(metric)
        told = {} if figure is None else figure.model_dump()
        reason = skipped or (WITHOUT_FIGURE.get(metric, "gave no figure") if figure is None else None)
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


def question_of(job: Job, artifact: Artifact, tokens: TokenSet, folder: Path) -> Question:
    """The question for a child; the token ids are saved in ``folder``."""
    question = Question(
        artifact=artifact.path.resolve(),
        probe=job.probe,
        provider=job.provider,
        threads=job.threads or cpu.cores(),
        warmups=job.warmups,
        round=job.round,
        repeats=job.repeats,
        new_tokens=job.new_tokens,
        stop=job.stop,
        metrics=job.metrics,
        distributions=job.distributions,
        is_baseline=job.is_baseline,
        sequences=folder / "sequences.npz",
        answer=folder / "answer.json",
    )
    np.savez(question.sequences, *tokens.sequences)
    return question


def _ask_child(job: Job, artifact: Artifact, tokens: TokenSet) -> Answer:
    """Run a job in a fresh process.

    Raises:
        UnsupportedHere: the process died, or gave no answer in time.
        QExportError: the error that stopped the child.
    """
    with scratch_folder("measure") as name:
        folder = Path(name)
        question = question_of(job, artifact, tokens, folder)
        output = folder / "output"
        code = child.run_child(
            "qexport.measurement.subject",
            question.model_dump_json(),
            output,
            threads=question.threads,
            timeout_s=job.timeout_s,
        )
        if code is None or not question.answer.is_file():
            raise child.no_answer(f"{job.probe} of {job.row}", code, output, job.timeout_s)
        return read_answer(question.answer.read_text())


def read_answer(text: str) -> Answer:
    """Read the answer that a child left.

    Raises:
        QExportError: the error that stopped the child.
    """
    answer = Answer.model_validate_json(text)
    if answer.error is not None:
        raise child.raised(answer.error, answer.message)
    return answer
