"""Second moments and mean magnitudes of activations on calibration text, for GPTQ and AWQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qexport.quantization.walk import Walk

ROWS_AT_ONCE = 2048
"""Rows that are multiplied at once. With the few rows of a window, much of the time would go into adding matrices."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments of one activation ``[rows, channels]`` over all tokens of the calibration text."""

    hessian: NDArray[np.float64]
    """``x.T @ x / rows``, ``[channels, channels]``."""
    magnitude: NDArray[np.float32]
    """The mean of ``|x|``, ``[channels]``."""


def moments(walk: Walk, tensor: str) -> Moments:
    """The moments of an activation; those of activations before it can no longer be asked for.

    Raises:
        ContractError: the activation is not finite.
    """
    sums = _Sums()
    for rows in walk.rows(tensor):
        sums.add(rows)
    return sums.moments(tensor)


class _Sums:
    """The running sums for the moments of one activation."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_rows = self._rows = 0
        self._hessian: NDArray[np.float64] | float = 0.0
        self._magnitude: NDArray[np.float64] | float = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Add rows ``[rows, channels]``."""
        self._waiting.append(values)
        self._waiting_rows += len(values)
        if self._waiting_rows >= ROWS_AT_ONCE:
            self._sum_up()

    def _sum_up(self) -> None:
        x = np.concatenate(self._waiting).astype(np.float64)
        self._hessian += x.T @ x
        self._magnitude += np.abs(x).sum(axis=0)
        self._rows += len(x)
        self._waiting.clear()
        self._waiting_rows = 0

    def moments(self, name: str) -> Moments:
        """The moments over all rows added; ``name`` is the activation's name, for the message."""
        if self._waiting:
            self._sum_up()
        hessian, magnitude = np.asarray(self._hessian), np.asarray(self._magnitude)
        if not np.isfinite(hessian).all():
            raise ContractError(f"{name}: not finite on the calibration text; the model overflows in fp32")
        return Moments(hessian=hessian / self._rows, magnitude=(magnitude / self._rows).astype(np.float32))
