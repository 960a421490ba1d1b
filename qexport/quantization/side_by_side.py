"""Runs a float graph and the graph that is being rounded side by side, part by part.

GPTQ rounds the weights that share an input together. It needs that input in both graphs: in the float model, and as the
weights rounded so far have changed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ContractError
from qexport.quantization.moments import ROWS_AT_ONCE
from qexport.quantization.walk import Walk

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs import TokenSet


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """Second moments of one activation over all tokens; ``X`` in the float graph, ``Y`` in the rounded one."""

    hessian: NDArray[np.float64]
    """``Y.T @ Y / rows``, ``[channels, channels]``."""
    drift: NDArray[np.float64]
    """``(X - Y).T @ Y / rows``, ``[channels, channels]``."""


class _Sums:
    """The running sums of the moments, over rows of both graphs."""

    def __init__(self) -> None:
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self._waiting_rows = self._rows = 0
        self._hessian: NDArray[np.float64] | float = 0.0
        self._drift: NDArray[np.float64] | float = 0.0

    def add(self, exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> None:
        self._waiting.append((exact, rounded))
        self._waiting_rows += len(rounded)
        if self._waiting_rows >= ROWS_AT_ONCE:
            self._sum_up()

    def _sum_up(self) -> None:
        x, y = (np.concatenate(part).astype(np.float64) for part in zip(*self._waiting, strict=True))
        self._hessian += y.T @ y
        self._drift += np.subtract(x, y, out=x).T @ y
        self._rows += len(y)
        self._waiting.clear()
        self._waiting_rows = 0

    def moments(self) -> Drifted:
        """The moments over all rows added."""
        if self._waiting:
            self._sum_up()
        hessian, drift = np.asarray(self._hessian), np.asarray(self._drift)
        return Drifted(hessian=hessian / self._rows, drift=drift / self._rows)


class SideBySide:
    """Two graphs of the same nodes over the same windows of tokens."""

    def __init__(self, exact: ir.Model, rounded: ir.Model, tokens: TokenSet) -> None:
        """Hold the two graphs; nothing runs yet.

        Args:
            exact: the float graph, which loses its weights on the way.
            rounded: the graph whose weights change between the calls of :meth:`moments`, always behind the activations
                asked for already.
            tokens: the windows; each runs whole and without a past.
        """
        self._exact, self._rounded = Walk(exact, tokens, consume=True), Walk(rounded, tokens)

    def moments(self, tensor: str) -> Drifted:
        """The moments of an activation; those of activations before it can no longer be asked for.

        Raises:
            ContractError: the activation is not finite.
        """
        sums = _Sums()
        for x, y in zip(self._exact.rows(tensor), self._rounded.rows(tensor), strict=True):
            sums.add(x, y)
        found = sums.moments()
        if not (np.isfinite(found.hessian).all() and np.isfinite(found.drift).all()):
            raise ContractError(f"{tensor}: not finite on the calibration text; the model overflows in fp32")
        return found
