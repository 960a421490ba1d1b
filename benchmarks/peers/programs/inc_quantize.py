"""neural-compressor's own quantization: SOURCE, FOLDER, WINDOWS, and arguments of its configuration as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.programs.calibration import Feeds, feeds
from qexport.quantization.engines.inc import onnx_mapping


class Loader:
    """Windows with the label that neural-compressor expects and does not use."""

    batch_size = 1

    def __init__(self, graph: Path, windows: Path) -> None:
        self._graph, self._windows = graph, windows

    def __iter__(self) -> Iterator[tuple[Feeds, int]]:
        return ((each, 0) for each in feeds(self._graph, self._windows))


def main() -> None:
    source, folder, windows, given = sys.argv[1:]
    with onnx_mapping():
        from neural_compressor import PostTrainingQuantConfig, quantization, set_workspace

        set_workspace(str(Path(folder) / "workspace"))  # by default it writes models into the current folder
        model = quantization.fit(
            source, PostTrainingQuantConfig(**json.loads(given)), calib_dataloader=Loader(Path(source), Path(windows))
        )
        if model is None:
            sys.exit("neural-compressor gave no model")
        model.save(str(Path(folder) / "model.onnx"))


if __name__ == "__main__":
    main()
