"""Rounding weights to 8-bit grids: symmetric, one scale for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_ELEMENTS = 1 << 22
"""Weights are processed in blocks of about this many elements, which bounds the extra memory to 16 MiB a copy."""


def row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Slices of the rows of a matrix of this shape, each of about :data:`BLOCK_ELEMENTS`."""
    rows = max(1, BLOCK_ELEMENTS // max(1, shape[1]))
    return [slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


def channel_peaks(weight: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
    """Largest magnitude in each channel of a matrix, ``[channels]``; channels run along ``axis``."""
    peaks = [np.abs(weight[block]).max(axis=1 - axis) for block in row_blocks(weight.shape)]
    return np.asarray(np.concatenate(peaks) if axis == 0 else np.max(peaks, axis=0), np.float32)


def pair_peaks(weight: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
    """Largest magnitude of a weight, or of the sum of two neighbours, in each channel of a matrix, ``[channels]``.

    Neighbours are inputs 2j and 2j + 1. CPUs without VNNI multiply u8 by s8 and add the products of two neighbours in
    16 bits (``vpmaddubsw``), which hold 255 times 128.
    """
    peaks = channel_peaks(weight, axis=axis)
    rows = weight if axis == 1 else weight.T
    even = len(rows) // 2 * 2
    for block in row_blocks((even // 2, rows.shape[1])):
        first, second = rows[:even:2][block], rows[1:even:2][block]
        np.maximum(peaks, np.abs(first + second).max(axis=0), out=peaks)
    return peaks


def quantize_channels(
    weight: NDArray[np.float32], *, axis: int, levels: int, paired: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a matrix to the integers ``-levels..levels``; the largest magnitude of each channel becomes ``levels``.

    Args:
        weight: ``[in, out]`` with ``axis=1``, or rows with ``axis=0``.
        axis: the axis along which channels run.
        levels: 127 for the full grid of int8, 64 for the reduced one.
        paired: the larger of that magnitude and of :func:`pair_peaks` becomes ``levels``, so that the integers of two
            neighbours add up to at most ``levels`` + 1 in magnitude.

    Returns:
        The integers in the shape of ``weight``, and the scales ``[channels]``. A channel of zeros has the scale 1.
    """
    peak = pair_peaks(weight, axis=axis) if paired else channel_peaks(weight, axis=axis)
    scale = np.where(peak > 0, peak / np.float32(levels), np.float32(1.0)).astype(np.float32)
    integers = np.empty(weight.shape, np.int8)
    for block in row_blocks(weight.shape):
        steps = weight[block] / (scale[block][:, None] if axis == 0 else scale)
        np.clip(np.rint(steps, out=steps), -levels, levels, out=steps)
        integers[block] = steps
    return integers, scale
