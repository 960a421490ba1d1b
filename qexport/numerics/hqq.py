"""HQQ: ranges of blocks under which most weights come out close, few large errors allowed for; without any text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.numerics.blocks import Blocks, Grid, full_range, join, nearest, split, storable
from qexport.numerics.grid import row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

POWER = 0.7
"""Errors count with this power of their size."""
ROUNDS = 20
"""Rounds of the solver."""
SHARPNESS = 10.0
"""How small the errors are that the solver's first round takes for outliers; it falls as this rises."""


def hqq(weight: Floats, grid: Grid) -> Blocks:
    """Round a weight ``[out, in]`` with the scale and zero point of each block chosen for the lp-norm of its errors.

    The half-quadratic solver of Badri and Shaji (https://mobiusml.github.io/hqq_blog/) takes turns: the errors are
    shrunk, which leaves the few large ones, and the range is then fitted to the weights without those by least squares.
    Here the scale is fitted as well as the zero point, because the kernels take zero points in whole steps, and a
    symmetric grid has none. Of all rounds, and the plain rounding, each block keeps the one with the least
    :func:`objective`. The solver sets out from the full range and stays near it, which is as well: ranges of a smaller
    objective, found from narrower starts, cut so many weights that the perplexity is worse than with plain rounding.
    """
    scale = np.empty((len(weight), grid.blocks(weight.shape[1])), np.float32)
    zero = np.empty_like(scale)
    integers = np.empty(weight.shape, np.uint8)
    for rows in row_blocks(weight.shape):
        blocks = split(weight[rows], grid)
        scale[rows], zero[rows] = _fitted_range(blocks, grid)
        integers[rows] = join(nearest(blocks, scale[rows], zero[rows], grid), weight.shape[1])
    return Blocks(
        integers=integers, scale=scale, zero_point=None if grid.symmetric else zero.astype(np.uint8), grid=grid
    )


def objective(error: Floats) -> NDArray[np.float64]:
    """Sum of the powers of the errors of each block, ``[...]`` from ``[..., block]``.

    In float64, as all sums and powers here: those of float32 differ with the CPU in their last bits.
    """
    return np.asarray((np.abs(error.astype(np.float64)) ** POWER).sum(axis=-1))


def _fitted_range(blocks: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """The scales and zero points ``[...]`` of the best round of the solver for weights ``[..., block]``."""
    scale, zero = full_range(blocks, grid)
    best = scale.copy(), zero.copy()
    least = np.full(scale.shape, np.inf)
    for number in range(ROUNDS):
        levels = nearest(blocks, scale, zero, grid)
        error = blocks - (levels - zero[..., None]) * scale[..., None]
        loss = objective(error)
        better = loss < least
        np.copyto(least, loss, where=better)
        for kept, new in zip(best, (scale, zero), strict=True):
            np.copyto(kept, new, where=better)
        target = blocks - _shrunk(error, scale, SHARPNESS * 1.1**number)
        scale, zero = _fit(target, levels, scale, zero, grid)
    return best


def _shrunk(error: Floats, scale: Floats, sharpness: float) -> NDArray[np.float64]:
    """The errors that are taken for outliers, and zeros: the proximal step of the lp-norm, in units of the scale."""
    unit = np.abs(scale)[..., None]
    size = (np.abs(error) / unit).astype(np.float64)
    size -= np.maximum(size, 1e-6) ** (POWER - 1) / sharpness
    return np.copysign(np.maximum(size, 0, out=size) * unit, error)


def _fit(target: NDArray[np.float64], levels: Floats, scale: Floats, zero: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """The scales and whole zero points with which the levels lie closest to a target, by least squares."""
    if not grid.symmetric:
        middle = levels.mean(axis=-1, dtype=np.float64) - target.mean(axis=-1) / scale
        zero = np.clip(np.rint(middle), 0, grid.top).astype(np.float32)
    steps = (levels - zero[..., None]).astype(np.float64)
    along = np.einsum("...b,...b->...", steps, target)
    length = np.einsum("...b,...b->...", steps, steps)
    fitted = np.divide(along, length, out=scale.astype(np.float64), where=length > 0).astype(np.float32)
    usable = fitted / scale > 0.5
    return np.where(usable, storable(fitted, grid), scale), zero
