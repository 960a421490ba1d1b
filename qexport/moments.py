"""What GPTQ and AWQ learn from calibration text: the second moments and the mean magnitudes of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport import calibration
from qexport.errors import ContractError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs.text import TokenSet


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Of one activation ``[rows, channels]`` over all tokens of the calibration text."""

    hessian: NDArray[np.float64]
    """``x.T @ x / rows``, ``[channels, channels]``."""
    magnitude: NDArray[np.float32]
    """The mean of ``|x|``, ``[channels]``."""


def moments(
    model: ir.Model, tensors: Sequence[str], tokens: TokenSet, *, what: str = "calibrating"
) -> Mapping[str, Moments]:
    """Run the calibration text through a graph and gather the moments of some of its activations.

    The activations are streamed; what is held is one ``[channels, channels]`` matrix for each of them.

    Args:
        model: a prepared graph in fp32, which is left as it is.
        tensors: names of the activations.
        tokens: windows of text.
        what: for the progress bar.

    Raises:
        InputError: there are no windows.
        ContractError: an activation is not finite.
    """
    calibration.require_windows(tokens)
    names = sorted(set(tensors))
    sums: dict[str, NDArray[np.float64]] = {}
    magnitudes: dict[str, NDArray[np.float64]] = {}
    rows = 0
    for values in calibration.stream(model.clone(), names, tokens, what=what):
        for name in names:
            x = values[name].reshape(-1, values[name].shape[-1]).astype(np.float64)
            if name not in sums:
                sums[name] = np.zeros((x.shape[1], x.shape[1]))
                magnitudes[name] = np.zeros(x.shape[1])
            sums[name] += x.T @ x
            magnitudes[name] += np.abs(x).sum(axis=0)
        rows += values[names[0]].shape[1]
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise ContractError(f"{name}: not finite on the calibration text; the model overflows in fp32")
        np.divide(total, rows, out=total)
    return {name: Moments(hessian=sums[name], magnitude=(magnitudes[name] / rows).astype(np.float32)) for name in names}
