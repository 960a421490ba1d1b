"""Progress bars on a terminal, for :mod:`qexport.progress`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

    from qexport.progress import Advance


class Bars:
    """Bars that come with a task and go with it; tasks may be nested."""

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

    @contextlib.contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """A bar of ``total`` steps, or one that only moves where the number is not known."""
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
