"""Second moments and mean magnitudes of activations on calibration text, for GPTQ and AWQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qexport.quantization.walk import Walk


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments of one activation ``[rows, channels]`` over all tokens of the calibration text."""

    hessian: NDArray[np.float64]
    """``x.T @ x / rows``, ``[channels, channels]``."""
    magnitude: NDArray[np.float32]
    """The mean of ``|x|``, ``[channels]``."""


def moments(walk: Walk, tensor: str) -> Moments:
    """The moments of an activation; those of activations before it can no longer be asked for.

    Raises:
        ContractError: the activation is not finite.
    """
    hessian: NDArray[np.float64] | float = 0.0
    magnitude: NDArray[np.float64] | float = 0.0
    rows = 0
    for x in walk.batches(tensor):
        hessian += x.T @ x
        magnitude += np.abs(x).sum(axis=0)
        rows += len(x)
    if not np.isfinite(hessian).all():
        raise ContractError(f"{tensor}: not finite on the calibration text; the model overflows in fp32")
    return Moments(hessian=np.asarray(hessian) / rows, magnitude=(np.asarray(magnitude) / rows).astype(np.float32))
