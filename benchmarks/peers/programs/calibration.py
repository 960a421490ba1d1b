"""Calibration windows as the quantizers of the peers read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

Feeds = dict[str, np.ndarray]
PAST_TOKENS = 16
"""Tokens of a window that come in as the past: an observer finds no range of an empty tensor."""


def feeds(graph: Path, windows: Path) -> Iterator[Feeds]:
    """The inputs of a decoder for each window: the first tokens as the past, the others as ``input_ids``.

    All windows have one length, since onnxruntime's percentiles and neural-compressor's SmoothQuant fail otherwise: the
    shortest quarter is left out, and the others are cut.
    """
    session = onnxruntime.InferenceSession(graph)
    sequences = np.load(windows, allow_pickle=True)
    length = int(np.quantile([len(ids) for ids in sequences], 0.25, method="higher"))
    for ids in (each[:length] for each in sequences if len(each) >= length):
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, _feeds(session, ids[:PAST_TOKENS], {})), strict=True))
        past = {name.replace("present", "past_key_values"): value for name, value in outputs.items()}
        yield _feeds(session, ids[PAST_TOKENS:], past)


def _feeds(session: onnxruntime.InferenceSession, ids: np.ndarray, past: Feeds) -> Feeds:
    length = PAST_TOKENS if past else 0
    known = {
        "input_ids": ids[np.newaxis].astype(np.int64),
        "attention_mask": np.ones((1, length + len(ids)), np.int64),
        "position_ids": np.arange(length, length + len(ids), dtype=np.int64)[np.newaxis],
    }
    found = {}
    for tensor in session.get_inputs():
        if tensor.name in known:
            found[tensor.name] = known[tensor.name]
        elif tensor.name in past:
            found[tensor.name] = past[tensor.name]
        else:
            _, heads, _, width = tensor.shape
            found[tensor.name] = np.zeros((1, heads, 0, width), np.float32)
    return found
