"""The process of a command: signals, errors, exit codes, stderr."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from qexport.core import EXIT_ERROR, EXIT_FAULT, EXIT_INTERRUPTED, QExportError, first_words, is_out_of_memory

if TYPE_CHECKING:
    from rich.console import Console


logger = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parent.parent


def console_of(*, stderr: bool) -> Console:
    from rich.console import Console

    # Names of files may look like rich's markup. A pipe has no width, so nothing is folded or cut there.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, markup=False, width=None if stream.isatty() else 160, soft_wrap=not stream.isatty())


def set_up_stderr(*, quiet: bool, verbose: bool) -> None:
    """Send logs and progress to stderr, so that stdout holds only the result."""
    level = logging.DEBUG if verbose else logging.WARNING
    name = "%(name)s" if verbose else "qexport"
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format=f"{name}: %(message)s")
    logging.getLogger("qexport").setLevel(level)
    if not quiet:
        from qexport.cli import progress_bars
        from qexport.core import progress

        if sys.stderr.isatty():
            bars = progress_bars.Bars(console_of(stderr=True))
            progress.install(bars.task, bars.stage)
        else:
            lines = progress_bars.Lines(console_of(stderr=True))
            progress.install(lines.task, lines.stage)


@contextlib.contextmanager
def reporting_errors(interrupted: str = "interrupted; nothing was changed") -> Iterator[None]:
    """Print one line on stderr for an expected error; Ctrl-C and SIGTERM take the same clean-up."""
    with signals_raised() as seen:
        try:
            yield
        except KeyboardInterrupt:
            fail(interrupted, EXIT_INTERRUPTED)
        except Exception as error:
            # An interrupt during the import of a compiled module appears as an ImportError.
            if seen:
                fail(interrupted, EXIT_INTERRUPTED)
            if isinstance(error, QExportError):
                fail(str(error), error.exit_code)
            if isinstance(error, (typer.Exit, typer.BadParameter)):
                raise
            logger.debug("the traceback of what follows", exc_info=error)
            if is_out_of_memory(error):
                fail(
                    f"memory ran out ({first_words(error)}); free some, or take smaller batches or windows, a smaller model or "
                    "a machine with more",
                    EXIT_ERROR,
                )
            if isinstance(error, OSError):
                place = f"{error.filename}: " if error.filename else ""
                fail(f"{place}{error.strerror or error}", EXIT_ERROR)
            fail(_fault(error), EXIT_FAULT)


def _fault(error: Exception) -> str:
    """One line on an unexpected error, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return (
        f"a fault of qexport itself, {type(error).__name__}: {first_words(error)}{place}; run `qexport --verbose ...` for the "
        "traceback, and report both"
    )


@contextlib.contextmanager
def signals_raised() -> Iterator[list[int]]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt, and record them; ignored signals stay ignored."""
    seen: list[int] = []

    def interrupt(number: int, _frame: object) -> NoReturn:
        seen.append(number)
        raise KeyboardInterrupt

    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_LONGEST_WORD = 400
"""The most characters of a word. A name of two megabytes would hide the message."""


def fail(message: str, code: int) -> NoReturn:
    from qexport.core import shown

    words = (word if len(word) <= _LONGEST_WORD else f"{word[:100]}..." for word in message.split())
    typer.echo(f"qexport: {shown(' '.join(words))}", err=True)
    raise typer.Exit(code)
