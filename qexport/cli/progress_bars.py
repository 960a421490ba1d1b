"""Progress for :mod:`qexport.core.progress`: bars on a terminal, a line for each stage elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qexport.core import left

if TYPE_CHECKING:
    from rich.console import Console

    from qexport.core import Advance

_EVERY_S = 10.0
"""The least seconds between two lines of :class:`Lines`."""
_LONG_S = 20.0
"""A task that takes longer, in seconds, is announced if there are no stages."""


class Bars:
    """Bars that appear and disappear with their task; tasks may be nested. Stages are lines above the bars."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._open = 0
        self.stage = Lines(self._progress.console).stage

    @contextlib.contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """A bar of ``total`` steps, or a moving bar if the number is unknown."""
        if self._open == 0:
            self._progress.start()
        self._open += 1
        bar = self._progress.add_task(description, total=total)
        try:
            yield lambda: self._progress.advance(bar)
        finally:
            self._progress.remove_task(bar)
            self._open -= 1
            if self._open == 0:
                self._progress.stop()


class Lines:
    """Plain lines for a log: one for each stage; without stages, one for each long task.

    Two lines are at least :data:`_EVERY_S` apart.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_s = -_EVERY_S
        self._staged = False

    def stage(self, description: str, left_s: float) -> None:
        """Print one line, unless the last line is too recent."""
        self._staged = True
        self._line(f"{description}: {left(left_s)}")

    @contextlib.contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """Print a line when the task has taken :data:`_LONG_S`, and after that lines with the number of steps."""
        done = 0

        def show() -> None:
            if not self._staged:
                self._line(f"{description}, {done} of {total}" if total is not None and done else description)

        def advance() -> None:
            nonlocal done
            done += 1
            if time.perf_counter() - start >= _LONG_S:
                show()

        start = time.perf_counter()
        timer = threading.Timer(_LONG_S, show)  # a task may advance late, or never
        timer.daemon = True
        timer.start()
        try:
            yield advance
        finally:
            timer.cancel()

    def _line(self, text: str) -> None:
        now = time.perf_counter()
        if now - self._shown_s >= _EVERY_S:
            self._shown_s = now
            self._console.print(text)
