"""onnxruntime's own quantization: ``dynamic`` or ``static``, SOURCE, FOLDER, WINDOWS, and keyword arguments as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime.quantization as ort

from benchmarks.peers.programs.calibration import feeds


class Windows(ort.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, graph: Path, windows: Path) -> None:
        self._feeds = feeds(graph, windows)

    def get_next(self) -> Any:
        return next(self._feeds, None)


def main() -> None:
    mode, source, folder, windows, given = sys.argv[1:]
    options = json.loads(given)
    if "calibrate_method" in options:
        options["calibrate_method"] = ort.CalibrationMethod[options["calibrate_method"]]
    target = Path(folder) / "model.onnx"
    if mode == "dynamic":
        ort.quantize_dynamic(source, target, **options)
    else:
        ort.quantize_static(source, target, Windows(Path(source), Path(windows)), **options)


if __name__ == "__main__":
    main()
