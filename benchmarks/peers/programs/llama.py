"""A GGUF file in llama.cpp."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np

from benchmarks.peers.programs.answering import CAPACITY, THREADS, serve


class InLlama:
    def __init__(self, path: Path) -> None:
        llama_cpp.llama_backend_init()
        self.version = f"llama-cpp-python {version('llama-cpp-python')}"
        file = str(next(path.glob("*.gguf"))).encode()
        self._model = llama_cpp.llama_model_load_from_file(file, llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"{path}: llama.cpp cannot load it")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = CAPACITY
        settings.n_threads = settings.n_threads_batch = THREADS
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(CAPACITY, 0, 1)
        self._length = 0

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)  # noqa: FBT003 - a C function
        self._length = 0

    def extend(self, ids: np.ndarray) -> np.ndarray:
        for at, token in enumerate(ids):
            self._batch.token[at], self._batch.pos[at] = int(token), self._length + at
            self._batch.n_seq_id[at], self._batch.seq_id[at][0] = 1, 0
            self._batch.logits[at] = 1
        self._batch.n_tokens = len(ids)
        self._length += len(ids)
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode: code {code}")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), (len(ids), self._vocab))


if __name__ == "__main__":
    serve(InLlama)
