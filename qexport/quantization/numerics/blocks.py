"""Rounding of weights to 4- and 8-bit grids with one scale for each block of inputs, and packing.

The packed forms are those of the operators MatMulNBits and GatherBlockQuantized of ``com.microsoft``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats = TypeVar("Floats", "NDArray[np.float32]", "NDArray[np.float64]")

PART_ELEMENTS = 1 << 18
"""Weights are rounded and packed in parts of about this many elements, which stay in a core's cache."""
SMALLEST_SCALE = {"float16": np.float32(2.0**-24), "float32": np.finfo(np.float32).tiny}
"""The smallest scale that is stored. Weights below half of it become zero."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The levels that a block of weights is rounded to."""

    bits: Literal[4, 8]
    block_size: int
    """Weights that share a scale, along the input axis: 16, 32, 64 or 128."""
    symmetric: bool
    """True if the zero point is the middle level everywhere; it is then not stored."""
    scale_dtype: Literal["float16", "float32"] = "float32"
    """The type of the stored scales. Scales are rounded to it before the weights are rounded with them."""

    @property
    def top(self) -> int:
        """The highest level; the lowest is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 1 << (self.bits - 1)

    def blocks(self, columns: int) -> int:
        """The number of blocks in a row of ``columns`` weights; the last block may be short."""
        return -(-columns // self.block_size)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """One weight ``[out, in]``, rounded: ``w[o, i] ~ (integers[o, i] - zero_point[o, b]) * scale[o, b]``.

    Here ``b`` is ``i // grid.block_size``, and the zero point of a symmetric grid is ``grid.middle``.
    """

    integers: NDArray[np.uint8]
    """``[out, in]``, each from 0 to ``grid.top``."""
    scale: NDArray[np.float32]
    """``[out, blocks]``, exact in the grid's ``scale_dtype``; never zero, but negative for some symmetric blocks."""
    zero_point: NDArray[np.uint8] | None
    """``[out, blocks]``; None if the grid is symmetric."""
    grid: Grid

    def dequantize(self) -> NDArray[np.float32]:
        """The weights ``[out, in]`` as the kernels compute them: ``(q - z) * s`` in float32."""
        weight = np.empty(self.integers.shape, np.float32)
        for rows in parts(weight.shape):
            levels = split(self.integers[rows], self.grid).astype(np.float32)
            levels -= self.grid.middle if self.zero_point is None else self.zero_point[rows, :, None]
            levels *= self.scale[rows, :, None]
            weight[rows] = join(levels, weight.shape[1])
        return weight

    def rows(self, part: slice) -> Blocks:
        """Some rows of the weight, over the same memory."""
        zero = None if self.zero_point is None else self.zero_point[part]
        return Blocks(integers=self.integers[part], scale=self.scale[part], zero_point=zero, grid=self.grid)


def rtn(weight: NDArray[np.float32], grid: Grid) -> Blocks:
    """Round each weight ``[out, in]`` to the nearest level of its block.

    An asymmetric grid spans zero and the weights of its block; each weight is off by at most half a scale. On a
    symmetric grid the weight of largest magnitude takes the lowest level, so that all levels are used; if that weight
    is positive, the scale is negative. A weight of almost the same magnitude and the opposite sign is off by up to a
    whole scale, since its side has one level less. With float16 scales, a block that needs a scale beyond 65504 is
    clipped to that range.
    """
    scale = np.empty((len(weight), grid.blocks(weight.shape[1])), np.float32)
    zero = np.empty(scale.shape, np.uint8)
    integers = np.empty(weight.shape, np.uint8)
    for rows in parts(weight.shape):
        blocks = split(weight[rows], grid)
        scale[rows], zeros = full_range(blocks, grid)
        zero[rows] = zeros
        integers[rows] = join(nearest(blocks, scale[rows], zeros, grid), weight.shape[1])
    return Blocks(integers=integers, scale=scale, zero_point=None if grid.symmetric else zero, grid=grid)


def split(weight: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """``[rows, in]`` as ``[rows, blocks, block_size]``: a view, or a copy if a last block is padded with zeros."""
    blocks = grid.blocks(weight.shape[1])
    missing = blocks * grid.block_size - weight.shape[1]
    full = np.pad(weight, ((0, 0), (0, missing))) if missing else weight
    return full.reshape(len(weight), blocks, grid.block_size)


def join(blocks: NDArray[Any], columns: int) -> NDArray[Any]:
    """The inverse of :func:`split`: ``[rows, columns]``."""
    return blocks.reshape(len(blocks), -1)[:, :columns]


def parts(shape: tuple[int, ...]) -> list[slice]:
    """Slices of the rows of a matrix, each of about :data:`PART_ELEMENTS`."""
    rows = max(1, PART_ELEMENTS // max(1, shape[1]))
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]


def full_range(blocks: NDArray[np.float32], grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales and zero points ``[...]`` that clip no weight of ``[..., block]``; see :func:`rtn`."""
    low, high = _reduce(np.minimum, blocks), _reduce(np.maximum, blocks)
    if grid.symmetric:
        scale = np.where(-low >= high, low, high) / np.float32(-grid.middle)
        return storable(scale, grid), np.full(scale.shape, grid.middle, np.float32)
    np.minimum(low, 0, out=low)
    np.maximum(high, 0, out=high)
    # Divide before adding: the span of float32 weights may overflow float32.
    scale = storable(high / np.float32(grid.top) - low / np.float32(grid.top), grid)
    return scale, np.clip(np.rint(-low / scale), 0, grid.top)


def storable(scale: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Scales in their stored form: exact in ``scale_dtype``, not smaller than given, and never zero."""
    size = np.maximum(np.abs(scale), SMALLEST_SCALE[grid.scale_dtype])
    size = np.where(scale == 0, np.float32(1.0), size)
    if grid.scale_dtype == "float16":
        half = np.minimum(size, np.float32(np.finfo(np.float16).max)).astype(np.float16)
        size = np.where(half < size, np.nextafter(half, np.float16(np.finfo(np.float16).max)), half).astype(np.float32)
    return np.copysign(size, scale)


def nearest(blocks: Floats, scale: Floats, zero: Floats, grid: Grid) -> Floats:
    """The levels ``[..., block]`` nearest to the weights, in their dtype; scales and zero points are ``[...]``."""
    levels = blocks / scale[..., None]
    np.rint(levels, out=levels)
    levels += zero[..., None]
    return np.clip(levels, 0, grid.top, out=levels)


def pack(
    blocks: Blocks,
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | NDArray[np.float16], NDArray[np.uint8] | None]:
    """The inputs B, scales and zero_points of MatMulNBits.

    Returns:
        The integers ``[out, blocks, block_size * bits / 8]``, the lower nibble first, a short last block padded with
        its zero point; the scales ``[out, blocks]`` in the grid's ``scale_dtype``; the zero points, packed in the same
        way, ``[out, ceil(blocks * bits / 8)]``, or None if the grid is symmetric.
    """
    grid, columns = blocks.grid, blocks.integers.shape[1]
    rows, count = blocks.scale.shape
    packed = np.empty((rows, count, grid.block_size * grid.bits // 8), np.uint8)
    short = columns % grid.block_size
    for part in parts(blocks.integers.shape):
        levels = split(blocks.integers[part], grid)
        if short:
            levels[:, -1, short:] = grid.middle if blocks.zero_point is None else blocks.zero_point[part, -1:]
        packed[part] = _nibbles(levels) if grid.bits == 4 else levels
    zero = blocks.zero_point
    if zero is not None and grid.bits == 4:
        zero = _nibbles(np.pad(zero, ((0, 0), (0, count % 2))))
    return packed, blocks.scale.astype(grid.scale_dtype), zero


def unpack(
    packed: NDArray[np.uint8],
    scales: NDArray[np.float32] | NDArray[np.float16],
    zero_points: NDArray[np.uint8] | None,
    *,
    grid: Grid,
    columns: int,
) -> Blocks:
    """The inverse of :func:`pack`; ``columns`` is the length of a row of the weight."""
    rows, count = scales.shape
    levels, zero = packed, zero_points
    if grid.bits == 4:
        levels = _from_nibbles(packed)
        zero = None if zero_points is None else _from_nibbles(zero_points)[:, :count]
    return Blocks(
        integers=np.ascontiguousarray(join(levels, columns)).reshape(rows, columns),
        scale=scales.astype(np.float32),
        zero_point=zero,
        grid=grid,
    )


def _reduce(function: np.ufunc, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """``function.reduce`` over the last axis, a power of two long; numpy's own takes twice as long for short axes."""
    half = blocks
    while (width := half.shape[-1] // 2) > 0:
        half = function(half[..., :width], half[..., width:])
    return np.asarray(half[..., 0], np.float32)


def _nibbles(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack pairs along the last axis into one byte, the first of a pair in the lower half."""
    pairs = np.ascontiguousarray(levels).view("<u2")
    packed: NDArray[np.uint8] = (pairs | pairs >> 4).astype(np.uint8)
    return packed


def _from_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of :func:`_nibbles`."""
    levels: NDArray[np.uint8] = np.stack([packed & 15, packed >> 4], axis=-1)
    return levels.reshape(*packed.shape[:-1], -1)
