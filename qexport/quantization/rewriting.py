"""The steps of a graph through a quantization: a scheme rewrites it, it is saved, read again and checked.

A scheme takes a graph and returns a graph; it never touches a folder. A pass over the rewritten graph belongs between
the scheme and the saving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qexport import runtime
from qexport.core import ONNX_NAME, ContractError, first_words, save
from qexport.quantization import targets
from qexport.quantization.schemes.scheme import SchemeResult

if TYPE_CHECKING:
    from pathlib import Path

    from qexport.core import FloatGraph, Selection
    from qexport.inputs import TokenSet
    from qexport.quantization.schemes.scheme import OnnxScheme


def rewrite(
    scheme: OnnxScheme,
    parent: FloatGraph,
    selection: Selection,
    folder: Path,
    *,
    tokens: TokenSet | None,
    name: str = "the scheme",
) -> SchemeResult:
    """Quantize the selected nodes of a graph and write ``model.onnx`` into a folder.

    Args:
        scheme: the scheme that rewrites the graph.
        parent: the fp32 graph.
        selection: the nodes to quantize.
        folder: the folder of the model file.
        tokens: the calibration windows, if the scheme's ``calibration`` asks for them.
        name: the name of the recipe, for messages.

    Returns:
        The nodes found quantized in the file, with the bytes of all its weights.

    Raises:
        ContractError: the file differs from the request, or does not load.
        UnsupportedHere: the scheme cannot do this on this machine, or for this target.
    """
    import onnx_ir as ir

    rewritten = scheme.apply(parent, selection, tokens=tokens)
    weight_bytes = save(rewritten.model, folder)
    path = folder / ONNX_NAME
    _require_loads(path, here=rewritten.loads_here)
    emitted = ir.load(path)
    found = rewritten.check(emitted)
    targets.check_target(emitted, scheme.target, name)
    return SchemeResult(quantized=found, weight_bytes=weight_bytes, settings=rewritten.settings)


def _require_loads(path: Path, *, here: bool) -> None:
    """Make sure that a file loads, or that it is valid ONNX if ONNX Runtime's CPU provider would refuse its types."""
    if here:
        runtime.OrtSession(path)  # raises if the file does not load
        return
    import onnx

    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise ContractError(f"{path}: is not valid ONNX ({first_words(error)})") from error
