"""Engines rewrite the selected MatMuls of a graph to INT8: neural-compressor, onnxruntime.quantization or qexport itself.

All get the same prepared graph, the same exact node names and the same activation ranges. They decide how a quantized
MatMul is written; the weights are rounded by ``qexport.numerics``. What they emit is checked afterwards
(``qexport.quantized``): they are tools, not authorities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexport.errors import InputError, near_names

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from qexport.calibration import Ranges


@dataclass(frozen=True, kw_only=True)
class MatMulRequest:
    """What an engine is asked to do."""

    nodes: tuple[str, ...]
    """Exact names of MatMul nodes whose second input is an initializer."""
    ranges: Ranges | None
    """Range of each node's first input for static activations; None for dynamic ones."""
    symmetric: bool
    """Static activations get a symmetric range (TensorRT wants it); dynamic ones are always asymmetric."""


Engine = Callable[["Path", MatMulRequest], "onnx.ModelProto"]
"""Takes the file of a prepared graph, weights replaced by placeholders; returns the rewritten graph.

Per-channel int8 weights are asked of it: ``X_quantized``, ``X_scale`` and ``X_zero_point`` for the weight ``X``."""


def _inc(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    from qexport.engines import inc

    return inc.quantize(source, request)


def _ort(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    from qexport.engines import ort

    return ort.quantize(source, request)


def _qexport(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    from qexport.engines import per_token

    return per_token.quantize(source, request)


ENGINES: dict[str, Engine] = {"inc": _inc, "ort": _ort, "qexport": _qexport}
"""``inc`` is neural-compressor's ONNX Runtime adaptor, ``ort`` is onnxruntime.quantization, ``qexport`` is our own for
activations that are dynamic per token."""


def engine(name: str) -> Engine:
    """The engine of this name.

    Raises:
        InputError: there is no such engine.
    """
    if name not in ENGINES:
        raise InputError(f"--engine {name}: unknown engine; {near_names(name, ENGINES)}")
    return ENGINES[name]


def require(name: str) -> None:
    """Make sure, before long work starts, that an engine can be used.

    Raises:
        InputError: there is no such engine.
        UnsupportedHere: it is not installed.
    """
    engine(name)
    if name == "inc":
        from qexport.engines import inc

        inc.require()
