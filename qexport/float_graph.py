"""The fp32 graph that a quantization starts from, read once for all who look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexport.errors import ContractError, first_words

if TYPE_CHECKING:
    import onnx_ir as ir

    from qexport.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class FloatGraph:
    """The graph of an fp32 artifact."""

    artifact: Artifact
    model: ir.Model
    """The graph as the file has it. Nobody changes it; :meth:`copy` gives one to change."""

    @classmethod
    def read(cls, artifact: Artifact) -> FloatGraph:
        """Read the graph of an fp32 artifact.

        Raises:
            ContractError: the file cannot be read as ONNX.
        """
        import onnx_ir as ir
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            return cls(artifact=artifact, model=ir.load(artifact.onnx_path))
        except DecodeError as error:
            reason = first_words(error)
            raise ContractError(f"{artifact.onnx_path}: cannot be read as ONNX ({reason}); make it again") from error

    def copy(self) -> ir.Model:
        """A graph of the same nodes that may be changed. Both share the contents of the weights."""
        return self.model.clone()
