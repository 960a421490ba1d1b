"""The error that rounding an activation to 8 bits leaves in the product with a weight, without the product itself.

An error in channel c of a token reaches the product with the energy of row c of the weight. Errors of different channels
count as independent. So elementwise sums are enough, which no BLAS decides and which take a hundredth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qexport.quantization.numerics.grid import channel_peaks, quantize_channels
from qexport.quantization.numerics.smooth import round_symmetric

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rounding = Callable[["NDArray[np.float32]", float, float], "NDArray[np.float32]"]
"""Rounds rows of an activation, ``[rows, in]``, to its 8-bit grid and back. The lowest and the highest value of the
activation on all text follow."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """An activation, and the weights that it is multiplied by, with the facts that an error estimate needs."""

    rows: NDArray[np.float32]
    """A sample of the activation, ``[rows, in]``."""
    shares: NDArray[np.float64]
    """The weights of the rows in a mean, ``[rows]``; they sum up to about 1."""
    lows: NDArray[np.float32]
    """The lowest value of each channel on all text, ``[in]``."""
    highs: NDArray[np.float32]
    """The highest value of each channel, ``[in]``."""
    weight: NDArray[np.float32]
    """Columns of the weights, ``[in, columns]``."""

    @property
    def peaks(self) -> NDArray[np.float32]:
        """The largest magnitude of each channel, ``[in]``."""
        return np.maximum(-self.lows, self.highs)

    @property
    def weight_peaks(self) -> NDArray[np.float32]:
        """The largest magnitude in each row of the weights, ``[in]``."""
        return channel_peaks(self.weight, axis=0)

    def scaled(self, scale: NDArray[np.float32]) -> Product:
        """The same product with channels divided by ``scale``, ``[in]``, and the weight's rows multiplied by it."""
        return replace(
            self,
            rows=self.rows / scale,
            lows=self.lows / scale,
            highs=self.highs / scale,
            weight=self.weight * scale[:, None],
        )

    def without(self, channels: NDArray[np.int64]) -> Product:
        """The product without some channels, which are multiplied in float."""
        rows, lows, highs, weight = self.rows.copy(), self.lows.copy(), self.highs.copy(), self.weight.copy()
        rows[:, channels] = 0.0
        lows[channels] = highs[channels] = 0.0
        weight[channels] = 0.0
        return replace(self, rows=rows, lows=lows, highs=highs, weight=weight)

    def token_energy(self) -> NDArray[np.float64]:
        """The energy of each token's product, ``[rows]``, and of the median token where a token has less.

        A token whose product is nearly zero adds next to nothing to the residual stream, and neither does its error.
        """
        energy = _energy(self.rows) @ _energy(self.weight).sum(axis=1)
        return np.asarray(np.maximum(np.maximum(energy, np.median(energy)), np.finfo(np.float64).tiny))


@dataclass(frozen=True, kw_only=True)
class WeightError:
    """The energy of the rows of a weight, and of the error that rounding leaves in them, both ``[in]``."""

    energy: NDArray[np.float64]
    error: NDArray[np.float64]


def weight_error(weight: NDArray[np.float32], *, levels: int, paired: bool) -> WeightError:
    """Round a weight ``[in, columns]`` as :func:`qexport.quantization.numerics.grid.quantize_channels` does."""
    integers, steps = quantize_channels(weight, axis=1, levels=levels, paired=paired)
    return WeightError(energy=_energy(weight).sum(axis=1), error=_energy(integers * steps - weight).sum(axis=1))


def relative_error(
    product: Product, weights: WeightError, energy: NDArray[np.float64], *, rounded: Rounding | None
) -> float:
    """The energy of the product's error, relative to the product's energy: the mean over tokens.

    Args:
        product: the activation, without the channels that are multiplied in float.
        weights: the error of the weights.
        energy: :meth:`Product.token_energy` of the whole product.
        rounded: rounds the activation for a range of the whole tensor; None gives each token its own symmetric range.
    """
    rows = product.rows
    if rounded is None:
        after = round_symmetric(rows, np.abs(rows).max(axis=1, keepdims=True))
    else:
        after = rounded(rows, min(float(product.lows.min()), 0.0), max(float(product.highs.max()), 0.0))
    lost = _energy(after - rows) @ weights.energy + _energy(rows) @ weights.error
    return float(product.shares @ (lost / energy))


def _energy(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.square(values, dtype=np.float64)
