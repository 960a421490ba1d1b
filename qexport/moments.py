"""What GPTQ and AWQ learn from calibration text: the second moments and the mean magnitudes of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport import calibration
from qexport.errors import ContractError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs.text import TokenSet

ROWS_AT_ONCE = 512
"""Rows that are multiplied at once: with the single row of a decoding step most time would go into adding matrices."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Of one activation ``[rows, channels]`` over all tokens of the calibration text."""

    hessian: NDArray[np.float64]
    """``x.T @ x / rows``, ``[channels, channels]``."""
    magnitude: NDArray[np.float32]
    """The mean of ``|x|``, ``[channels]``."""


def moments(
    model: ir.Model, tensors: Sequence[str], tokens: TokenSet, *, what: str = "calibrating"
) -> Mapping[str, Moments]:
    """Run the calibration text through a graph and gather the moments of some of its activations.

    The activations are streamed; what is held is one ``[channels, channels]`` matrix for each of them.

    Args:
        model: a prepared graph in fp32, which is left as it is.
        tensors: names of the activations.
        tokens: windows of text.
        what: for the progress bar.

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
    """The sums that the moments of one activation are made of."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_rows = self._rows = 0
        self._hessian: NDArray[np.float64] | float = 0.0
        self._magnitude: NDArray[np.float64] | float = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in an activation ``[..., channels]``."""
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
        """The moments of all rows taken in, of the activation ``name``."""
        if self._waiting:
            self._sum_up()
        hessian, magnitude = np.asarray(self._hessian), np.asarray(self._magnitude)
        if not np.isfinite(hessian).all():
            raise ContractError(f"{name}: not finite on the calibration text; the model overflows in fp32")
        return Moments(hessian=hessian / self._rows, magnitude=(magnitude / self._rows).astype(np.float32))
