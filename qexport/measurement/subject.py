"""The child process of a probe: it opens one artifact, runs the probe, and writes the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qexport.core import InputError, Provider, QExportError, cuda, load_artifact, ram
from qexport.measurement import child
from qexport.measurement.conditions import here, import_runtime, of_session
from qexport.measurement.job import Answer, Figure, Question, failed
from qexport.measurement.metrics.trial import Trial
from qexport.measurement.probes import PROBES, Probe
from qexport.runtime import Observe, Session, open_session, torch_warm_up, warm_up


def main() -> None:
    """The child: read a question from stdin, and write the answer to its file."""
    question = Question.model_validate_json(child.read_question())
    try:
        answer = _answer(question)
    except QExportError as error:
        answer = failed(error)
    beside = question.answer.with_suffix(".part")
    beside.write_text(answer.model_dump_json())
    beside.replace(question.answer)


def keep_answering() -> None:
    """The child of :mod:`qexport.measurement.worker`: answer questions about one artifact until stdin ends."""
    subject: Subject | None = None

    def answer(line: bytes) -> str:
        nonlocal subject
        question = Question.model_validate_json(line)
        try:
            subject = subject or Subject(question.artifact, question.provider)
            found = subject.answer(question, keep=True)
        except QExportError as error:
            found = failed(error)
        return found.model_dump_json()

    child.converse(answer)


def _answer(question: Question) -> Answer:
    return Subject(question.artifact, question.provider).answer(question)


class Subject:
    """An artifact in this process. Its runtime is imported and warm, so later memory growth is due to the artifact."""

    def __init__(self, artifact: Path, provider: Provider) -> None:
        """Import the runtime.

        Raises:
            UnsupportedHere: the runtime is not installed, or the provider is missing.
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

    def answer(self, question: Question, *, keep: bool = False) -> Answer:
        """Run one probe.

        Args:
            question: a question about this artifact and provider.
            keep: if True, leave the session open for the next question that asks for the same one.

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
            metrics=question.metrics,
            distributions=question.distributions,
            is_baseline=question.is_baseline,
            device_start_bytes=self._device_start_bytes,
        )
        conditions = here()

        def opened() -> Session:
            """The session. It is referenced here only with ``keep``, so that the probe can free it."""
            nonlocal conditions
            session = self._session(question, probe, keep=keep)
            conditions = of_session(session, self._versions)
            return session

        figures = {
            metric: Figure(columns=samples.columns, samples=samples.rows, warmups=samples.warmups, facts=samples.facts)
            for metric, samples in probe.run(opened, trial).items()
        }
        return Answer(figures=figures, conditions=conditions)

    def _session(self, question: Question, probe: Probe, *, keep: bool) -> Session:
        wanted = (question.threads, probe.observe)
        if self._kept is not None and self._kept[0] == wanted:
            return self._kept[1]
        self._kept = None  # frees the old session before the new one is loaded
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
