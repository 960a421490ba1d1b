"""The 4-bit floating-point formats NF4 and FP4, bit for bit as in bitsandbytes: code books, rounding, packing.

A weight is flattened and cut into blocks of 64. Each block is divided by its largest magnitude, which is stored in
float32. The quotients lie between -1 and 1 and are rounded to the nearest of 16 values. NF4 is the format of QLoRA
(https://arxiv.org/abs/2305.14314): quantiles of the normal distribution. FP4 has a sign, two exponent bits and one
mantissa bit.

The rounding is that of bitsandbytes 0.50.2 without CUDA (``bitsandbytes::quantize_4bit``, "default"). Its CUDA kernel
has the same midpoints as decimals. Some of these are one or two float32 steps away, so a value there may get the
neighbouring code. The operator MatMulBnb4 of ``com.microsoft`` reads the same packed form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

Kind = Literal["nf4", "fp4"]

BLOCK_SIZE = 64
"""Weights that share one scale."""
PART_ELEMENTS = 1 << 18
"""Weights are rounded in parts of this many elements, a multiple of twice the block size, to bound the extra memory."""

CODE_BOOKS: Mapping[Kind, NDArray[np.float32]] = {
    "nf4": np.array(
        [
            -1.0,
            -0.6961928009986877,
            -0.5250730514526367,
            -0.39491748809814453,
            -0.28444138169288635,
            -0.18477343022823334,
            -0.09105003625154495,
            0.0,
            0.07958029955625534,
            0.16093020141124725,
            0.24611230194568634,
            0.33791524171829224,
            0.44070982933044434,
            0.5626170039176941,
            0.7229568362236023,
            1.0,
        ],
        np.float32,
    ),
    "fp4": np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32) / np.float32(12),
}
"""The value of each code from 0 to 15. FP4 has two zeros, 0 and 8; both are positive here."""

_SMALLEST_PEAK = np.float32(1e-38)
"""A block's largest magnitude is raised to at least this before it divides."""
_STABLE = {kind: np.argsort(book, kind="stable").astype(np.uint8) for kind, book in CODE_BOOKS.items()}
"""The codes in the order of their values."""
_MIDPOINTS = {
    kind: (CODE_BOOKS[kind][order[:-1]] + CODE_BOOKS[kind][order[1:]]) / np.float32(2)
    for kind, order in _STABLE.items()
}
"""Midpoints between neighbouring values; a weight on a midpoint takes the lower value."""


def packed_sizes(elements: int) -> tuple[int, int]:
    """The bytes of codes and the number of block scales of a weight with this many elements."""
    return -(-elements // 2), -(-elements // BLOCK_SIZE)


def quantize(weight: NDArray[np.float32], kind: Kind) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round a weight to the 16 values of a code book, in blocks over its elements in C order.

    Args:
        weight: the finite weight of any shape; ``[out, in]`` for a linear layer.
        kind: the code book.

    Returns:
        The codes packed two to a byte, the first in the high half, and each block's largest magnitude. If the number of
        codes is odd, the last half byte is the code of zero. Their sizes are :func:`packed_sizes`.
    """
    flat = weight.reshape(-1)
    code_bytes, blocks = packed_sizes(flat.size)
    packed, peaks = np.empty(code_bytes, np.uint8), np.empty(blocks, np.float32)
    for part in _parts(flat.size):
        codes, peak = _codes(flat[part], kind)
        packed[part.start // 2 : part.start // 2 + codes.size // 2] = codes[::2] << 4 | codes[1::2]
        peaks[part.start // BLOCK_SIZE : part.start // BLOCK_SIZE + peak.size] = peak
    return packed, peaks


def dequantize(
    packed: NDArray[np.uint8], peaks: NDArray[np.float32], shape: tuple[int, ...], kind: Kind
) -> NDArray[np.float32]:
    """The weight of this shape that :func:`quantize` packed: each code's value times its block's largest magnitude."""
    flat = np.empty(int(np.prod(shape)), np.float32)
    for part in _parts(flat.size):
        elements = part.stop - part.start
        halves = packed[part.start // 2 : -(-part.stop // 2)]
        codes = np.stack([halves >> 4, halves & 15], axis=1).reshape(-1)[:elements]
        scales = np.repeat(peaks[part.start // BLOCK_SIZE : -(-part.stop // BLOCK_SIZE)], BLOCK_SIZE)[:elements]
        np.multiply(CODE_BOOKS[kind][codes], scales, out=flat[part])
    return flat.reshape(shape)


def _parts(elements: int) -> Iterator[slice]:
    for start in range(0, elements, PART_ELEMENTS):
        yield slice(start, min(start + PART_ELEMENTS, elements))


def _codes(flat: NDArray[np.float32], kind: Kind) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The codes of whole blocks and a last one that may be short, padded to an even number; and the blocks' peaks."""
    whole = flat.size - flat.size % BLOCK_SIZE
    blocks = flat[:whole].reshape(-1, BLOCK_SIZE)
    peaks = np.abs(blocks).max(axis=1)
    # Whole blocks are multiplied by a reciprocal and a short one is divided: the last bit decides at midpoints.
    scaled = [(blocks * (np.float32(1) / np.maximum(peaks, _SMALLEST_PEAK))[:, None]).reshape(-1)]
    if whole < flat.size:
        peak = np.maximum(np.abs(flat[whole:]).max(), _SMALLEST_PEAK)
        scaled += [flat[whole:] / peak, np.zeros(flat.size % 2, np.float32)]
        peaks = np.append(peaks, peak)
    places = np.searchsorted(_MIDPOINTS[kind], np.clip(np.concatenate(scaled), -1, 1), side="left")
    return _STABLE[kind][places], peaks
