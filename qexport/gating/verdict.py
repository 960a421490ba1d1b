"""Verdicts: the figures that a check compared, and the outcome: pass, fail, or not decided yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qexport.core import Interval

Outcome = Literal["pass", "fail", "inconclusive"]
Base = Literal["fp32", "baseline"]
"""The base of a comparison: fp32 in the same run, or the stored baseline."""

_WORST: tuple[Outcome, ...] = ("pass", "inconclusive", "fail")
_EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 4}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The allowed range of an interval; a side that is None is open."""

    at_least: float | None = None
    at_most: float | None = None

    def judge(self, interval: Interval) -> Outcome:
        """Wholly inside passes. Wholly outside or NaN fails. All else is inconclusive."""
        if math.isnan(interval.value + interval.low + interval.high):
            return "fail"
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        if low <= interval.low and interval.high <= high:
            return "pass"
        return "fail" if interval.low > high or interval.high < low else "inconclusive"

    def samples_needed(self, interval: Interval, samples: int) -> int | None:
        """The number of samples that would settle an inconclusive interval if its value stays.

        The width of an interval falls with the root of its samples. None if no number settles it: the value lies on a
        bound.
        """
        needed = samples
        for bound in (self.at_least, self.at_most):
            if bound is None or not interval.low <= bound <= interval.high:
                continue
            distance = abs(bound - interval.value)
            width = interval.high - interval.value if bound >= interval.value else interval.value - interval.low
            if distance == 0 or not math.isfinite(width):
                return None
            needed = max(needed, math.ceil(samples * (width / distance) ** 2))
        return needed


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison."""

    what: str
    """A metric of :mod:`qexport.core.metrics`, ``drift``, or a property of the artifact such as ``quantized nodes``."""
    outcome: Outcome
    message: str
    """One line: the result, the allowed range, and the way out if it is not obvious."""
    of: Base | None = None
    """The base of the comparison; None without a division."""
    found: Interval | None = None
    """The ratio, or the drift in nats per token; None if nothing was measured."""
    bounds: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure of a row, and its earlier value."""

    metric: str
    now: float
    """The value in the metric's recorded unit."""
    before: float | None = None
    """The baseline's value, over the same sequences; None if it has none, and for times, which belong to one run."""
    of_baseline: Interval | None = None
    of_fp32: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class RowVerdict:
    """One artifact, or one row of the baseline without an artifact."""

    name: str
    """The artifact's folder, which is its name in the baseline."""
    recipe: str
    """The recipe; empty if the artifact cannot be read."""
    checks: tuple[Check, ...]
    changes: tuple[Change, ...] = ()
    line: int = 1
    """The row's line in the baseline's file; 1 if the row is not in it."""

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of the checks; a row without checks fails."""
        return max((check.outcome for check in self.checks), key=_WORST.index, default="fail")


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The verdicts of all rows."""

    model: str
    baseline: str
    """The baseline's path, or the artifacts used in its place, as the user gave them."""
    place: str = ""
    """The file that findings point to, at their rows' lines; empty for the baseline."""
    rows: tuple[RowVerdict, ...]
    notes: tuple[str, ...] = ()
    """Facts for the reader next to the verdicts, such as a processor or runtime that differs from the baseline's."""

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of the rows; a gate without rows fails."""
        return max((row.outcome for row in self.rows), key=_WORST.index, default="fail")

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 4 inconclusive."""
        return _EXIT_CODES[self.outcome]
