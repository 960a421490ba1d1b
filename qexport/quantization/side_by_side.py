"""Runs a float graph and the graph that is being rounded side by side, part by part.

GPTQ rounds the weights that share an input together. It needs that input in both graphs: in the float model, and as the
weights rounded so far have changed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ContractError
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
        hessian: NDArray[np.float64] | float = 0.0
        drift: NDArray[np.float64] | float = 0.0
        rows = 0
        for x, y in zip(self._exact.batches(tensor), self._rounded.batches(tensor), strict=True):
            hessian += y.T @ y
            drift += np.subtract(x, y, out=x).T @ y
            rows += len(y)
        if not (np.isfinite(hessian).all() and np.isfinite(drift).all()):
            raise ContractError(f"{tensor}: not finite on the calibration text; the model overflows in fp32")
        return Drifted(hessian=np.asarray(hessian) / rows, drift=np.asarray(drift) / rows)
