"""onnxsim's GPTQ over its blocks of 4 bits: SOURCE, FOLDER, WINDOWS."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import onnx
import onnxsim
from onnx import version_converter

from benchmarks.peers.programs.calibration import feeds

_OPSET = 21
"""The first with 4 bits; onnxsim leaves older graphs in float32."""
_SAMPLES = 8
"""Its own default. 18 windows of SmolLM2-135M take more than five minutes of processor time, all on one core."""


def main() -> None:
    source, folder, windows = sys.argv[1:]
    model = version_converter.convert_version(onnx.load(source), _OPSET)
    rounded = onnxsim.quantize_weight_only_int4(model)
    if not any(node.op_type == "DequantizeLinear" for node in rounded.graph.node):
        sys.exit("error: onnxsim quantized no weight")
    samples = list(itertools.islice(feeds(Path(source), Path(windows)), _SAMPLES))
    improved = onnxsim.apply_gptq(model, rounded, calibration_data=samples)
    onnx.save(improved, Path(folder) / "model.onnx")


if __name__ == "__main__":
    main()
