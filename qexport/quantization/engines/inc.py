"""The engine ``inc``: neural-compressor 3.7, the last release with an ONNX Runtime adaptor.

Its quantizer rewrites the graph; qexport rounds the weights and takes the activation ranges. Its own calibration is not
used: on the same text it lost three times more perplexity, and it ignored the requested algorithm (docs/decisions).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.core import UnsupportedHere, first_words, is_out_of_memory
from qexport.quantization.engines.request import MatMulRequest

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from qexport.quantization.numerics.histogram import Range

_FIRST_WITHOUT_ONNX = (3, 8)
_HOW = "pip install 'qexport[inc]', or choose --engine ort"


def quantize(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    """Rewrite the requested MatMuls.

    Dynamic: DynamicQuantizeLinear and MatMulInteger. Static: QuantizeLinear and DequantizeLinear around MatMul (QDQ).

    Raises:
        UnsupportedHere: neural-compressor is not installed, or is a release without ONNX.
    """
    import onnx as onnx_module

    int8, uint8 = onnx_module.TensorProto.INT8, onnx_module.TensorProto.UINT8
    static = request.ranges is not None
    symmetric = static and request.symmetric
    settings = {
        "weight": {"dtype": int8, "scheme": "sym", "granularity": "per_channel", "algorithm": "minmax"},
        "activation": {
            "dtype": int8 if symmetric else uint8,
            "scheme": "sym" if symmetric else "asym",
            "granularity": "per_tensor",
            "algorithm": "minmax",
            "quant_mode": "static" if static else "dynamic",
        },
    }
    with _neural_compressor() as (quantizer_class, mode_class):
        quantizer = quantizer_class(
            onnx_module.load(source),
            dict.fromkeys(request.nodes, settings),
            "qdq" if static else mode_class.IntegerOps,
            static,
            {name: _parameters(span, symmetric=symmetric) for name, span in (request.ranges or {}).items()},
            ["MatMul"],
            optypes_to_exclude_output_quant=["MatMul"],
        )
        emitted: onnx.ModelProto = quantizer.quantize_model()
    return emitted


def require() -> None:
    """Make sure that neural-compressor is installed, without an import, which takes seconds.

    Raises:
        UnsupportedHere: neural-compressor is not installed, or is a release without ONNX.
    """
    if importlib.util.find_spec("neural_compressor") is None:
        raise UnsupportedHere(f"--engine inc: neural-compressor is not installed; {_HOW}")
    version = importlib.metadata.version("neural-compressor")
    if tuple(int(part) for part in version.split(".")[:2]) >= _FIRST_WITHOUT_ONNX:
        raise UnsupportedHere(f"--engine inc: neural-compressor {version} has no ONNX part, 3.7.1 has; {_HOW}")


def _parameters(span: Range, *, symmetric: bool) -> list[Any]:
    """Zero point and scale of an activation, in the order and the types that neural-compressor expects."""
    low, high = span
    if symmetric:
        peak = max(-low, high)
        return [np.int8(0), np.float32(peak / 127.0 if peak else 1.0)]
    scale = (high - low) / 255.0 if high > low else 1.0
    return [np.uint8(round(-low / scale)), np.float32(scale)]


@contextlib.contextmanager
def _neural_compressor() -> Iterator[tuple[Any, Any]]:
    """Import neural-compressor's quantizer. It needs the module ``onnx.mapping``, which onnx removed in 1.19."""
    with onnx_mapping(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from neural_compressor.adaptor.ox_utils.quantizer import Quantizer
            from neural_compressor.adaptor.ox_utils.util import QuantizationMode
        except ImportError as error:
            if is_out_of_memory(error):  # a library could not be mapped
                raise MemoryError(str(error)) from error
            raise UnsupportedHere(
                f"--engine inc: neural-compressor 3.7 cannot be imported ({first_words(error)}); {_HOW}"
            ) from error
        yield Quantizer, QuantizationMode


@contextlib.contextmanager
def onnx_mapping() -> Iterator[None]:
    import onnx

    if hasattr(onnx, "mapping"):
        yield
        return
    kinds = [kind for kind in onnx.TensorProto.DataType.values() if kind]
    mapping = types.ModuleType("onnx.mapping")
    to_numpy = {kind: onnx.helper.tensor_dtype_to_np_dtype(kind) for kind in kinds}
    mapping.TENSOR_TYPE_TO_NP_TYPE = to_numpy  # type: ignore[attr-defined]
    mapping.NP_TYPE_TO_TENSOR_TYPE = {dtype: kind for kind, dtype in reversed(to_numpy.items())}  # type: ignore[attr-defined]
    onnx.mapping = mapping  # type: ignore[attr-defined]
    sys.modules["onnx.mapping"] = mapping
    try:
        yield
    finally:
        del sys.modules["onnx.mapping"], onnx.mapping  # type: ignore[attr-defined]
