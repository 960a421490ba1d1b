"""The bound on characters refuses no text that would fit, and is given only where that is sure."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from qexport.serving.prompt_bound import COMPOSED_CHARACTERS, most_characters
from qexport.serving.tokens import Tokens
from tests.conftest import ROOT


@pytest.fixture
def tokenizer():
    return json.loads((ROOT / "models" / "reference" / "tokenizer.json").read_text())


def test_a_text_of_the_longest_token_fits_to_the_last_character(tokenizer):
    tokens = Tokens(ROOT / "models" / "reference")
    text = max(tokenizer["model"]["vocab"], key=len)
    most = most_characters(tokenizer, 7)
    full = text * 7
    assert len(full) == most
    assert len(tokens.encode(full)) <= 7
    assert len(tokens.encode(full + text)) > 7


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_no_more_characters_are_composed_to_one(form):
    apart = {"NFC": "NFD", "NFKC": "NFKD"}[form]
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    composed = (each for each in characters if unicodedata.is_normalized(form, each))
    assert max(len(unicodedata.normalize(apart, each)) for each in composed) <= COMPOSED_CHARACTERS


def test_composing_makes_the_bound_as_much_larger(tokenizer):
    bound = most_characters(tokenizer, 7)
    assert most_characters(tokenizer | {"normalizer": {"type": "NFC"}}, 7) == COMPOSED_CHARACTERS * bound


SPLIT = {"type": "Split", "pattern": {"String": " "}, "invert": False}
LSTRIP = {"content": "<mask>", "lstrip": True, "rstrip": False}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "StripAccents"}]}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "ab"}, "content": "a"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": SPLIT | {"behavior": "Removed"}},
        {"pre_tokenizer": None},
        {"model": {"type": "WordPiece", "vocab": {}}},
        {"model": {"type": "Unigram", "vocab": []}},
        {"added_tokens": [LSTRIP]},
    ],
)
def test_a_tokenizer_that_may_drop_characters_has_no_bound(tokenizer, change):
    assert most_characters(tokenizer | change, 7) is None


def test_bpe_that_falls_back_to_bytes_has_a_bound():
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocabulary | {"\u2581" * 9: 256}}
    steps = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    llama = {"model": model, "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}
    assert most_characters(llama, 10) == 90
    del vocabulary["<0x0A>"]
    assert most_characters(llama | {"model": model | {"vocab": vocabulary}}, 10) is None
