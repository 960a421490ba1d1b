"""Schemes: what is done to weights and activations. A scheme's fields are its whole configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qexport.artifact import QuantizedNode


@dataclass(frozen=True, kw_only=True)
class SchemeResult:
    """What a scheme left in the folder it was given, in the manifest's terms."""

    quantized: tuple[QuantizedNode, ...]
    """What was found quantized when the result was opened again."""
    weight_bytes: int
    """Bytes of all weights as stored, tied ones once."""
    settings: dict[str, str | int | float | bool]
    versions: dict[str, str] = field(default_factory=dict)
