"""Silence for the exporters, which print and warn at length about their own workings."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_TALKERS = ("torch.onnx", "torch.export", "transformers", "optimum", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' chatter from stdout, and their warnings and log lines below ERROR from everybody."""
    levels = {name: logging.getLogger(name).level for name in _TALKERS}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
