"""HQQ: ranges of blocks under which most weights come out close, few large errors allowed for; without any text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.numerics.blocks import Blocks, Grid, full_range, join, nearest, split, storable
from qexport.numerics.grid import row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

POWER = np.float32(0.7)
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


def objective(error: Floats) -> Floats:
    """Sum of the powers of the errors of each block, ``[...]`` from ``[..., block]``."""
    return np.asarray((np.abs(error) ** POWER).sum(axis=-1), np.float32)


def _fitted_range(blocks: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """The scales and zero points ``[...]`` of the best round of the solver for weights ``[..., block]``."""
    scale, zero = full_range(blocks, grid)
    best = scale.copy(), zero.copy()
    least = np.full(scale.shape, np.inf, np.float32)
    for number in range(ROUNDS):
        levels = nearest(blocks, scale, zero, grid)
        error = blocks - (levels - zero[..., None]) * scale[..., None]
        loss = objective(error)
        better = loss < least
        for kept, new in zip((least, *best), (loss, scale, zero), strict=True):
            np.copyto(kept, new, where=better)
        target = blocks - _shrunk(error, scale, np.float32(SHARPNESS * 1.1**number))
        scale, zero = _fit(target, levels, scale, zero, grid)
    return best


def _shrunk(error: Floats, scale: Floats, sharpness: np.float32) -> Floats:
    """The errors that are taken for outliers, and zeros: the proximal step of the lp-norm, in units of the scale."""
    unit = np.abs(scale)[..., None]
    size = np.abs(error) / unit
    size -= np.maximum(size, np.float32(1e-6)) ** (POWER - 1) / sharpness
    return np.copysign(np.maximum(size, 0, out=size) * unit, error)


def _fit(target: Floats, levels: Floats, scale: Floats, zero: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """The scales and whole zero points with which the levels lie closest to a target, by least squares."""
    steps = levels - zero[..., None]
    if not grid.symmetric:
        zero = np.clip(np.rint(levels.mean(axis=-1) - target.mean(axis=-1) / scale), 0, grid.top)
        steps = levels - zero[..., None]
    along = np.einsum("...b,...b->...", steps, target)
    length = np.einsum("...b,...b->...", steps, steps)
    fitted = np.divide(along, length, out=scale.copy(), where=length > 0)
    usable = fitted / scale > 0.5
    return np.where(usable, storable(fitted, grid), scale), zero
