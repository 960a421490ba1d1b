"""The input and output of a metric, which turns an opened session, or an artifact on disk, into raw samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from qexport.runtime import Session

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The input of a metric, apart from the session."""

    sequences: tuple[NDArray[np.int64], ...]
    """Token ids, ``[tokens]`` for each sequence."""
    warmups: int
    """Runs before the first that counts."""
    round: int
    """The number of this fresh process among several."""
    baseline_rss_bytes: int
    """Resident memory after the imports, before the load."""
    repeats: int = 1
    """Passes over all sequences; the quickest of each sequence counts."""
    new_tokens: int = 0
    """The number of tokens to generate after each sequence; with ``stop`` an upper bound."""
    stop: tuple[int, ...] = ()
    """Tokens that end an answer."""
    folder: Path | None = None
    """The artifact's folder, whose files are read."""
    metrics: tuple[str, ...] = ()
    """The metrics that are asked for; a distance is measured only if it is among them."""
    distributions: Path | None = None
    """The file of the baseline's distributions; None without a comparison."""
    is_baseline: bool = False
    """True if the artifact is the baseline, which writes the file."""
    device_start_bytes: int | None = None
    """Device memory in use before the runtime touched the device; None without a device."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw samples, in the form of :class:`qexport.core.record.Measurement`."""

    columns: tuple[str, ...]
    rows: Rows
    warmups: Rows = ()
    facts: dict[str, float | int | str] = field(default_factory=dict)


Open = Callable[[], "Session"]
"""Loads the artifact."""
Run = Callable[[Open, Trial], Mapping[str, Samples]]
"""The work of one fresh process: it returns the figures by metric."""


def once(metric: str, score: Callable[[Session, Trial], Samples]) -> Run:
    """A run of one metric on an opened session; the session's facts are kept with the samples."""

    def run(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
        session = open_session()
        samples = score(session, trial)
        return {metric: replace(samples, facts=samples.facts | session.facts())}

    return run
