"""A whole session in one fresh process: load, answer one prompt, free; each timed, with memory before and after."""

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

from qexport.core import cuda, ram
from qexport.measurement.metrics.trial import Open, Samples, Trial
from qexport.runtime import generate, padded

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from qexport.runtime import Session

_WEIGHT_FILES = ("*.onnx", "*.onnx.data", "*.safetensors")
_BLOCK_BYTES = 1 << 22
_MOST_WARNINGS = 20
"""The most texts of warnings that are kept."""
_WARNING_CHARACTERS = 300
_RUNTIME_WARNING = "[W:onnxruntime"


def profile(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
    """Load, answer and free. The first sequence is the prompt.

    The fact ``response_ids`` of ``response_tokens`` holds the answer's tokens. The fact ``ended`` says if the model
    ended the answer itself. The texts of the warnings are facts of ``warning_count``.
    """
    seconds = {"checkpoint_load_s": 0.0 if trial.folder is None else _read_weights(trial.folder)}
    before = _memory(trial)
    with _noted() as said:
        start = time.perf_counter()
        session = open_session()
        loaded = time.perf_counter()
        answer = _answer(session, trial)
        answered = time.perf_counter()
        after = _memory(trial)
        freeing = time.perf_counter()
        del session
        _free()
        freed = time.perf_counter()
    seconds |= {"load_s": loaded - start, "response_s": answered - loaded, "free_s": freed - freeing}
    seconds["total_s"] = freed - freeing + answered - start
    number, tokens = float(trial.round), float(len(answer))
    timed = {
        metric: Samples(columns=(metric, "tokens", "round"), rows=((value, tokens, number),))
        for metric, value in seconds.items()
    }
    sizes = {metric: _count(metric, value, number) for metric, value in _sizes(before, after, trial).items()}
    return timed | sizes | _response(answer, trial) | _warnings(said, number)


def _memory(trial: Trial) -> dict[str, int]:
    """Bytes in use now: of the process, of the machine, and of the device if one is used."""
    used = {"rss": ram.rss_bytes(), "system": ram.in_use_bytes()}
    device = None if trial.device_start_bytes is None else cuda.used_bytes()
    return used if device is None else used | {"device": device}


def _sizes(before: Mapping[str, int], after: Mapping[str, int], trial: Trial) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for place in ("rss", "system"):
        sizes |= {f"{place}_start_bytes": before[place], f"{place}_end_bytes": after[place]}
    if "device" in before and trial.device_start_bytes is not None:
        sizes["device_context_bytes"] = before["device"] - trial.device_start_bytes
    return sizes | {f"{place}_increase_bytes": after[place] - before[place] for place in before}


def _response(answer: NDArray[np.int64], trial: Trial) -> dict[str, Samples]:
    ended = bool(len(answer)) and int(answer[-1]) in trial.stop
    text = answer[:-1] if ended else answer
    facts = {"response_ids": " ".join(map(str, text.tolist())), "ended": "yes" if ended else "no"}
    return {"response_tokens": _count("response_tokens", len(text), float(trial.round), facts)}


def _warnings(said: list[str], number: float) -> dict[str, Samples]:
    texts = {f"warning_{index}": warning for index, warning in enumerate(said[:_MOST_WARNINGS])}
    return {"warning_count": _count("warning_count", len(said), number, texts)}


def _count(metric: str, value: float, number: float, facts: Mapping[str, str] | None = None) -> Samples:
    return Samples(columns=(metric, "round"), rows=((float(value), number),), facts=dict(facts or {}))


def _answer(session: Session, trial: Trial) -> NDArray[np.int64]:
    """The new tokens, with the stop token."""
    ids, mask = padded(trial.sequences[:1], "left")
    decoder = session.decoder(batch=1, capacity=ids.shape[1] + trial.new_tokens)
    tokens: NDArray[np.int64] = generate(decoder, ids, mask, new_tokens=trial.new_tokens, stop=trial.stop).tokens[0]
    return tokens


def _free() -> None:
    """Free unused memory; torch keeps device memory until its cache is emptied."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read_weights(folder: Path) -> float:
    """Seconds to read the files of weights; from disk if the system allows dropping its cache."""
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
    """The distinct warnings of Python, of loggers, and of onnxruntime on stderr; filled when the ``with`` ends."""
    said: dict[str, None] = {}

    def note(text: str) -> None:
        said.setdefault(" ".join(text.split())[:_WARNING_CHARACTERS])

    make = logging.getLogRecordFactory()

    def noting(*arguments: object, **named: object) -> logging.LogRecord:
        record = make(*arguments, **named)
        if record.levelno >= logging.WARNING:
            note(record.getMessage())
        return record

    texts: list[str] = []
    kept: list[str] = []
    logging.setLogRecordFactory(noting)  # it also sees records that a logger's filters drop
    try:
        with warnings.catch_warnings(record=True) as caught, _stderr_to(kept):
            warnings.simplefilter("always")
            yield texts
    finally:
        logging.setLogRecordFactory(make)
    for warning in caught:
        note(str(warning.message))
    for line in "".join(kept).splitlines():
        if _RUNTIME_WARNING in line:
            note(line.partition("] ")[2] or line)
    texts.extend(said)


@contextlib.contextmanager
def _stderr_to(kept: list[str]) -> Iterator[None]:
    """Collect the native code's output to stderr, and pass it on at the end."""
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
