"""Progress of long work: the library announces tasks, and whoever has a terminal may show them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

Advance = Callable[[], None]
Reporter = Callable[[str, int | None], AbstractContextManager[Advance]]


@contextlib.contextmanager
def _silent(_description: str, _total: int | None) -> Iterator[Advance]:
    yield lambda: None


_reporter: ContextVar[Reporter] = ContextVar("reporter", default=_silent)


def install(reporter: Reporter) -> None:
    """Show the tasks of this context through ``reporter(description, total)``."""
    _reporter.set(reporter)


def task(description: str, total: int | None = None) -> AbstractContextManager[Advance]:
    """Announce work of ``total`` steps; call what the ``with`` yields once a step is done."""
    return _reporter.get()(description, total)
