"""Silence for the exporters, which print, log and warn at length about their own workings."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print, log or warn from everybody. What goes wrong comes as an exception all the same."""
    before = logging.root.manager.disable
    logging.disable(
        logging.ERROR
    )  # torch gives its loggers levels and handlers of their own: nothing less reaches them
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
