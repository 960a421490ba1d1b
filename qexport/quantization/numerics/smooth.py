"""SmoothQuant: scales that move rounding difficulty from an activation's channels into the weights that multiply them.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
https://arxiv.org/abs/2211.10438. The paper has one migration strength for a model. Here each activation has its own,
found by the error that rounding leaves in the products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qexport.quantization.numerics.grid import channel_peaks, quantize_channels

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTHS = tuple(step / 20 for step in range(21))
"""Migration strengths tried. 0 keeps the differences between the activation's channels; 1 makes all channels alike."""
COLUMNS = 512
"""Output columns of a group used in the search, evenly spaced."""
SMALLEST = 1e-6
"""Lower bound of a peak, as a share of the largest: a channel that is never used gets no extreme scale."""

Rounding = Callable[["NDArray[np.float32]", "NDArray[np.float32]"], "NDArray[np.float32]"]
"""Rounds rows of an activation, ``[rows, in]``, to its 8-bit grid and back. A range that is fixed beforehand is taken
from the second argument, which holds other rows of the activation."""


def smoothing_scale(
    activation: NDArray[np.float32], weight: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    """``activation ** strength / weight ** (1 - strength)`` (equation 4), with a geometric mean of 1.

    Args:
        activation: the largest magnitude of each channel, ``[in]``.
        weight: the largest magnitude in each channel's row of the weights, ``[in]``.
        strength: the migration strength, from 0 to 1.

    Returns:
        The scales ``[in]`` that divide the activation and multiply the rows of the weights.
    """
    exponent = strength * _log(activation) - (1.0 - strength) * _log(weight)
    return np.asarray(np.exp(exponent - exponent.mean()), np.float32)


def search(
    rows: NDArray[np.float32],
    peaks: NDArray[np.float32],
    weights: Sequence[NDArray[np.float32]],
    *,
    rounded: Rounding,
    levels: int,
    paired: bool = False,
    fixed: bool,
) -> NDArray[np.float32] | None:
    """The scale with the least error of the quantized product; None if the error is no larger without smoothing.

    Fixed ranges and their scales are tried on other rows than those that they are taken from: smoothing brings the
    peaks of all channels to the end of the range, and unseen rows go beyond it.

    Args:
        rows: a sample of the activation, ``[rows, in]``.
        peaks: the largest magnitude in each channel of the activation, ``[in]``.
        weights: all weights that multiply the activation, each ``[in, out]``.
        rounded: the function that rounds the activation.
        levels: the integer that the largest weight of an output channel becomes.
        paired: see :func:`qexport.quantization.numerics.grid.quantize_channels`.
        fixed: True if the activation's range is fixed beforehand.
    """
    together = np.concatenate([_some_columns(weight, len(weights)) for weight in weights], axis=1)
    weight_peaks = np.asarray(np.max([channel_peaks(weight, axis=0) for weight in weights], axis=0), np.float32)
    seen, tried = (rows[::2], rows[1::2]) if fixed else (rows, rows)
    seen_peaks = np.abs(seen).max(axis=0) if fixed else peaks
    exact = tried.astype(np.float64) @ together

    def error(scale: NDArray[np.float32]) -> float:
        integers, steps = quantize_channels(together * scale[:, None], axis=1, levels=levels, paired=paired)
        # In float64, so that no BLAS decides which strength is the best.
        product = rounded(tried / scale, seen / scale).astype(np.float64) @ (integers * steps)
        return float(np.square(product - exact).sum())

    errors = {strength: error(smoothing_scale(seen_peaks, weight_peaks, strength)) for strength in STRENGTHS}
    best = min(errors, key=errors.__getitem__)
    if errors[best] >= error(np.ones(len(peaks), np.float32)):
        return None
    return smoothing_scale(peaks, weight_peaks, best)


def round_asymmetric(rows: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Round to 256 steps from ``low`` to ``high`` and back; values outside are clipped. Zero stays zero."""
    step = np.float32((high - low) / 255.0 or 1.0)
    zero = np.rint(np.float32(-low) / step)
    return np.asarray((np.clip(np.rint(rows / step) + zero, 0, 255) - zero) * step, np.float32)


def round_symmetric(rows: NDArray[np.float32], peak: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """Round to 127 steps on each side of zero and back; ``peak`` is one number, or ``[rows, 1]``."""
    step = np.asarray(peak, np.float32) / np.float32(127.0)
    step = np.where(step > 0, step, np.float32(1.0))
    return np.asarray(np.clip(np.rint(rows / step), -127, 127) * step, np.float32)


def _log(peaks: NDArray[np.float32]) -> NDArray[np.float64]:
    largest = float(peaks.max()) or 1.0
    return np.asarray(np.log(np.maximum(peaks.astype(np.float64), SMALLEST * largest)))


def _some_columns(weight: NDArray[np.float32], shared_by: int) -> NDArray[np.float32]:
    return weight[:, :: max(1, weight.shape[1] * shared_by // COLUMNS)]
