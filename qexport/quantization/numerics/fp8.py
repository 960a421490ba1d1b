"""FLOAT8E4M3FN: one sign, four exponent and three mantissa bits, no infinities (https://arxiv.org/abs/2209.05433)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.quantization.numerics.grid import channel_peaks, row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = np.float32(448)
"""The largest finite value."""
_SMALLEST_NORMAL = np.float32(2.0**-6)
_STEPS_BELOW = np.float32(2.0**9)
"""Steps in one unit: below the smallest normal value, codes count steps of 2**-9."""
_DROPPED_BITS = 20
"""Mantissa bits dropped: float32 has 23, and the upper three stay."""
_EXPONENT_SHIFT = (127 - 7) << 3
"""Difference of the exponents' biases, above three mantissa bits."""


def encode(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The code of each value, rounded to nearest, ties to even; values beyond ±448 become ±448. NaN has no code."""
    magnitude = np.minimum(np.abs(values), LARGEST)
    bits = magnitude.view(np.uint32)
    # Add half a step, less one if the last kept bit is even; a carry moves into the exponent.
    half = np.uint32((1 << (_DROPPED_BITS - 1)) - 1)
    normal = ((bits + half + (bits >> _DROPPED_BITS & 1)) >> _DROPPED_BITS) - np.uint32(_EXPONENT_SHIFT)
    small = np.rint(magnitude * _STEPS_BELOW).astype(np.uint32)
    codes = np.where(magnitude < _SMALLEST_NORMAL, small, normal).astype(np.uint8)
    codes |= np.signbit(values).astype(np.uint8) << np.uint8(7)
    return codes


def _decoded() -> NDArray[np.float32]:
    codes = np.arange(128)
    exponents, mantissas = codes >> 3, codes & 7
    values = np.where(exponents == 0, mantissas * 2.0**-9, (8 + mantissas) * 2.0 ** (exponents - 10.0))
    values[127] = np.nan
    return np.asarray(np.concatenate([values, -values]), np.float32)


VALUES = _decoded()
"""The value of each code, ``[256]``; those of 127 and 255 are NaN."""


def tensor_scale(peak: float) -> np.float32:
    """The scale that maps this magnitude to the largest value; 1 for zero."""
    return np.float32(peak) / LARGEST if peak > 0 else np.float32(1)


def quantize(weight: NDArray[np.float32], axis: int | None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round a matrix to codes; the largest magnitude of each channel, or of the matrix, becomes 448.

    Args:
        weight: ``[in, out]`` with channels along axis 1, or rows with axis 0.
        axis: the axis of the channels; None for one scale.

    Returns:
        The codes in the shape of ``weight``, and the scales ``[channels]`` or ``[]``. A channel of zeros has the scale
        1.
    """
    peaks = channel_peaks(weight, axis=0 if axis is None else axis)
    peak = peaks.max() if axis is None else peaks
    scale = np.asarray(np.where(peak > 0, peak / LARGEST, np.float32(1)), np.float32)
    codes = np.empty(weight.shape, np.uint8)
    for block in row_blocks(weight.shape):
        codes[block] = encode(weight[block] / (scale[block][:, None] if axis == 0 else scale))
    return codes, scale
