"""Artifacts that stay in PyTorch, and the recipes that make the same of a model in ONNX."""

from __future__ import annotations

from collections.abc import Mapping

from qexport.artifact import Artifact
from qexport.errors import UnsupportedHere

_TWINS: Mapping[str, str] = {
    "bnb-nf4": "`qexport quantize MODEL -o DIR --recipe nf4`, which holds the same weights",
    "bnb-fp4": "`qexport quantize MODEL -o DIR --recipe fp4`, which holds the same weights",
    "bnb-int8": "`qexport quantize MODEL -o DIR --recipe int8-dynamic`",
    "torch-fp16": "`qexport quantize MODEL -o DIR --recipe fp16`",
    "torch-fp32": "`qexport export MODEL -o DIR`",
}
_OTHERS = "one of the ONNX recipes that `qexport recipes` lists"


def require_onnx(artifact: Artifact, purpose: str) -> None:
    """Make sure that an artifact holds an ONNX graph.

    Args:
        artifact: what must hold one.
        purpose: what it is wanted for: ``to deploy``.

    Raises:
        UnsupportedHere: it stays in PyTorch; the message names the recipe to take instead.
    """
    recipe = artifact.manifest.recipe
    if artifact.manifest.kind == "torch":
        raise UnsupportedHere(
            f"{artifact.path}: {recipe} runs in PyTorch only and holds no ONNX graph {purpose}; take {_TWINS.get(recipe, _OTHERS)}"
        )
