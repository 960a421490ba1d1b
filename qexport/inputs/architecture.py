"""Reads an architecture from a configuration: context length, vocabulary, sliding window and rotary switch.

It reads the plain values of ``config.json``, so that a server without transformers gets the same results as an export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""The keys that name a context length, in order of precedence."""
_LONGROPE = {"phi3": frozenset({"longrope", "su", "yarn"})}
"""The names of longrope by model type: transformers reads Phi-3's older names as longrope."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Facts of a decoder's architecture. Lengths are in tokens."""

    vocabulary: int | None
    """Rows of the embedding table; None if the configuration names none."""
    context_length: int | None
    """Positions that the model was made for; None if the configuration names none."""
    sliding_window: int | None
    """Tokens that a query can attend to; None if it attends to the whole context."""
    longrope_switch: int | None
    """The length above which longrope's long factors apply; None for other rotary embeddings."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture:
        """Read a configuration.

        Args:
            config: the values of ``config.json``, or transformers' ``PretrainedConfig.to_dict()``.
        """
        context = next((config[key] for key in CONTEXT_KEYS if isinstance(config.get(key), int)), None)
        window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
        vocabulary = config.get("vocab_size")
        return cls(
            vocabulary=None if vocabulary is None else int(vocabulary),
            context_length=context,
            sliding_window=None if window is None else int(window),
            longrope_switch=config.get("original_max_position_embeddings", context) if _is_longrope(config) else None,
        )


def _is_longrope(config: Mapping[str, Any]) -> bool:
    rope = config.get("rope_scaling") or {}
    names = _LONGROPE.get(str(config.get("model_type")), frozenset({"longrope"}))
    return not names.isdisjoint({rope.get("type"), rope.get("rope_type")})
