"""Metrics: each turns an opened session, or an artifact on disk, into raw samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a metric is fed, besides the session."""

    sequences: tuple[NDArray[np.int64], ...]
    """Token ids, ``[tokens]`` each."""
    warmups: int
    """Runs ahead of the first that counts."""
    round: int
    """Which of several fresh processes this is."""
    baseline_rss_bytes: int
    """Resident memory with the libraries imported and nothing loaded."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw samples, in the form of :class:`qexport.record.Measurement`."""

    columns: tuple[str, ...]
    rows: Rows
    warmups: Rows = ()
    facts: dict[str, float | int | str] = field(default_factory=dict)
