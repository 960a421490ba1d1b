"""The time that a comparison still takes: expected seconds of the work ahead, scaled by the pace of the work behind.

The expected seconds were measured with the bundled model on two cores. For another model or machine the pace corrects them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from qexport.core import progress
from qexport.quantization import Recipe

SCORING, TIMING, REPORT = "scoring", "timing", "report"
_EXPECTED_S = {SCORING: 5.0, TIMING: 2.0, REPORT: 6.0}
"""Seconds for the rows that are still scored when all rows are made, for one timed probe of one row, and for the report."""
_SCORING_S, _SCORING_TORCH_S = 2.0, 1.0
"""Seconds that a row takes longer while the processes of earlier rows import, load and score; rows in PyTorch come first."""
_TRUSTED_S = 15.0
"""Expected seconds behind that count as much as the expectation itself: the first rows say little about the pace."""


def place(recipe: Recipe) -> tuple[bool, float]:
    """The place of a recipe in the order in which rows are made.

    Rows in PyTorch come first: their processes take long to start, and start while other rows are made. Rows that take
    long to make come last. fp32 is exported for the first of the others, so it counts as nothing.
    """
    return not recipe.in_torch, 0.0 if recipe.name == "fp32" else recipe.making_s


def row_s(recipe: Recipe, *, scored: bool) -> float:
    """Expected seconds to make the artifact of a row, while rows before it are scored."""
    return recipe.making_s + ((_SCORING_TORCH_S if recipe.in_torch else _SCORING_S) if scored else 0.0)


def expected_s(kind: str) -> float:
    """Expected seconds of work of a kind: :data:`SCORING`, :data:`TIMING` or :data:`REPORT`."""
    return _EXPECTED_S[kind]


class Schedule:
    """Work in the order in which it is done."""

    def __init__(self, steps: Iterable[float]) -> None:
        """Begin now.

        Args:
            steps: expected seconds of each step.
        """
        self._ahead = list(steps)
        self._behind_s = 0.0
        self._start = time.perf_counter()

    def announce(self, description: str) -> None:
        """Show the work that begins now, and the seconds left."""
        progress.stage(description, self.left_s)

    def done(self) -> None:
        """Cross off the first step."""
        self._behind_s += self._ahead.pop(0)

    @property
    def pace(self) -> float:
        """Seconds that an expected second takes; 1 at first."""
        return (time.perf_counter() - self._start + _TRUSTED_S) / (self._behind_s + _TRUSTED_S)

    @property
    def left_s(self) -> float:
        return self.pace * sum(self._ahead)
