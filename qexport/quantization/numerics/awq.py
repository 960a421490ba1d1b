"""AWQ: scales the input channels of a weight so that channels with large activations are rounded more finely."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.quantization.numerics.blocks import Grid, rtn
from qexport.quantization.numerics.gptq import output_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

EXPONENTS = 20
"""Number of steps between the exponents 0 and 1."""
STRIDES = (4, 2, 1)
"""The search tries every fourth exponent, then the neighbours of the best one at distance 2, then at distance 1."""
SEARCH_ROWS = 256
"""Outputs of a weight that the search looks at, evenly spaced."""
OUTLIERS = (np.inf, 4.0, 2.0)
"""Channels beyond this multiple of the median magnitude are first brought down to it; infinity changes no channel."""


def awq_scale(
    weights: Sequence[Floats], grid: Grid, hessian: NDArray[np.floating[Any]], magnitude: NDArray[np.floating[Any]]
) -> Floats:
    """The scales ``[in]`` that multiply the columns of the weights and divide the activations.

    The scales are ``magnitude ** alpha`` (Lin et al., https://arxiv.org/abs/2306.00978). ``alpha`` lies between 0 and 1
    and minimizes the squared error of some outputs. If a few channels have 50 to 200 times the magnitude of the rest, no
    exponent suits both, so the search also tries to take such outliers out first. Flat magnitudes give scales of one;
    AWQ is then the plain rounding of :func:`~qexport.quantization.numerics.blocks.rtn`.

    Args:
        weights: all weights that read the activations, each ``[out, in]``.
        grid: the levels that the weights will be rounded to.
        hessian: ``X^T X / rows`` of the activations, ``[in, in]``.
        magnitude: the mean ``|x|`` of each channel, ``[in]``.
    """
    exact = np.asarray(hessian, np.float64)
    some = [weight[:: -(-len(weight) // SEARCH_ROWS)] for weight in weights]
    families = _families(np.asarray(magnitude, np.float64))
    errors: dict[tuple[int, int], float] = {}

    def try_exponents(family: int, steps: Iterable[int]) -> None:
        for step in steps:
            if 0 <= step <= EXPONENTS and (family, step) not in errors:
                scale = families[family](step)
                errors[family, step] = sum(_error(weight, grid, exact, scale) for weight in some)

    for family in range(len(families)):
        try_exponents(family, range(0, EXPONENTS + 1, STRIDES[0]))
    for stride in STRIDES[1:]:
        family, step = _least(errors)
        try_exponents(family, (step - stride, step + stride))
    family, step = _least(errors)
    return families[family](step)


def _least(errors: Mapping[tuple[int, int], float]) -> tuple[int, int]:
    """The key of the smallest error, and of several equal ones the first."""
    return min(errors, key=lambda key: errors[key])


def _families(magnitude: NDArray[np.float64]) -> list[Callable[[int], Floats]]:
    """Candidate scales by the step of their exponent, one function for each bound of :data:`OUTLIERS`.

    The first function gives ones at step 0. The geometric mean of the smallest and the largest scale is 1.
    """
    seen = magnitude[magnitude > 0]
    typical = float(np.median(seen)) if len(seen) else 1.0
    # A channel that was never seen counts as a small one: it must not be scaled away.
    magnitude = np.maximum(magnitude, 1e-3 * typical) / typical
    tried: list[NDArray[np.float64]] = []
    for bound in OUTLIERS:
        outlier = np.maximum(magnitude / bound, 1.0)
        if not any(np.array_equal(outlier, before) for before in tried):
            tried.append(outlier)  # else no channel lies beyond this bound: its scales are those of the bound before
    return [partial(_scale, magnitude, outlier) for outlier in tried]


def _scale(magnitude: NDArray[np.float64], outlier: NDArray[np.float64], step: int) -> Floats:
    scale = outlier * (magnitude / outlier) ** (step / EXPONENTS)
    normed: Floats = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)
    return normed


def _error(weight: Floats, grid: Grid, hessian: NDArray[np.float64], scale: Floats) -> float:
    """The squared error of all outputs if the weight is rounded with its columns scaled."""
    error = rtn(weight * scale, grid).dequantize() / scale - weight
    return float(output_error(error, hessian).sum())
