"""The folder for files that qexport can remake."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$QEXPORT_CACHE``, or ``qexport`` in the user's cache folder."""
    chosen = os.environ.get("QEXPORT_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qexport"
