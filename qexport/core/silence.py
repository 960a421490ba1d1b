"""Silence for libraries that print, log and warn at length about their own workings."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop everything that this thread prints, logs or warns; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(
        logging.ERROR
    )  # torch gives its loggers levels and handlers of their own: nothing less reaches them
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(_Deaf(sys.stdout)),
            contextlib.redirect_stderr(_Deaf(sys.stderr)),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _Deaf:
    """A stream that drops the output of the thread that made it. Progress bars live in another thread and continue."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
