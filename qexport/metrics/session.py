"""A whole session in one fresh process: load, answer one prompt, free, each timed, with memory before and after."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from qexport import cuda, ram
from qexport.decoding import generate, padded
from qexport.metrics import Open, Samples, Trial

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from qexport.runtime import Session

_WEIGHT_FILES = ("*.onnx", "*.onnx.data", "*.safetensors")
_BLOCK_BYTES = 1 << 22
_MOST_WARNINGS = 20
"""Texts of warnings that are kept."""
_WARNING_CHARACTERS = 300
_RUNTIME_WARNING = "[W:onnxruntime"


def profile(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
    """Load, answer and free; the first sequence is the prompt.

    The fact ``response_ids`` of ``response_tokens`` holds the answer's tokens, and ``ended`` whether the model ended it
    itself. What the warnings said are facts of ``warning_count``.
    """
    checkpoint_s = _read_weights(trial.folder) if trial.folder is not None else 0.0
    device_start = cuda.used_bytes()
    system_start, rss_start = ram.in_use_bytes(), ram.rss_bytes()
    with _noted() as said:
        start = time.perf_counter()
        session = open_session()
        loaded = time.perf_counter()
        answer = _answer(session, trial)
        answered = time.perf_counter()
        system_end, rss_end, device_end = ram.in_use_bytes(), ram.rss_bytes(), cuda.used_bytes()
        freeing = time.perf_counter()
        del session
        _free()
        freed = time.perf_counter()
    seconds = {
        "load_s": loaded - start,
        "response_s": answered - loaded,
        "free_s": freed - freeing,
        "checkpoint_load_s": checkpoint_s,
    }
    seconds["total_s"] = seconds["load_s"] + seconds["response_s"] + seconds["free_s"]
    sizes = {
        "rss_start_bytes": rss_start,
        "rss_end_bytes": rss_end,
        "rss_increase_bytes": rss_end - rss_start,
        "system_start_bytes": system_start,
        "system_end_bytes": system_end,
        "system_increase_bytes": system_end - system_start,
    }
    if device_start is not None and device_end is not None:
        sizes |= {
            "device_context_bytes": device_start - (trial.device_start_bytes or 0),
            "device_increase_bytes": device_end - device_start,
        }
    number = float(trial.round)
    figures = {
        metric: Samples(columns=(metric, "tokens", "round"), rows=((value, float(len(answer)), number),))
        for metric, value in seconds.items()
    }
    figures |= {metric: _count(metric, value, number) for metric, value in sizes.items()}
    ended = bool(len(answer) and answer[-1] in trial.stop)
    text = answer[:-1] if ended else answer
    response = {"response_ids": " ".join(map(str, text.tolist())), "ended": "yes" if ended else "no"}
    figures["response_tokens"] = _count("response_tokens", len(text), number, response)
    texts = {f"warning_{index}": warning for index, warning in enumerate(said[:_MOST_WARNINGS])}
    figures["warning_count"] = _count("warning_count", len(said), number, texts)
    return figures


def _count(metric: str, value: float, number: float, facts: Mapping[str, str] | None = None) -> Samples:
    return Samples(columns=(metric, "round"), rows=((float(value), number),), facts=dict(facts or {}))


def _answer(session: Session, trial: Trial) -> NDArray[np.int64]:
    """The new tokens, the one that ended them included."""
    ids, mask = padded(trial.sequences[:1], "left")
    decoder = session.decoder(batch=1, capacity=ids.shape[1] + trial.new_tokens)
    tokens: NDArray[np.int64] = generate(decoder, ids, mask, new_tokens=trial.new_tokens, stop=trial.stop).tokens[0]
    return tokens


def _free() -> None:
    """Give back what nobody holds any more; torch keeps device memory for later unless it is told."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_weights(folder: Path) -> float:
    """Seconds to read the files of weights, from the disk where the system lets its cache be dropped."""
    paths = [path for pattern in _WEIGHT_FILES for path in sorted(folder.glob(pattern))]
    if hasattr(os, "posix_fadvise"):
        for path in paths:
            with path.open("rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    block = bytearray(_BLOCK_BYTES)
    for path in paths:
        with path.open("rb", buffering=0) as handle:
            while handle.readinto(block):
                pass
    return time.perf_counter() - start


@contextlib.contextmanager
def _noted() -> Iterator[list[str]]:
    """The different warnings of Python, of any logger, and of onnxruntime on stderr, while the ``with`` lasts."""
    said: dict[str, None] = {}

    def note(text: str) -> None:
        said.setdefault(" ".join(text.split())[:_WARNING_CHARACTERS])

    make = logging.getLogRecordFactory()

    def noting(*arguments: object, **named: object) -> logging.LogRecord:
        record = make(*arguments, **named)
        if record.levelno >= logging.WARNING:
            note(record.getMessage())
        return record

    # The factory sees what a logger's own filters drop.
    logging.setLogRecordFactory(noting)
    kept: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught, _stderr_to(kept):
            warnings.simplefilter("always")
            texts: list[str] = []
            try:
                yield texts
            finally:
                for warning in caught:
                    note(str(warning.message))
    finally:
        logging.setLogRecordFactory(make)
    for line in "".join(kept).splitlines():
        if _RUNTIME_WARNING in line:
            note(line.partition("] ")[2] or line)
    texts.extend(said)


@contextlib.contextmanager
def _stderr_to(kept: list[str]) -> Iterator[None]:
    """Keep what native code writes to stderr, and pass it on at the end."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            written = file.read()
            kept.append(written.decode(errors="replace"))
            os.write(2, written)
