"""Engines rewrite the selected MatMuls of a graph to INT8.

The engines are neural-compressor and onnxruntime.quantization. Both get the same prepared graph, the
same exact node names and the same activation ranges. An engine decides how a quantized MatMul is written;
``qexport.quantization.numerics`` rounds the weights. ``qexport.quantization.int8_check`` checks the emitted graph
afterwards: an engine is a tool, not an authority.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qexport.core import InputError, near_names
from qexport.quantization.engines.request import MatMulRequest

if TYPE_CHECKING:
    from pathlib import Path

    import onnx


Engine = Callable[["Path", MatMulRequest], "onnx.ModelProto"]
"""Takes the file of a prepared graph whose weights are placeholders, and returns the rewritten graph.

It must emit per-channel int8 weights: ``X_quantized``, ``X_scale`` and ``X_zero_point`` for the weight ``X``."""


def _inc(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    from qexport.quantization.engines import inc

    return inc.quantize(source, request)


def _ort(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    from qexport.quantization.engines import ort

    return ort.quantize(source, request)


ENGINES: dict[str, Engine] = {"inc": _inc, "ort": _ort}
"""``inc`` is neural-compressor's ONNX Runtime adaptor. ``ort`` is onnxruntime.quantization."""


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
        UnsupportedHere: the engine is not installed.
    """
    engine(name)
    if name == "inc":
        from qexport.quantization.engines import inc

        inc.require()
