"""The bundled texts are what calibration/SOURCES.toml says, and calibration and evaluation are apart."""

from __future__ import annotations

import hashlib
import itertools
import tomllib

import pytest
from tokenizers import Tokenizer

from qexport.inputs.bundle import bundled
from qexport.inputs.text import load_text

SOURCES = tomllib.loads(bundled("calibration/SOURCES.toml").read_text())["file"]


@pytest.mark.parametrize("entry", SOURCES, ids=lambda entry: entry["path"])
def test_a_file_is_what_its_entry_says(entry: dict[str, str | int]) -> None:
    path = bundled(f"calibration/{entry['path']}")
    content = path.read_bytes()
    documents = load_text(path).documents
    tokenizer = Tokenizer.from_file(str(bundled("models/reference/tokenizer.json")))
    assert len(content) == entry["bytes"]
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert len(documents) == entry["documents"]
    assert sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in documents) == entry["tokens"]


def test_evaluation_repeats_nothing_of_calibration() -> None:
    def phrases(name: str) -> set[tuple[str, ...]]:
        words = [text.split() for text in load_text(bundled(f"calibration/{name}.jsonl")).documents]
        return {tuple(text[at : at + 8]) for text in words for at in range(len(text) - 7)}

    assert not (phrases("general") | phrases("calibration")) & phrases("evaluation")
    assert len({entry["use"] for entry in SOURCES}) == len(SOURCES)
    assert all(left["sha256"] != right["sha256"] for left, right in itertools.combinations(SOURCES, 2))
