"""GPTQ: rounds one weight after the other; the later weights compensate the error of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.quantization.numerics.blocks import Blocks, Grid, full_range, rtn, split, storable
from qexport.quantization.numerics.grid import row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

DEFAULT_DAMPING = 0.1
DRIFT_DAMPING = 0.3
SWEEPS = 4
STRIDE = 64
"""Columns rounded between two matrix products."""
TOGETHER = 8
"""Blocks whose slopes one matrix product gives; a product with few columns takes twice as long for each."""
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Fractions of the full range that are tried as the range of a block."""


def gptq(
    weight: Floats,
    grid: Grid,
    hessian: NDArray[np.floating[Any]],
    *,
    damping: float = DEFAULT_DAMPING,
    act_order: bool = True,
) -> Blocks:
    """Round a weight so that its product with activations like those seen changes least.

    The objective is the trace of ``E H E^T``, where ``E`` is the error of the weight. First, a search in each block
    finds the range with the least error under the diagonal of ``H``. Then GPTQ rounds the columns in order (Frantar et
    al., https://arxiv.org/abs/2210.17323). Coordinate descent follows: each sweep solves for every block's scale
    exactly and rounds every weight anew, given all others. A row that is worse than with :func:`rtn` keeps the result
    of :func:`rtn`.

    All sums are in float64: another BLAS or vector width decides a rounding differently only within about 1e-12 of a
    tie. In float32 every CPU gave different integers.

    Args:
        weight: the float weight, ``[out, in]``.
        grid: the levels.
        hessian: ``X^T X / rows`` of the inputs, ``[in, in]``.
        damping: the fraction of the mean of the diagonal that is added to the diagonal; above 0.
        act_order: round the columns in falling order of the diagonal instead of their own; scales stay with their
            blocks.
    """
    exact = _damped(hessian, damping)
    order = np.argsort(-exact.diagonal(), kind="stable") if act_order else np.arange(len(exact))
    feedback = _feedback(exact[np.ix_(order, order)])
    plain = rtn(weight, grid)
    integers, scale, zero = plain.integers, plain.scale, plain.zero_point
    for rows in row_blocks(weight.shape):
        before = output_error(weight[rows] - plain.rows(rows).dequantize(), exact)
        rounding = _Rounding(weight[rows], grid, exact)
        rounding.in_order(order, feedback)
        for _ in range(SWEEPS):
            rounding.sweep()
        better = (output_error(rounding.error.T, exact) < before)[:, None]
        np.copyto(integers[rows], rounding.levels.T, where=better, casting="unsafe")
        np.copyto(scale[rows], rounding.scale.T, where=better, casting="same_kind")
        if zero is not None:
            np.copyto(zero[rows], rounding.zero.T, where=better, casting="unsafe")
    return plain


def follow_float(
    weight: Floats,
    hessian: NDArray[np.floating[Any]],
    drift: NDArray[np.floating[Any]],
    *,
    damping: float = DRIFT_DAMPING,
) -> Floats:
    """The weight whose outputs, on inputs changed by rounded layers, are closest to those of the float model.

    Rounded in place of the original, it compensates the errors of the layers before it. The Hessian of the changed
    inputs alone does not (Li et al., GPTAQ, https://arxiv.org/abs/2504.02692, which corrects column by column instead).

    Args:
        weight: the float weight, ``[out, in]``.
        hessian: ``Y^T Y / rows`` of the changed inputs ``Y``, ``[in, in]``; :func:`gptq` then gets the same matrix.
        drift: ``(X - Y)^T Y / rows``, ``[in, in]``, with the float model's inputs ``X`` for the same tokens.
        damping: the fraction of the mean of the Hessian's diagonal that is added to it; this keeps the weight closer.
    """
    moved = weight.astype(np.float64) @ np.asarray(drift, np.float64)
    return weight + np.linalg.solve(_damped(hessian, damping), moved.T).T.astype(np.float32)


def output_error(error: NDArray[np.floating[Any]], hessian: Doubles) -> Doubles:
    """The squared error ``e H e^T`` of each output, ``[out]``, from the error ``[out, in]`` of its weights."""
    exact = error.astype(np.float64, copy=False)
    squared: Doubles = np.einsum("oi,oi->o", exact @ hessian, exact)
    return squared


def searched_range(
    weight: Floats, full: tuple[Floats, Floats], grid: Grid, importance: Doubles
) -> tuple[Floats, Floats]:
    """Scales and zero points ``[rows]`` with the least squared error of a block ``[block, rows]``.

    Args:
        weight: the weights of the block.
        full: the scales and zero points ``[rows]`` of the full range.
        grid: the levels.
        importance: the weight of each squared error, ``[block]``.
    """
    best = full[0].copy(), full[1].copy()
    least = np.full(full[0].shape, np.inf)
    error, squared = np.empty_like(weight), np.empty(weight.shape)
    for scale, zero in _ranges(*full, grid):
        np.divide(weight, scale, out=error)
        np.rint(error, out=error)
        np.minimum(np.maximum(error, -zero, out=error), grid.top - zero, out=error)
        error *= scale
        error -= weight
        loss = importance @ np.square(error, out=squared, dtype=np.float64)
        better = loss < least
        for kept, new in zip((least, *best), (loss, scale, zero), strict=True):
            np.copyto(kept, new, where=better)
    return best


def _ranges(scale: Floats, zero: Floats, grid: Grid) -> Iterator[tuple[Floats, Floats]]:
    """Candidate scales and zero points: the full range and fractions of it."""
    if grid.symmetric:
        for part in SHRINK:
            yield storable(scale * np.float32(part), grid), zero
            yield storable(scale * np.float32(-part), grid), zero
        return
    low, high = -zero * scale, (grid.top - zero) * scale
    for below in SHRINK[::2]:
        for above in SHRINK[::2]:
            narrow = storable((high * np.float32(above) - low * np.float32(below)) / np.float32(grid.top), grid)
            yield narrow, np.clip(np.rint(-low * np.float32(below) / narrow), 0, grid.top)


class _Rounding:
    """Some rows of a weight during rounding. All arrays are float64; scales have their stored precision.

    Arrays are ``[in, rows]`` and ``[blocks, rows]``: a step works on one input of all rows, which lies in one piece.
    """

    def __init__(self, weight: Floats, grid: Grid, hessian: Doubles) -> None:
        self.grid, self.hessian = grid, hessian
        self.weight = np.ascontiguousarray(weight.T, np.float64)
        scale, zero = (np.ascontiguousarray(part.T) for part in full_range(split(weight, grid), grid))
        for block, columns in enumerate(self._blocks()):
            full = scale[block], zero[block]
            columns_of = np.ascontiguousarray(weight.T[columns])
            scale[block], zero[block] = searched_range(columns_of, full, grid, hessian.diagonal()[columns])
        self.scale, self.zero = scale.astype(np.float64), zero.astype(np.float64)
        self.low, self.high = -self.zero, grid.top - self.zero
        self.levels = np.empty_like(self.weight)
        self.error = np.zeros_like(self.weight)

    def _blocks(self) -> list[slice]:
        """The columns of each block."""
        size, columns = self.grid.block_size, len(self.weight)
        return [slice(start, min(start + size, columns)) for start in range(0, columns, size)]

    def in_order(self, order: NDArray[np.intp], feedback: Doubles) -> None:
        """GPTQ: round each column, corrected by the feedback of the errors before it; see :func:`_feedback`."""
        error = np.zeros_like(self.weight)
        for start in range(0, len(order), STRIDE):
            chunk = slice(start, start + STRIDE)
            columns = order[chunk]
            wanted = self.weight[columns] + feedback[:start, chunk].T @ error[:start]
            for number, column in enumerate(columns):
                own = slice(start, start + number)
                target = wanted[number] + feedback[own, start + number] @ error[own]
                error[start + number] = self._round(column, target)
        self.error[order] = error

    def sweep(self) -> None:
        """One round of coordinate descent: the scale of each block, then its weights."""
        blocks = self._blocks()
        for first in range(0, len(blocks), TOGETHER):
            few = blocks[first : first + TOGETHER]
            start, stop = few[0].start, few[-1].stop
            slopes, entered = self.hessian[start:stop] @ self.error, self.error[start:stop].copy()
            for block, columns in enumerate(few, first):
                done = slice(start, columns.start)
                since = self.error[done] - entered[: columns.start - start]
                own = slopes[columns.start - start : columns.stop - start]
                own += self.hessian[columns, done] @ since
                self._descend(block, columns, own)

    def _descend(self, block: int, columns: slice, slope: Doubles) -> None:
        """Solve for the scale of a block, then for each of its weights; ``slope`` is that of the objective."""
        inner = np.ascontiguousarray(self.hessian[columns, columns])
        slope += inner @ self._rescale(block, columns, slope, inner)
        change = np.empty_like(slope)
        for number, column in enumerate(range(columns.start, columns.stop)):
            before = self.error[column]
            target = slope[number] + inner[number, :number] @ change[:number]
            target /= inner[number, number]
            target += self.weight[column]
            target -= before
            after = self._round(column, target)
            np.subtract(after, before, out=change[number])
            self.error[column] = after

    def _round(self, column: int, target: Doubles) -> Doubles:
        """Set the levels of a column to those nearest to a target, which changes; return the column's error."""
        block = column // self.grid.block_size
        scale = self.scale[block]
        target /= scale
        np.rint(target, out=target)
        np.minimum(np.maximum(target, self.low[block], out=target), self.high[block], out=target)
        np.add(target, self.zero[block], out=self.levels[column])
        target *= scale
        return np.subtract(self.weight[column], target, out=target)

    def _rescale(self, block: int, columns: slice, slope: Doubles, inner: Doubles) -> Doubles:
        """Give a block the best scale for its levels; return the change of its error."""
        steps = self.levels[columns] - self.zero[block]
        curvature = np.einsum("io,io->o", inner @ steps, steps)
        gain = np.divide(
            np.einsum("io,io->o", slope, steps), curvature, out=np.zeros_like(curvature), where=curvature > 0
        )
        old = self.scale[block]
        # A scale near zero, or of the opposite sign, would undo the search for it.
        new = np.where((old + gain) / old > 0.5, storable((old + gain).astype(np.float32), self.grid), old)
        added: Doubles = (old - new) * steps
        self.scale[block] = new
        self.error[columns] += added
        return added


def _damped(hessian: NDArray[np.floating[Any]], damping: float) -> Doubles:
    """The Hessian in float64 with a larger diagonal; the identity if the Hessian is all zeros."""
    damped = np.array(hessian, np.float64)
    mean = float(damped.diagonal().mean())
    damped[np.diag_indices_from(damped)] += damping * mean if mean > 0 else 1.0
    return damped


def _feedback(hessian: Doubles) -> Doubles:
    """The feedback of each weight's error on every later weight, ``[in, in]``, unit upper triangular.

    With ``H = R R^T`` and ``R`` upper triangular, ``E H E^T`` is the sum of the squares of ``E R``, and column ``j`` of
    ``E R`` is ``R[j, j] * (E[j] + sum(E[i] * R[i, j] / R[j, j] for i < j))``. It is smallest if the weight plus that
    sum is rounded to the nearest level. GPTQ gets the same from the Cholesky factor of the inverse; this needs no
    inverse.
    """
    upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    unit: Doubles = upper / upper.diagonal()
    return unit
