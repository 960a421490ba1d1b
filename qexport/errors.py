"""The errors qexport raises on purpose, and the exit code that each becomes.

QExportError
├── InputError         what was given cannot be used: a folder, a file, a text, a name
├── SelectionError     a node rule that matches nothing, or a selection that is empty
├── ParityError        an exported graph that does not compute what the torch model computes
├── ContractError      what a tool wrote or ran is not what was asked for
├── NotComparable      measurements whose conditions differ
└── UnsupportedHere    right in itself, but this machine or installation cannot do it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USAGE = 2
EXIT_ERROR = 3


class QExportError(Exception):
    """Base of all errors with a message meant for the user: one line that says what, where and what to do."""

    exit_code = EXIT_ERROR


class InputError(QExportError):
    """Something the user gave cannot be used."""


class SelectionError(QExportError):
    """A node rule matches nothing, or nothing at all is selected."""


class ParityError(QExportError):
    """The exported graph and the torch model disagree."""


class ContractError(QExportError):
    """What is in the file, or what ran, is not what was asked for."""


class NotComparable(QExportError):
    """Measurements made under unlike conditions."""


class UnsupportedHere(QExportError):
    """This machine or installation lacks what is needed."""


def near_names(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """A clause that names the closest known names, or all of them where none is close.

    >>> near_names("atention", ["attention", "mlp"])
    'did you mean attention?'
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"known: {shown}" if names else "there are none"
