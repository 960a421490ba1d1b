"""Verdicts: what a check of the gate compared, and whether it passes, fails, or cannot be decided yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from qexport.stats import Interval

Outcome = Literal["pass", "fail", "inconclusive"]
Base = Literal["fp32", "baseline"]
"""What a figure is compared with: fp32 in the same run, or the stored baseline."""

_WORST: tuple[Outcome, ...] = ("pass", "inconclusive", "fail")
_EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 4}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Where an interval must lie; a side that is None is open."""

    at_least: float | None = None
    at_most: float | None = None

    def judge(self, interval: Interval) -> Outcome:
        """Wholly inside passes, wholly outside fails, and so does what is no number; all else is inconclusive."""
        if math.isnan(interval.value + interval.low + interval.high):
            return "fail"
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        if low <= interval.low and interval.high <= high:
            return "pass"
        return "fail" if interval.low > high or interval.high < low else "inconclusive"

    def samples_needed(self, interval: Interval, samples: int) -> int | None:
        """How many samples would settle an inconclusive interval, were its value to stay: its width falls with their root.

        None where none would: the value lies on a bound.
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
    """A metric of :mod:`qexport.catalogue`, ``drift``, or what of the artifact itself is compared: ``quantized nodes``."""
    outcome: Outcome
    message: str
    """One line: what was found, what is allowed, and what to do where that is not plain."""
    of: Base | None = None
    """None where nothing is divided."""
    found: Interval | None = None
    """The ratio, or the drift in nats per token; None where nothing was measured."""
    bounds: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure of a row, beside what it was."""

    metric: str
    now: float
    """In the metric's recorded unit."""
    before: float | None = None
    """In the baseline, over the same sequences; None where it has none, and for times, which are of one run only."""
    of_baseline: Interval | None = None
    of_fp32: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class RowVerdict:
    """One artifact, or one row of the baseline that has none."""

    name: str
    """The artifact's folder, by which the baseline knows it."""
    recipe: str
    """Empty where the artifact cannot be read."""
    checks: tuple[Check, ...]
    changes: tuple[Change, ...] = ()
    line: int = 1
    """Of the baseline's file, where the row stands; 1 where it has none."""

    @property
    def outcome(self) -> Outcome:
        """The worst of the checks; a row that nothing was checked of fails."""
        return max((check.outcome for check in self.checks), key=_WORST.index, default="fail")


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What the gate says of all rows."""

    model: str
    baseline: str
    """The baseline's path, or the artifacts that stand for it, as they were given."""
    place: str = ""
    """The file that findings point to, at their rows' lines; empty for the baseline."""
    rows: tuple[RowVerdict, ...]
    notes: tuple[str, ...] = ()
    """What a reader should know beside the verdicts: another processor or runtime than the baseline's."""

    @property
    def outcome(self) -> Outcome:
        """The worst of the rows; a gate without rows fails."""
        return max((row.outcome for row in self.rows), key=_WORST.index, default="fail")

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 4 inconclusive."""
        return _EXIT_CODES[self.outcome]
