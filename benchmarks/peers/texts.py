"""The texts that all rows are measured on, cut into the same windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.trained import DATA
from qexport import quantization
from qexport.inputs import EVALUATION_TEXT, ModelSource, bundled, load_text, load_tokenizer, make_windows

WINDOW, WINDOWS = 256, 16
WIKITEXT = DATA / "text" / "wikitext-2-valid.txt"


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of a text, also as a file for other processes."""

    name: str
    sequences: tuple[np.ndarray, ...]
    file: Path


def evaluation(source: ModelSource, folder: Path) -> Iterator[Windows]:
    """Windows spread evenly over the bundled text, and over WikiText-2 where it is there."""
    tokenizer = load_tokenizer(source)
    for name, path in (("bundled", bundled(EVALUATION_TEXT)), ("wikitext", WIKITEXT)):
        if not path.is_file():
            continue
        found = make_windows(load_text(path), tokenizer, window=WINDOW, limit=None).sequences
        spread = np.linspace(0, len(found) - 1, min(WINDOWS, len(found))).astype(int)
        yield _saved(name, tuple(found[at] for at in spread), folder)


def calibration(source: ModelSource, folder: Path) -> Windows:
    """The windows that qexport's own recipes take by default."""
    return _saved("calibration", quantization.calibration_windows(source, None).sequences, folder)


def _saved(name: str, sequences: tuple[np.ndarray, ...], folder: Path) -> Windows:
    file = folder / f"{name}.npy"
    array = np.empty(len(sequences), object)  # windows have different lengths
    array[:] = sequences
    np.save(file, array)
    return Windows(name=name, sequences=sequences, file=file)
