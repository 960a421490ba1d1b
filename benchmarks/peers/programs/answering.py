"""The questions that every runtime is asked, one JSON object a line on stdin, and the answers on stdout.

The programs beside this file run in environments that have no qexport, so this module needs numpy only.

* ``{"ask": "logits", "windows": FILE, "folder": FOLDER}``: a file of logits for each window, named in an answer each.
* ``{"ask": "sentence", "ids": [...]}``: the seconds of one pass over a sentence, all its logits included.
* ``{"ask": "token", "past": [...], "ids": [...]}``: the mean seconds of a step, one token after another.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

THREADS = 2
CAPACITY = 256
"""Most tokens of a sequence."""


class Model(Protocol):
    """A model that one runtime has loaded."""

    version: str
    """The runtime and its version."""

    def clear(self) -> None:
        """Forget all tokens."""

    def extend(self, ids: np.ndarray) -> np.ndarray:
        """The logits ``[tokens, vocab]`` of tokens after those of earlier calls; valid until the next call."""


def serve(load: Callable[[Path], Model]) -> None:
    """Load the model that the command line names, and answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print

    def say(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    model = load(Path(sys.argv[1]))
    model.clear()
    model.extend(np.arange(1, 33))
    say(version=model.version, peak_rss_bytes=_peak_rss_bytes())
    for line in sys.stdin:
        asked = json.loads(line)
        match asked["ask"]:
            case "logits":
                for number, ids in enumerate(np.load(asked["windows"], allow_pickle=True)):
                    model.clear()
                    path = Path(asked["folder"]) / f"{number}.npy"
                    np.save(path, np.asarray(model.extend(ids), np.float32))
                    say(file=str(path))
            case "sentence":
                say(seconds=_sentence_s(model, np.array(asked["ids"])))
            case "token":
                say(seconds=_token_s(model, np.array(asked["past"]), np.array(asked["ids"])))


def _sentence_s(model: Model, ids: np.ndarray) -> float:
    elapsed = 0.0
    for _ in range(2):  # the first pass brings the model's own weights into the caches
        model.clear()
        start = time.perf_counter()
        model.extend(ids)
        elapsed = time.perf_counter() - start
    return elapsed


def _token_s(model: Model, past: np.ndarray, ids: np.ndarray) -> float:
    model.clear()
    model.extend(past)
    model.extend(ids[:1])
    start = time.perf_counter()
    for at in range(1, len(ids)):
        model.extend(ids[at : at + 1])
    return (time.perf_counter() - start) / (len(ids) - 1)


def _peak_rss_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
