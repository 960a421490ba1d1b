"""Prompts for generation: read from a file, and turned into the same tokens for every variant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.core import InputError, read_text, shown
from qexport.inputs.text import Place, TokenSet, bos_ids, encode, read_json_values, require_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts in order, and their source."""

    origin: str
    """The source, in words that hold on every machine: a file's name."""
    texts: tuple[str, ...]
    chat: bool = False
    """True if each prompt is a user's message, put into the tokenizer's chat template."""
    places: tuple[Place, ...] = field(default=(), compare=False, repr=False)
    """The place of each prompt; empty if prompts are only counted."""


def load_prompts(path: Path, *, chat: bool = False) -> Prompts:
    """Read prompts from a ``.txt``, ``.jsonl`` or ``.json`` file.

    * ``.txt``: each line that is not empty is a prompt.
    * ``.jsonl``: a line is a string, or an object with a string under ``prompt`` or ``text``.
    * ``.json``: a list of such values.

    White space around a prompt is removed.

    Raises:
        InputError: the file is missing or malformed, is not UTF-8, has no prompt, an empty one, or half a character.
    """
    readers = {".txt": _lines, ".jsonl": _json_prompts, ".json": _json_prompts}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of prompts; use {', '.join(readers)}")
    found = list(reader(path))
    if not found:
        raise InputError(f"{path}: holds no prompts; give at least one")
    places, texts = zip(*found, strict=True)
    return Prompts(origin=shown(path.name), texts=texts, chat=chat, places=places)


def _lines(path: Path) -> Iterator[tuple[Place, str]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield Place(f"{path}:{number}"), line.strip()


def _json_prompts(path: Path) -> Iterator[tuple[Place, str]]:
    for place, value in read_json_values(path):
        text = value.get("prompt", value.get("text")) if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise InputError(
                f'{place}: neither a string nor an object with a string under "prompt" or "text"; correct that'
            )
        if not text.strip():
            raise InputError(f"{place}: an empty prompt; write one, or remove the item")
        yield Place(place), text.strip()


def encode_prompts(
    prompts: Prompts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    new_tokens: int,
    context: int,
    rows: int | None = None,
) -> TokenSet:
    """Turn prompts into token sequences, each with BOS in front if the tokenizer has one.

    In a chat the template alone decides the tokens around a message, also BOS.

    Args:
        prompts: the prompts.
        tokenizer: the tokenizer of the model.
        new_tokens: the number of tokens that will follow each prompt.
        context: the number of the model's positions.
        rows: the number of tokens that the model has a row for; None if it is unknown.

    Raises:
        InputError: a chat needs a template that the tokenizer lacks or that fails, a prompt with its new tokens is
                longer than the context, or the model has no row for a token.
    """
    sequences = []
    for number, text in enumerate(prompts.texts, start=1):
        place = f"{prompts.origin}: prompt {number}"
        where = prompts.places[number - 1] if prompts.places else Place(place)
        ids = _chat_ids(tokenizer, text, place) if prompts.chat else bos_ids(tokenizer) + encode(tokenizer, text)
        require_rows(tokenizer, ids, rows, where, text)
        if len(ids) + new_tokens > context:
            raise InputError(
                f"{place}: its {len(ids)} tokens and {new_tokens} new ones are more than the model's context of "
                f"{context}; shorten it, or make fewer new tokens"
            )
        sequences.append(np.array(ids, np.int64))
    return TokenSet(
        kind="prompts",
        origin=prompts.origin,
        description=_describe([len(sequence) for sequence in sequences], new_tokens, chat=prompts.chat),
        sequences=tuple(sequences),
    )


def _describe(lengths: list[int], new_tokens: int, *, chat: bool) -> str:
    least, most = min(lengths), max(lengths)
    which = "1 prompt" if len(lengths) == 1 else f"each of {len(lengths)} prompts"
    size = f"{least} tokens" if least == most else f"{least} to {most} tokens"
    return f"{new_tokens} new tokens after {which} of {size}, greedy" + (", in the chat template" if chat else "")


def _chat_ids(tokenizer: PreTrainedTokenizerBase, text: str, place: str) -> list[int]:
    if not tokenizer.chat_template:
        raise InputError(f"{place}: the tokenizer has no chat template; set chat = false, or take an instruct model")
    messages = [{"role": "user", "content": text}]
    try:
        ids: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except Exception as error:  # a template may raise any error, and jinja2's errors are not public
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{place}: the tokenizer's chat template fails on it ({reason}); set chat = false") from error
    return [int(token) for token in ids]
