"""How many tokens a model has a row for, which may be fewer than its tokenizer has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qexport.inputs.pretrained import load_config

if TYPE_CHECKING:
    from qexport.inputs.models import ModelSource


def table_rows(source: ModelSource) -> int | None:
    """The rows of the model's table of tokens, by its configuration; None where that does not say."""
    rows = source.config.get("vocab_size")
    if not isinstance(rows, int):
        rows = getattr(load_config(source.path, trust_remote_code=source.trust_remote_code), "vocab_size", None)
    return rows if isinstance(rows, int) else None
