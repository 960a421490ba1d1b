"""The errors qexport raises on purpose, and the exit code that each becomes.

QExportError
├── InputError         an input cannot be used: a folder, a file, a text, a name
├── SelectionError     a node rule that matches nothing, or a selection that is empty
├── ParityError        an exported graph that does not compute what the torch model computes
├── ContractError      the output of a tool, or the kernels that ran, differ from the request
├── NotComparable      measurements whose conditions differ
└── UnsupportedHere    right in itself, but this machine or installation cannot do it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_GATE_FAILED = 1
"""Used for nothing else: CI must not mistake a broken file or a fault of qexport for a model that got worse."""
EXIT_USAGE = 2
EXIT_ERROR = 3
EXIT_FAULT = 70
"""Exit code of a fault of qexport itself, from sysexits.h (EX_SOFTWARE)."""
EXIT_INTERRUPTED = 130


class QExportError(Exception):
    """Base of all errors with a message for the user: one line with the problem, its place and the way out."""

    exit_code = EXIT_ERROR


class InputError(QExportError):
    """Something the user gave cannot be used."""


class SelectionError(QExportError):
    """A node rule matches nothing, or nothing at all is selected."""


class _Broken(QExportError):
    """A tool broke its promise, which its user cannot mend. A message without a way out gets this one."""

    def __init__(self, message: str) -> None:
        way_out = "" if ";" in message else "; report this line with the command and the model"
        super().__init__(message + way_out)


class ParityError(_Broken):
    """The exported graph and the torch model disagree."""


class ContractError(_Broken):
    """The contents of a file, or the kernels that ran, differ from the request."""


class NotComparable(QExportError):
    """Measurements made under different conditions."""


class UnsupportedHere(QExportError):
    """This machine or installation lacks a requirement."""


_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "can't allocate memory",
    "failed to allocate memory",
    "out of memory",
    "cannot allocate memory",
    "failed to map segment",
)
"""Words of ONNX Runtime, PyTorch and C++'s library, whose errors have no class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out, whichever library raised the error."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def first_words(error: BaseException, *, limit: int = 160) -> str:
    """The beginning of a library's message on one line, or the name of the error's class if the message is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def near_names(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """A clause that names the closest known names, or all known names if none is close.

    >>> near_names("atention", ["attention", "mlp"])
    'did you mean attention?'
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"known: {shown}" if names else "there are none"
