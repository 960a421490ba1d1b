"""Finds the ONNX recipe that matches an artifact which stays in PyTorch."""

from __future__ import annotations

from qexport.core import Artifact, UnsupportedHere
from qexport.quantization import RECIPES, FourBitFloat


def require_onnx(artifact: Artifact, purpose: str) -> None:
    """Make sure that an artifact holds an ONNX graph.

    Args:
        artifact: the artifact to check.
        purpose: the purpose, for the message: ``to deploy``.

    Raises:
        UnsupportedHere: the artifact stays in PyTorch; the message names the recipe to use instead.
    """
    if artifact.manifest.kind == "torch":
        recipe = artifact.manifest.recipe
        raise UnsupportedHere(
            f"{artifact.path}: {recipe} runs in PyTorch only and holds no ONNX graph {purpose}; take {_twin_of(recipe)}"
        )


def _twin_of(recipe: str) -> str:
    """The command that makes the nearest ONNX artifact."""
    twin = RECIPES[recipe].onnx_twin if recipe in RECIPES else ""
    if not twin:
        return "one of the ONNX recipes that `qexport recipes` lists"
    if twin == "fp32":
        return "`qexport export MODEL -o DIR`"
    same = ", which holds the same weights" if isinstance(RECIPES[twin].scheme, FourBitFloat) else ""
    return f"`qexport quantize MODEL -o DIR --recipe {twin}`{same}"
