"""Progress of long work: the library announces tasks and stages, and a caller may show them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

Advance = Callable[[], None]
Reporter = Callable[[str, int | None], AbstractContextManager[Advance]]
Announcer = Callable[[str, float], None]


@contextlib.contextmanager
def _silent(_description: str, _total: int | None) -> Iterator[Advance]:
    yield lambda: None


def _unannounced(_description: str, _left_s: float) -> None:
    pass


_reporter: ContextVar[Reporter] = ContextVar("reporter", default=_silent)
_announcer: ContextVar[Announcer] = ContextVar("announcer", default=_unannounced)


def install(reporter: Reporter = _silent, announcer: Announcer = _unannounced) -> None:
    """Show tasks of this context by ``reporter(description, total)``, stages by ``announcer(description, left_s)``."""
    _reporter.set(reporter)
    _announcer.set(announcer)


def task(description: str, total: int | None = None) -> AbstractContextManager[Advance]:
    """Announce work of ``total`` steps; call the value of the ``with`` after each step."""
    return _reporter.get()(description, total)


def stage(description: str, left_s: float) -> None:
    """Announce the next part of the whole work, and the seconds left for it and for all after it."""
    _announcer.get()(description, left_s)


def left(seconds: float) -> str:
    """Seconds left, in words.

    >>> left(200.0), left(65.0), left(29.0)
    ('about 3.3 minutes left', 'about 1.1 minutes left', 'less than half a minute left')
    """
    minutes = seconds / 60
    if minutes < 0.5:
        return "less than half a minute left"
    return f"about {minutes:.1f} minutes left" if minutes < 10 else f"about {minutes:.0f} minutes left"
