"""Text that every format can hold, and paths in the form that CI services use."""

from __future__ import annotations

import os
from pathlib import Path

from qexport.core import shown


def fit(text: str) -> str:
    """The text; characters that some format cannot hold, or that a reader cannot see, are escaped."""
    # JSON and workflow commands escape line ends themselves.
    return "\r".join(shown(part, lines=True) for part in text.split("\r"))


def one_line(text: str) -> str:
    """The text on one line, for any line ends."""
    return shown(" ".join(text.split()))


def repository_path(path: str) -> str:
    """A file's path from the top of its repository, or from the working directory outside of a repository.

    GitHub and GitLab know files by that path. A file in neither place keeps its path.
    """
    whole = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links out of the repository)
    top = next((folder for folder in whole.parents if (folder / ".git").exists()), Path.cwd())
    return fit((whole.relative_to(top) if whole.is_relative_to(top) else whole).as_posix())
