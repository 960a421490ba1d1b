"""The parent's side of a child that holds one artifact and runs several probes which cannot disturb each other.

The memory is measured first, while the process is fresh. Then the text is scored. Then the child waits for the batches
of the timed probes.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import QExportError, UnsupportedHere, cpu, scratch_folder
from qexport.measurement import child, probing, subject

if TYPE_CHECKING:
    from qexport.core import Artifact
    from qexport.inputs import TokenSet
    from qexport.measurement.job import Answer, Job


class Worker:
    """The process of one row; if it dies, the next question starts another."""

    def __init__(self) -> None:
        self._folder = scratch_folder("worker")
        self._conversation: child.Conversation | None = None
        self._changing = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process; None if none runs."""
        return None if self._conversation is None else self._conversation.pid

    def ask(self, job: Job, artifact: Artifact, tokens: TokenSet) -> Answer:
        """Run a job for :func:`qexport.measurement.probing.measure`.

        Raises:
            UnsupportedHere: the process died, gave no answer in time, or was closed.
            QExportError: the error that stopped the job.
        """
        folder = Path(self._folder.name)
        threads = job.threads or cpu.cores()
        with self._changing:
            if self._closed:
                raise UnsupportedHere("the comparison was stopped; go on with --resume")
            if self._conversation is None:
                self._conversation = child.Conversation(
                    "qexport.measurement.worker", folder / "output", threads=threads
                )
            conversation = self._conversation
        question = probing.question_of(job, artifact, tokens, folder)
        try:
            line = conversation.ask(question.model_dump_json(), f"{job.probe} of {job.row}", job.timeout_s)
        except QExportError:
            self.end()
            raise
        return probing.read_answer(line)

    def end(self) -> None:
        """End the process."""
        with self._changing:
            if self._conversation is not None:
                self._conversation.close()
                self._conversation = None

    def close(self) -> None:
        """End the process for good and remove its files; a question in another thread then fails."""
        self._closed = True
        self.end()
        self._folder.cleanup()


if __name__ == "__main__":
    subject.keep_answering()
