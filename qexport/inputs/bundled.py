"""The files that come with qexport: experiments, the reference model and the bundled text."""

from __future__ import annotations

from pathlib import Path

from qexport.errors import InputError

_PACKAGE = Path(__file__).resolve().parent.parent


def bundled(name: str) -> Path:
    """The path of a bundled file or folder: ``models/reference.toml``, ``calibration/evaluation.jsonl``.

    A wheel carries them inside the package; in a source tree they lie beside it.

    Raises:
        InputError: this installation does not hold it.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise InputError(f"{name}: not part of this installation of qexport; install it again")
