"""A program of ``programs/`` in a process of its own, and the questions to it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.rows import PROGRAMS
from benchmarks.peers.workshop import Skipped, environment, interpreter, reason_of
from benchmarks.trained import ROOT


class Runner:
    """A model that waits for questions."""

    def __init__(self, program: str, model: Path, log: Path) -> None:
        """Load a model.

        Args:
            program: a key of ``PROGRAMS``.
            model: the folder of the model.
            log: the file for messages of the process.

        Raises:
            Skipped: the model does not load.
        """
        self._log = log
        with log.open("w") as handle:
            self._process = subprocess.Popen(
                [interpreter(PROGRAMS[program]), "-m", f"benchmarks.peers.programs.{program}", str(model)],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=handle,
                text=True,
            )
        try:
            loaded = self._answer()
        except Skipped:
            self.close()
            raise
        self.version: str = loaded["version"]
        self.peak_rss_bytes: int = loaded["peak_rss_bytes"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def logits(self, windows: Path, count: int, folder: Path) -> Iterator[np.ndarray]:
        """The logits ``[tokens, vocab]`` of each window of a file."""
        self._ask(ask="logits", windows=str(windows), folder=str(folder))
        for _ in range(count):
            file = Path(self._answer()["file"])
            yield np.load(file)
            file.unlink()

    def sentence_s(self, ids: np.ndarray) -> float:
        """Seconds of one pass over a sentence."""
        self._ask(ask="sentence", ids=ids.tolist())
        return float(self._answer()["seconds"])

    def token_s(self, past: np.ndarray, ids: np.ndarray) -> float:
        """Mean seconds of a step after a past; the first of the tokens warms up."""
        self._ask(ask="token", past=past.tolist(), ids=ids.tolist())
        return float(self._answer()["seconds"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, **question: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> Skipped:
        return Skipped(reason_of(self._log, self._process.wait()))
