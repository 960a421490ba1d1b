"""A bound on the characters of a prompt, so that a prompt that cannot fit is refused before it is tokenized.

A bound exists only for tokenizers that never drop a character or join an unbounded number of them: byte-level BPE, and
BPE with byte fallback. Others have no bound, and only the server's limit on a body applies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COMPOSED_CHARACTERS = 4
"""The most characters that NFC and NFKC compose into one."""
_BYTES = 256


def most_characters(tokenizer: Mapping[str, Any], context: int) -> int | None:
    """The number of characters beyond which a text has more tokens than a context; None if it is unknown.

    Args:
        tokenizer: the content of ``tokenizer.json``.
        context: the most tokens.
    """
    model, added = tokenizer["model"], tokenizer.get("added_tokens") or ()
    if model.get("type") != "BPE" or any(token["lstrip"] or token["rstrip"] for token in added):
        return None  # WordPiece, WordLevel and Unigram make one token of any number of unknown characters
    normalizers, splitters = _steps(tokenizer, "normalizer"), _steps(tokenizer, "pre_tokenizer")
    if not all(map(_keeps_characters, normalizers)) or not all(map(_keeps_pieces, splitters)):
        return None
    vocabulary: Mapping[str, int] = model["vocab"]
    if not (_has_bytes(model, vocabulary) or _is_byte_level([*normalizers, *splitters], vocabulary)):
        return None
    longest = max(map(len, [*vocabulary, *(token["content"] for token in added)]))
    composing = sum(step["type"] in {"NFC", "NFKC"} for step in normalizers)
    return int(context * longest * COMPOSED_CHARACTERS**composing)


def _steps(tokenizer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The parts of a normalizer or pre-tokenizer, in order."""

    def flat(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        inner: Sequence[Mapping[str, Any]] | None = part.get("normalizers", part.get("pretokenizers"))
        return [part] if inner is None else [step for each in inner for step in flat(each)]

    part = tokenizer.get(name)
    return [] if part is None else flat(part)


def _keeps_characters(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Replace":
        old = step["pattern"].get("String")
        return old is not None and len(step["content"]) >= len(old)
    return step["type"] in {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "ByteLevel"}


def _keeps_pieces(step: Mapping[str, Any]) -> bool:
    if step["type"] in {"Split", "Punctuation"}:
        return bool(step["behavior"] != "Removed")
    return step["type"] in {"ByteLevel", "Digits", "Metaspace"}


def _has_bytes(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> bool:
    return bool(model.get("byte_fallback")) and all(f"<0x{byte:02X}>" in vocabulary for byte in range(_BYTES))


def _is_byte_level(steps: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, int]) -> bool:
    from tokenizers.pre_tokenizers import ByteLevel

    return any(step["type"] == "ByteLevel" for step in steps) and all(
        sign in vocabulary for sign in ByteLevel.alphabet()
    )
