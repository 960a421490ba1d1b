"""The fp32 graph that a quantization starts from, read once for all readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexport.core.errors import ContractError, first_words

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from qexport.core.artifact import Artifact


@contextlib.contextmanager
def decoded(path: Path) -> Iterator[None]:
    """Turn protobuf's error about a file into one that names the file and the way out.

    Raises:
        ContractError: the file cannot be read as ONNX.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        yield
    except DecodeError as error:
        raise ContractError(f"{path}: cannot be read as ONNX ({first_words(error)}); make it again") from error


@dataclass(frozen=True, kw_only=True)
class FloatGraph:
    """The graph of an fp32 artifact."""

    artifact: Artifact
    model: ir.Model
    """The graph of the file. Nobody changes it; :meth:`copy` returns one to change."""

    @classmethod
    def read(cls, artifact: Artifact) -> FloatGraph:
        """Read the graph of an fp32 artifact.

        Raises:
            ContractError: the file cannot be read as ONNX.
        """
        import onnx_ir as ir

        with decoded(artifact.onnx_path):
            return cls(artifact=artifact, model=ir.load(artifact.onnx_path))

    def copy(self) -> ir.Model:
        """A copy of the graph that may be changed. Both graphs share the contents of the weights."""
        return self.model.clone()
