"""The way of a graph through a quantization: rewritten by a scheme, saved, read again and checked.

No scheme touches a folder: a scheme takes a graph and gives a graph. A pass over the rewritten graph has its place between the
scheme and the saving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qexport import runtime, targets
from qexport.artifact import ONNX_NAME
from qexport.errors import ContractError, first_words
from qexport.graph import save
from qexport.schemes import SchemeResult

if TYPE_CHECKING:
    from pathlib import Path

    from qexport.float_graph import FloatGraph
    from qexport.inputs.text import TokenSet
    from qexport.schemes import OnnxScheme
    from qexport.selection import Selection


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
        scheme: rewrites the graph.
        parent: the fp32 graph.
        selection: nodes of the graph.
        folder: where the model file goes.
        tokens: calibration windows, where the scheme's ``calibration`` asks for them.
        name: of the recipe, for messages.

    Returns:
        The nodes found quantized in the file, with the bytes of all its weights.

    Raises:
        ContractError: what is in the file is not what was asked for, or the file does not load.
        UnsupportedHere: the scheme cannot do this on this machine, or for this target.
    """
    import onnx_ir as ir

    rewritten = scheme.apply(parent, selection, tokens=tokens)
    weight_bytes = save(rewritten.model, folder)
    path = folder / ONNX_NAME
    _require_loads(path, here=rewritten.loads_here)
    emitted = ir.load(path)
    found = rewritten.check(emitted)
    targets.check(emitted, scheme.target, name)
    return SchemeResult(quantized=found, weight_bytes=weight_bytes, settings=rewritten.settings)


def _require_loads(path: Path, *, here: bool) -> None:
    """Make sure that a file loads; where ONNX Runtime's CPU provider would refuse the types, that it is valid ONNX."""
    if here:
        runtime.OrtSession(path)  # raises where the file does not load
        return
    import onnx

    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise ContractError(f"{path}: is not valid ONNX ({first_words(error)})") from error
