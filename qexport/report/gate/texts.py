"""Text that any format can hold, and paths as a service that runs the gate knows them."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNFIT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, what UTF-8 cannot (halves of names that are not UTF-8), and what moves a terminal's cursor."""


def fit(text: str) -> str:
    """The text with a replacement character for each that some format cannot hold."""
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """The same on one line, whatever the line ends were."""
    return fit(" ".join(text.split()))


def repository_path(path: str) -> str:
    """A file's path from the top of its repository, or from the working directory where it is in none.

    GitHub and GitLab know files by that path. A file that is in neither place keeps the path it has.
    """
    whole = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links out of the repository)
    top = next((folder for folder in whole.parents if (folder / ".git").exists()), Path.cwd())
    return fit((whole.relative_to(top) if whole.is_relative_to(top) else whole).as_posix())
