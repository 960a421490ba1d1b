"""A model's files after the checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexport.core import InputError
from qexport.inputs.architecture import Architecture
from qexport.inputs.pretrained import load_config


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model on this machine, whose folder holds configuration, tokenizer and finite weights of a decoder."""

    name: str
    """The hub id or the folder's name, never a path of the machine."""
    revision: str
    """The commit of the hub snapshot; empty for a local folder."""
    path: Path
    config: dict[str, Any]
    weight_files: tuple[Path, ...]
    weights_sha256: str
    """Digest of names and bytes of the weight files."""
    trust_remote_code: bool
    """True if the folder's own Python code may run: allowed by the user and needed."""

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def context_length(self) -> int:
        """The number of positions that the model was made for.

        Raises:
            InputError: neither the configuration nor its class's defaults name one.
        """
        if (named := Architecture.of(self.config).context_length) is not None:
            return named
        default = getattr(
            load_config(self.path, trust_remote_code=self.trust_remote_code), "max_position_embeddings", None
        )
        if not isinstance(default, int):
            raise InputError(f"{self.path / 'config.json'}: names no context length; add max_position_embeddings")
        return default
