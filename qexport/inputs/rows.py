"""The number of tokens that a model has a row for, which may be smaller than its tokenizer's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import InputError, first_words, read_json, shown
from qexport.inputs.pretrained import load_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from qexport.inputs.source import ModelSource

_NAMED = 4
"""The most tokens that a message names."""


def table_rows(source: ModelSource) -> int | None:
    """The rows of the model's embedding table, from its configuration; None if it does not give them."""
    rows = source.config.get("vocab_size")
    return (
        rows if isinstance(rows, int) else rows_of(load_config(source.path, trust_remote_code=source.trust_remote_code))
    )


def rows_of(config: PretrainedConfig) -> int | None:
    """The rows of the embedding table in a configuration; None if it does not give them."""
    rows = getattr(config, "vocab_size", None)
    return rows if isinstance(rows, int) else None


def require_enough_rows(folder: Path, tokens: int, rows: int) -> None:
    """Refuse a tokenizer that has more tokens, without added ones, than the model has rows.

    Raises:
        InputError: the tokenizer has more tokens.
    """
    if tokens > rows:
        raise InputError(
            f"{folder}: the tokenizer has {tokens} tokens and the model only {rows}; use the tokenizer the model was trained with"
        )


def without_row(folder: Path, rows: int | None) -> str:
    """The tokens of a tokenizer that the model has no row for, as a number and names: ``2 of 514 (<|user|>, <|end|>)``.

    They were added to the tokenizer, and the model's embedding was not resized.

    Args:
        folder: the folder with ``tokenizer.json``; without that file the result is empty.
        rows: the rows of the model's table; None if they are unknown.

    Returns:
        Empty if every token has a row.

    Raises:
        InputError: ``tokenizer.json`` cannot be read, or has more tokens without added ones than the model has rows.
    """
    from tokenizers import Tokenizer

    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if rows is None or not file.is_file():
        return ""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"{file}: cannot be read ({first_words(error)}); save the tokenizer again") from error
    require_enough_rows(folder, tokenizer.get_vocab_size(with_added_tokens=False), rows)
    tokens = {number: name for name, number in tokenizer.get_vocab().items()}
    added = read_json(settings).get("added_tokens_decoder") if settings.is_file() else None
    for number, token in added.items() if isinstance(added, dict) else ():
        if number.isdecimal() and isinstance(token, dict):
            tokens.setdefault(int(number), str(token.get("content")))
    beyond = sorted(number for number in tokens if number >= rows)
    if not beyond:
        return ""
    names = ", ".join(shown(tokens[number]) for number in beyond[:_NAMED])
    return f"{len(beyond)} of {len(tokens)} ({names}{', ...' if len(beyond) > _NAMED else ''})"
