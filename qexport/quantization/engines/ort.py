"""The engine ``ort``: onnxruntime.quantization, through its public functions only."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import scratch_folder
from qexport.quantization.engines.request import MatMulRequest

if TYPE_CHECKING:
    import onnx

    from qexport.quantization.calibration import Ranges


def quantize(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    """Rewrite the requested MatMuls.

    Dynamic: DynamicQuantizeLinear and MatMulInteger. Static: QuantizeLinear and DequantizeLinear around MatMul (QDQ),
    with the ranges of the request; they are passed through onnxruntime's own calibration cache file.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    common = {
        "per_channel": True,
        "weight_type": QuantType.QInt8,
        "op_types_to_quantize": ["MatMul"],
        "nodes_to_quantize": list(request.nodes),
    }
    options = {
        "MatMulConstBOnly": True,
        "WeightSymmetric": True,
        # Shape inference gives up at contrib ops and placeholders; there, the input of a MatMul is float.
        "DefaultTensorType": onnx.TensorProto.FLOAT,
    }
    with scratch_folder("engine") as folder, _quiet():
        target = Path(folder) / "target.onnx"
        if request.ranges is None:
            quantize_dynamic(source, target, extra_options=options, **common)
        else:
            cache = Path(folder) / "ranges.json"
            _write_calibration_cache(request.ranges, cache)
            quantize_static(
                source,
                target,
                activation_type=QuantType.QInt8 if request.symmetric else QuantType.QUInt8,
                extra_options={
                    **options,
                    "ActivationSymmetric": request.symmetric,
                    "OpTypesToExcludeOutputQuantization": ["MatMul"],
                },
                calibration_cache_path=cache,
                **common,
            )
        return onnx.load(target)


def _write_calibration_cache(ranges: Ranges, path: Path) -> None:
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, TensorsData
    from onnxruntime.quantization.calibrate import save_tensors_data

    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop onnxruntime's advice, in the root logger, to run its own pre-processing: the graph is prepared."""

    def keep(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
