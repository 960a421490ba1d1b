"""The parent's side of a child that keeps one artifact and answers several questions: figures that cannot disturb each other.

Its memory is measured first, in a process that is still fresh; then the text is scored, and then the child waits for the
batches of what is timed.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from qexport import child, cpu, measure
from qexport.errors import QExportError, UnsupportedHere
from qexport.scratch import scratch_folder

if TYPE_CHECKING:
    from qexport.artifact import Artifact
    from qexport.inputs.text import TokenSet
    from qexport.measure import Job, _Answer


class Worker:
    """The process of one row; if it dies, the next question starts another."""

    def __init__(self) -> None:
        self._folder = scratch_folder("worker")
        self._conversation: child.Conversation | None = None
        self._changing = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process; None where none runs."""
        return None if self._conversation is None else self._conversation.pid

    def ask(self, job: Job, artifact: Artifact, tokens: TokenSet) -> _Answer:
        """Run a job, as :func:`qexport.measure.measure` asks it.

        Raises:
            UnsupportedHere: the process died, gave no answer in time, or was ended for good.
            QExportError: the error that the job stopped with.
        """
        folder = Path(self._folder.name)
        threads = job.threads or cpu.cores()
        with self._changing:
            if self._closed:
                raise UnsupportedHere("the comparison was stopped; go on with --resume")
            if self._conversation is None:
                self._conversation = child.Conversation("qexport.worker", folder / "output", threads=threads)
            conversation = self._conversation
        question = measure.question_of(job, artifact, tokens, folder)
        try:
            line = conversation.ask(question.model_dump_json(), f"{job.probe} of {job.row}", job.timeout_s)
        except QExportError:
            self.end()
            raise
        return measure.read_answer(line)

    def end(self) -> None:
        """End the process."""
        with self._changing:
            if self._conversation is not None:
                self._conversation.close()
                self._conversation = None

    def close(self) -> None:
        """End the process for good and remove its files; a question in another thread comes to an error."""
        self._closed = True
        self.end()
        self._folder.cleanup()


if __name__ == "__main__":
    measure.keep_answering()
