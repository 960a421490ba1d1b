"""HQQ: block ranges under which most weights are close and a few large errors remain. It needs no calibration text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.quantization.numerics.blocks import Blocks, Grid, full_range, join, nearest, split, storable
from qexport.quantization.numerics.grid import row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

POWER = 0.7
"""The exponent of the errors in the objective."""
ROUNDS = 20
"""Rounds of the solver."""
SHARPNESS = 10.0
"""The higher this is, the smaller are the errors that the solver's first round treats as outliers."""


def hqq(weight: Floats, grid: Grid) -> Blocks:
    """Round a weight ``[out, in]`` with the scale and zero point of each block chosen for the lp-norm of its errors.

    The half-quadratic solver of Badri and Shaji (https://mobiusml.github.io/hqq_blog/) alternates two steps. It shrinks
    the errors, which leaves the few large ones. It then fits the range by least squares to the weights without those
    errors. Here the scale is fitted as well as the zero point, because the kernels take zero points in whole steps and
    a symmetric grid has none. Each block keeps the result with the least :func:`objective` of all rounds and of plain
    rounding. The solver starts from the full range and stays near it. This is better: ranges from narrower starts have
    a smaller objective, but clip enough weights to make the perplexity worse than with plain rounding.
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

    It is in float64, like all sums and powers here: in float32 the last bits differ between CPUs.
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
    """The errors treated as outliers, and zeros elsewhere: the proximal step of the lp-norm, in units of the scale."""
    unit = np.abs(scale)[..., None]
    size = (np.abs(error) / unit).astype(np.float64)
    size -= np.maximum(size, 1e-6) ** (POWER - 1) / sharpness
    return np.copysign(np.maximum(size, 0, out=size) * unit, error)


def _fit(target: NDArray[np.float64], levels: Floats, scale: Floats, zero: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """The scales and whole zero points that bring the levels closest to a target, by least squares."""
    if not grid.symmetric:
        middle = levels.mean(axis=-1, dtype=np.float64) - target.mean(axis=-1) / scale
        zero = np.clip(np.rint(middle), 0, grid.top).astype(np.float32)
    steps = (levels - zero[..., None]).astype(np.float64)
    along = np.einsum("...b,...b->...", steps, target)
    length = np.einsum("...b,...b->...", steps, steps)
    fitted = np.divide(along, length, out=scale.astype(np.float64), where=length > 0).astype(np.float32)
    usable = fitted / scale > 0.5
    return np.where(usable, storable(fitted, grid), scale), zero
