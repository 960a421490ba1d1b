"""HQQ: block ranges under which most weights are close and a few large errors remain. It needs no calibration text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import cpu
from qexport.quantization.numerics.blocks import Blocks, Grid, full_range, join, nearest, parts, split, storable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

POWER = 0.75
"""The exponent of the errors in the objective. This power is a product of square roots, which every CPU rounds alike."""
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

    Every sum adds in a fixed order and every function is exact to the last bit, so every CPU gives the same integers.
    """
    scale = np.empty((len(weight), grid.blocks(weight.shape[1])), np.float32)
    zero = np.empty_like(scale)
    integers = np.empty(weight.shape, np.uint8)

    def fill(rows: slice) -> None:
        blocks = split(weight[rows], grid)
        scale[rows], zero[rows] = _fitted_range(blocks, grid)
        integers[rows] = join(nearest(blocks, scale[rows], zero[rows], grid), weight.shape[1])

    with ThreadPoolExecutor(cpu.cores()) as pool:
        for _ in pool.map(fill, parts(weight.shape)):
            pass
    return Blocks(
        integers=integers, scale=scale, zero_point=None if grid.symmetric else zero.astype(np.uint8), grid=grid
    )


def objective(error: Floats) -> Floats:
    """Sum of the powers of the errors of each block, ``[...]`` from ``[block, ...]``."""
    return np.asarray(_power(np.abs(error)).sum(axis=0))


def _power(size: Floats, out: Floats | None = None) -> Floats:
    """Sizes to the power of :data:`POWER`."""
    root = np.sqrt(size, out=out)
    return np.multiply(root, np.sqrt(root), out=out)


def _fitted_range(blocks: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """The scales and zero points ``[...]`` of the best round of the solver for weights ``[..., block]``.

    Inside, the weights of a block lie along the first axis: a sum over a block then adds whole rows.
    """
    shape = blocks.shape[:-1]
    scale, zero = (part.reshape(-1) for part in full_range(blocks, grid))
    weight = np.ascontiguousarray(blocks.reshape(len(scale), -1).T)
    best = scale.copy(), zero.copy()
    least = np.full(scale.shape, np.inf, np.float32)
    steps, error, size, powers = (np.empty_like(weight) for _ in range(4))
    for number in range(ROUNDS):
        np.divide(weight, scale, out=error)
        np.rint(error, out=steps)
        np.minimum(np.maximum(steps, -zero, out=steps), grid.top - zero, out=steps)
        error -= steps  # in units of the scale
        _power(np.abs(error, out=size), out=powers)
        loss = powers.sum(axis=0) * _power(np.abs(scale))
        better = loss < least
        for kept, now in zip((least, *best), (loss, scale, zero), strict=True):
            np.copyto(kept, now, where=better)
        error *= _share_kept(size, powers, SHARPNESS * 1.1**number)
        scale, zero = _fit(steps, error, scale, zero, grid)
    return best[0].reshape(shape), best[1].reshape(shape)


def _share_kept(size: Floats, powers: Floats, sharpness: float) -> Floats:
    """The share of each error that is no outlier, by the proximal step of the lp-norm; ``size`` and ``powers`` change.

    The step takes ``size ** (POWER - 1) / sharpness`` off an error, at most the whole error, and that is its share here.
    """
    np.multiply(size, size, out=size)
    np.maximum(size, np.float32(1e-12), out=size)
    np.divide(powers, size, out=powers)
    powers *= np.float32(1.0 / sharpness)
    return np.minimum(powers, np.float32(1.0), out=powers)


def _fit(steps: Floats, error: Floats, scale: Floats, zero: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """The scales and whole zero points that bring levels closest to the weights without outliers, by least squares.

    Args:
        steps: the levels minus the zero points; they change.
        error: the errors that are no outliers, in units of the scale; they change.
        scale: the scales of ``steps``.
        zero: the zero points of ``steps``.
        grid: the levels.
    """
    if not grid.symmetric:
        moved = np.clip(np.rint(zero - error.mean(axis=0)), 0, grid.top)
        steps += zero - moved
        error -= zero - moved
        zero = moved
    along = np.multiply(error, steps, out=error).sum(axis=0)
    length = np.square(steps, out=steps).sum(axis=0)
    gain = np.divide(along, length, out=np.zeros_like(along), where=length > 0) + 1
    return np.where(gain > 0.5, storable(scale * gain, grid), scale), zero
