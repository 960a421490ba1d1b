"""SmoothQuant: scales that move rounding difficulty from an activation's channels into the weights that multiply them.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
https://arxiv.org/abs/2211.10438. The paper has one migration strength for a model. Here each activation has its
own, see :mod:`qexport.quantization.forms`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST = 1e-6
"""Lower bound of a peak, as a share of the largest: a channel that is never used gets no extreme scale."""


def smoothing_scale(
    activation: NDArray[np.float32], weight: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    """``activation ** strength / weight ** (1 - strength)`` (equation 4), with a geometric mean of 1.

    Args:
        activation: the largest magnitude of each channel, ``[in]``.
        weight: the largest magnitude in each channel's row of the weights, ``[in]``.
        strength: the migration strength, from 0 to 1.

    Returns:
        The scales ``[in]`` that divide the activation and multiply the rows of the weights.
    """
    exponent = strength * _log(activation) - (1.0 - strength) * _log(weight)
    return np.asarray(np.exp(exponent - exponent.mean()), np.float32)


def round_asymmetric(rows: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Round to 256 steps from ``low`` to ``high`` and back; values outside are clipped. Zero stays zero."""
    step = np.float32((high - low) / 255.0 or 1.0)
    zero = np.rint(np.float32(-low) / step)
    return np.asarray((np.clip(np.rint(rows / step) + zero, 0, 255) - zero) * step, np.float32)


def round_symmetric(rows: NDArray[np.float32], peak: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """Round to 127 steps on each side of zero and back; ``peak`` is one number, or ``[rows, 1]``."""
    step = np.asarray(peak, np.float32) / np.float32(127.0)
    step = np.where(step > 0, step, np.float32(1.0))
    return np.asarray(np.clip(np.rint(rows / step), -127, 127) * step, np.float32)


def _log(peaks: NDArray[np.float32]) -> NDArray[np.float64]:
    largest = float(peaks.max()) or 1.0
    return np.asarray(np.log(np.maximum(peaks.astype(np.float64), SMALLEST * largest)))
