"""The files that come with qexport: experiments, the reference model and the bundled text."""

from __future__ import annotations

import re
from pathlib import Path

from qexport.core import InputError

EVALUATION_TEXT = "calibration/evaluation.jsonl"
CALIBRATION_TEXT = "calibration/general.jsonl"
PROMPTS = "calibration/prompts.txt"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_PACKAGE = Path(__file__).resolve().parent.parent


def bundled(name: str) -> Path:
    """The path of a bundled file or folder: ``models/reference.toml``, ``calibration/evaluation.jsonl``.

    A wheel has them inside the package; a source tree has them next to the package.

    Raises:
        InputError: this installation does not have the file.
    """
    found = find_bundled(name)
    if found is not None:
        return found
    raise InputError(f"{name}: not part of this installation of qexport; install it again")


def find_bundled(name: str) -> Path | None:
    """The path of a bundled file or folder, or None if it does not exist."""
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / name).exists():
            return root / name
    return None


def find_experiment(name: str) -> Path | None:
    """The bundled experiment of a name, or None if there is none.

    The beginning of the name is enough where no other begins like this: ``smollm2`` for ``smollm2-135m-instruct``. A
    file or folder of that name comes first.
    """
    folder = find_bundled("models")
    if folder is None or not _NAME.fullmatch(name) or Path(name).exists():
        return None
    exact, longer = folder / f"{name}.toml", sorted(folder.glob(f"{name}-*.toml"))
    if exact.is_file():
        return exact
    return longer[0] if len(longer) == 1 else None
