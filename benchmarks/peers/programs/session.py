"""A model in qexport's session: an artifact of qexport, or a plain ONNX file of a peer with Optimum's input names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.peers.programs.answering import CAPACITY, THREADS, serve
from qexport.core import MANIFEST_NAME, load_artifact
from qexport.runtime import OrtSession, Session, open_session


class InSession:
    def __init__(self, path: Path) -> None:
        self._session: Session = (
            open_session(load_artifact(path), threads=THREADS)
            if (path / MANIFEST_NAME).is_file()
            else OrtSession(next(path.glob("*.onnx")), threads=THREADS)
        )
        self.version = self._session.runtime
        self._decoder = self._session.decoder(batch=1, capacity=CAPACITY)
        self._empty = True

    def clear(self) -> None:
        self._empty = True

    def extend(self, ids: np.ndarray) -> np.ndarray:
        if self._empty:
            self._empty = False
            return self._decoder.prefill(ids[np.newaxis], np.ones((1, len(ids)), np.int64))[0]
        return self._decoder.advance(ids)


if __name__ == "__main__":
    serve(InSession)
