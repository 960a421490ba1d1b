"""Text that any format can hold, and paths as a service that runs the gate knows them."""

from __future__ import annotations

import os
from pathlib import Path

from qexport.inputs.shown import shown


def fit(text: str) -> str:
    """The text with everything written out that some format cannot hold, or that a reader cannot see."""
    # JSON and workflow commands write out line ends of any kind themselves.
    return "\r".join(shown(part, lines=True) for part in text.split("\r"))


def one_line(text: str) -> str:
    """The same on one line, whatever the line ends were."""
    return shown(" ".join(text.split()))


def repository_path(path: str) -> str:
    """A file's path from the top of its repository, or from the working directory where it is in none.

    GitHub and GitLab know files by that path. A file that is in neither place keeps the path it has.
    """
    whole = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links out of the repository)
    top = next((folder for folder in whole.parents if (folder / ".git").exists()), Path.cwd())
    return fit((whole.relative_to(top) if whole.is_relative_to(top) else whole).as_posix())
