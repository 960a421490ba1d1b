"""Completes tokenizer files, so that runtimes without transformers read them like transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.core import Artifact, ContractError, UnsupportedHere
from qexport.inputs import load_tokenizer, source_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
_PROBES = ("Once upon a time", " two  spaces\nand lines", "Käse, 茶 and 🦊", "")


def require_chat_template(artifact: Artifact) -> None:
    """Make sure that the tokenizer has a chat template for prompts.

    Raises:
        UnsupportedHere: the tokenizer has no chat template.
    """
    if not _template(load_tokenizer(source_of(artifact))):
        raise UnsupportedHere(
            f"{artifact.path}: --chat: its tokenizer has no chat template, since the model was not trained on chats; "
            "leave --chat out, or put a chat_template into tokenizer_config.json and export again"
        )


def settle(artifact: Artifact, folder: Path) -> dict[str, str]:
    """Complete the tokenizer files of a layout with all that transformers decides in code.

    ``tokenizer.json`` alone must encode like transformers. ``tokenizer_config.json`` says if a BOS token is added, and
    holds the chat template; onnxruntime-genai and Transformers.js look there for both.

    Returns:
        The changes by path.

    Raises:
        UnsupportedHere: transformers has no fast tokenizer for the model.
        ContractError: the written files encode differently from transformers.
    """
    tokenizer = load_tokenizer(source_of(artifact))
    if not tokenizer.is_fast:
        raise UnsupportedHere(
            f"{artifact.path}: its tokenizer exists in Python only, and other runtimes read tokenizer.json; "
            "convert it to a fast tokenizer and export again"
        )
    changes = {}
    if not _encodes_alike(folder / TOKENIZER, tokenizer):
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        changes[TOKENIZER] = "written by transformers, to encode as it does"
    if not _encodes_alike(folder / TOKENIZER, tokenizer):
        raise ContractError(
            f"{artifact.path}: {TOKENIZER} encodes differently from transformers; this tokenizer cannot go"
        )
    if told := _complete(folder / CONFIG, tokenizer):
        changes[CONFIG] = told
    return changes


def _encodes_alike(path: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    from tokenizers import Tokenizer

    if not path.is_file():
        return False
    alone = Tokenizer.from_file(str(path))
    alone.no_truncation()
    alone.no_padding()
    # Tokens that transformers adds from its own files are plain text for a reader of tokenizer.json alone.
    special = " and ".join(str(token) for token in tokenizer.added_tokens_decoder.values())
    return all(alone.encode(text).ids == tokenizer(text).input_ids for text in (*_PROBES, special))


def _complete(path: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Add missing entries to the configuration; return the additions in words."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    wanted: dict[str, Any] = {"add_bos_token": adds_bos(tokenizer)}
    if template := _template(tokenizer):
        wanted["chat_template"] = template
    missing = {key: value for key, value in wanted.items() if config.get(key) != value}
    if not missing:
        return ""
    path.write_text(json.dumps(config | missing, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return " and ".join(
        f"add_bos_token set to {str(value).lower()}" if key == "add_bos_token" else "the chat template put in"
        for key, value in missing.items()
    )


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template; if several exist, the one with the name ``default``; empty if there is none."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:  # no template, or several without a default
        return ""


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if transformers puts a BOS token before a text."""
    ids = tokenizer("a").input_ids
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
