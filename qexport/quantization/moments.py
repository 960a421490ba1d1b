"""Second moments and mean magnitudes of activations on calibration text, for GPTQ and AWQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ContractError
from qexport.quantization import calibration

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs import TokenSet

ROWS_AT_ONCE = 512
"""Rows that are multiplied at once. With the single rows of decoding steps, most time would go into adding matrices."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments of one activation ``[rows, channels]`` over all tokens of the calibration text."""

    hessian: NDArray[np.float64]
    """``x.T @ x / rows``, ``[channels, channels]``."""
    magnitude: NDArray[np.float32]
    """The mean of ``|x|``, ``[channels]``."""


def moments(
    model: ir.Model, tensors: Sequence[str], tokens: TokenSet, *, what: str = "calibrating"
) -> Mapping[str, Moments]:
    """Run the calibration text through a graph and compute the moments of some activations.

    The activations are streamed: memory holds one ``[channels, channels]`` matrix for each of them.

    Args:
        model: the prepared graph in fp32; it does not change.
        tensors: the names of the activations.
        tokens: the windows of text.
        what: the label of the progress bar.

    Raises:
        InputError: there are no windows.
        ContractError: an activation is not finite.
    """
    calibration.require_windows(tokens)
    names = sorted(set(tensors))
    sums = {name: _Sums() for name in names}
    for values in calibration.stream(model.clone(), names, tokens, what=what):
        for name in names:
            sums[name].add(values[name])
    return {name: sums[name].moments(name) for name in names}


class _Sums:
    """The running sums for the moments of one activation."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_rows = self._rows = 0
        self._hessian: NDArray[np.float64] | float = 0.0
        self._magnitude: NDArray[np.float64] | float = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Add an activation ``[..., channels]``."""
        rows = values.reshape(-1, values.shape[-1])
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
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
