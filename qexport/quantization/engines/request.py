"""A request to an engine: the MatMuls and the ranges of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qexport.quantization.calibration import Ranges


@dataclass(frozen=True, kw_only=True)
class MatMulRequest:
    """A request to rewrite MatMuls to INT8."""

    nodes: tuple[str, ...]
    """Exact names of MatMul nodes whose second input is an initializer."""
    ranges: Ranges | None
    """Range of each node's first input for static activations; None for dynamic ones."""
    symmetric: bool
    """Static activations get a symmetric range (TensorRT wants it); dynamic ones are always asymmetric."""
