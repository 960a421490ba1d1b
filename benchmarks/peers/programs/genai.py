"""A model folder in onnxruntime-genai."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

from benchmarks.peers.programs.answering import CAPACITY, THREADS, serve


class InGenai:
    def __init__(self, path: Path) -> None:
        config = og.Config(str(path))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": THREADS}}}}))
        self.version = f"onnxruntime-genai {og.__version__}"
        self._model = og.Model(config)

    def clear(self) -> None:
        settings = og.GeneratorParams(self._model)
        settings.set_search_options(batch_size=1, max_length=CAPACITY + 1)
        self._generator = og.Generator(self._model, settings)

    def extend(self, ids: np.ndarray) -> np.ndarray:
        self._generator.append_tokens(ids.astype(np.int32))
        return self._generator.get_output("logits")[0]


if __name__ == "__main__":
    serve(InGenai)
