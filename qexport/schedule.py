"""How long a comparison still takes: the work ahead in expected seconds, corrected by how long the work behind has taken.

The expected seconds are of the bundled model on two cores; of another model or machine what is behind tells how much more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from qexport import progress

SCORING, TIMING, REPORT = "scoring", "timing", "report"
_EXPECTED_S = {SCORING: 5.0, TIMING: 2.0, REPORT: 6.0}
"""Of the rows that are still being scored when all are made, of one timed probe of one row, and of the report."""
_MAKING_S = {"gptq": 14.0, "awq": 6.0, "int8": 3.0, "fp32": 12.0}
"""By a part of the recipe's name; of any other recipe :data:`_OTHERS_S`. The export is counted to fp32."""
_OTHERS_S = 0.7
_SCORING_S, _SCORING_TORCH_S = 2.0, 1.0
"""How much longer making a row takes while the processes of rows before it import, load and score; those in PyTorch come first."""
_TRUSTED_S = 15.0
"""Expected seconds behind that count as much as the expectation itself: the first rows say little about the pace."""
_IN_TORCH = ("torch", "bnb")


def place(recipe: str) -> tuple[bool, float]:
    """The place of a recipe in the order that rows are best made in.

    First those whose process takes long to start, which it does while others are made; last those that take long to make.
    """
    return not recipe.startswith(_IN_TORCH), 0.0 if recipe == "fp32" else _making_s(recipe)


def _making_s(recipe: str) -> float:
    return next((seconds for part, seconds in _MAKING_S.items() if part in recipe), _OTHERS_S)


def row_s(recipe: str, *, scored: bool) -> float:
    """Expected seconds to make the artifact of a row, while rows before it are scored."""
    scoring_s = _SCORING_TORCH_S if recipe.startswith(_IN_TORCH) else _SCORING_S
    making_s = _OTHERS_S if recipe.startswith(_IN_TORCH) else _making_s(recipe)
    return making_s + (scoring_s if scored else 0.0)


def expected_s(kind: str) -> float:
    """Expected seconds of work of a kind."""
    return _EXPECTED_S[kind]


class Schedule:
    """Work in the order in which it is done."""

    def __init__(self, steps: Iterable[float]) -> None:
        """Begin now.

        Args:
            steps: expected seconds of each.
        """
        self._ahead = list(steps)
        self._behind_s = 0.0
        self._start = time.perf_counter()

    def announce(self, description: str) -> None:
        """Tell what is done now, and what is left with it."""
        progress.stage(description, self.left_s)

    def done(self) -> None:
        """Cross off what comes first."""
        self._behind_s += self._ahead.pop(0)

    @property
    def pace(self) -> float:
        """Seconds that an expected second takes; 1 at first."""
        return (time.perf_counter() - self._start + _TRUSTED_S) / (self._behind_s + _TRUSTED_S)

    @property
    def left_s(self) -> float:
        return self.pace * sum(self._ahead)
