"""AWQ: scales the input channels of a weight so that channels with large activations are rounded more finely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.quantization.numerics.blocks import Grid, rtn
from qexport.quantization.numerics.gptq import output_error
from qexport.quantization.numerics.grid import row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

EXPONENTS = 20
"""Number of exponents tried between 0 and 1."""
OUTLIERS = (np.inf, 4.0, 2.0)
"""Channels beyond this multiple of the median magnitude are first brought down to it; infinity changes no channel."""


def awq_scale(
    weights: Sequence[Floats], grid: Grid, hessian: NDArray[np.floating[Any]], magnitude: NDArray[np.floating[Any]]
) -> Floats:
    """The scales ``[in]`` that multiply the columns of the weights and divide the activations.

    The scales are ``magnitude ** alpha`` (Lin et al., https://arxiv.org/abs/2306.00978). ``alpha`` lies between 0 and 1
    and minimizes the squared error of the outputs. If a few channels have 50 to 200 times the magnitude of the rest, no
    exponent suits both, so the search also tries to take such outliers out first. Flat magnitudes give scales of one;
    AWQ is then the plain rounding of :func:`~qexport.quantization.numerics.blocks.rtn`.

    Args:
        weights: all weights that read the activations, each ``[out, in]``.
        grid: the levels that the weights will be rounded to.
        hessian: ``X^T X / rows`` of the activations, ``[in, in]``.
        magnitude: the mean ``|x|`` of each channel, ``[in]``.
    """
    exact = np.asarray(hessian, np.float64)
    best, least = np.ones(len(magnitude), np.float32), np.inf
    for scale in _candidates(np.asarray(magnitude, np.float64)):
        error = sum(_error(weight, grid, exact, scale) for weight in weights)
        if error < least:
            best, least = scale, error
    return best


def _candidates(magnitude: NDArray[np.float64]) -> Iterator[Floats]:
    """Candidate scales, all ones first. The geometric mean of the smallest and the largest scale is 1."""
    seen = magnitude[magnitude > 0]
    typical = float(np.median(seen)) if len(seen) else 1.0
    # A channel that was never seen counts as a small one: it must not be scaled away.
    magnitude = np.maximum(magnitude, 1e-3 * typical) / typical
    tried: list[NDArray[np.float64]] = []
    for bound in OUTLIERS:
        outlier = np.maximum(magnitude / bound, 1.0)
        if any(np.array_equal(outlier, before) for before in tried):
            continue  # no channel lies beyond this bound: its candidates are those of the bound before
        tried.append(outlier)
        for step in range(EXPONENTS + 1):
            scale = outlier * (magnitude / outlier) ** (step / EXPONENTS)
            yield (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)


def _error(weight: Floats, grid: Grid, hessian: NDArray[np.float64], scale: Floats) -> float:
    """The squared error of all outputs if the weight is rounded with its columns scaled."""
    total = 0.0
    for rows in row_blocks(weight.shape):
        error = rtn(weight[rows] * scale, grid).dequantize() / scale - weight[rows]
        total += float(output_error(error, hessian).sum())
    return total
