"""onnxsim's GPTQ over its blocks of 4 bits: SOURCE, FOLDER, WINDOWS."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxsim

from benchmarks.peers.programs.calibration import feeds


def main() -> None:
    source, folder, windows = sys.argv[1:]
    model = onnx.load(source)
    rounded = onnxsim.quantize_weight_only_int4(model)
    improved = onnxsim.apply_gptq(model, rounded, calibration_data=list(feeds(Path(source), Path(windows))))
    onnx.save(improved, Path(folder) / "model.onnx")


if __name__ == "__main__":
    main()
