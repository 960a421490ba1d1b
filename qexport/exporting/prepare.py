"""Bring an exporter's graph into the one form that selection and the engines rely on.

The prepared graph has these properties, whichever exporter wrote it:

1. A linear layer is ``MatMul(x, W)`` with W [in, out], then ``Add`` of its bias: nodes ``<module>/MatMul`` and
   ``<module>/Add``, initializers ``<module>.weight`` and ``<module>.bias``. There is no Gemm with a constant weight.
2. An embedding is ``Gather(W [rows, dim], ids)``, named ``<module>/Gather``.
3. A weight that an embedding and a linear layer share is stored once, as the embedding has it: the linear layer reads
   it through a node ``<module>/Transpose``.
4. Every other initializer that is a parameter of the model carries its name. Nothing unused is left.
5. Node names are unique and follow from the model; no path, time or stack trace of the export remains.
6. The metadata ``qexport.parameters`` lists the initializers that are parameters, as JSON.

Parameters are found by their content, not by the exporter's names: see :mod:`qexport.exporting.weights`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence, Set as AbstractSet
from typing import TYPE_CHECKING

from qexport.core import PARAMETERS_KEY, ContractError
from qexport.exporting.scopes import note_scopes, scope_of
from qexport.exporting.signature import Signature
from qexport.exporting.simplify import simplify
from qexport.exporting.weights import Weights

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedModel


def prepare(model: ir.Model, torch_model: PreTrainedModel, signature: Signature) -> None:
    """Rewrite ``model`` in place into the form described at the top of this module.

    Raises:
        ContractError: a weight of the torch model is not in the graph, or inputs and outputs are not those expected.
    """
    from onnx_ir.passes import common

    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    note_scopes(model.graph, {name for name, _ in torch_model.named_modules()})
    weights = Weights(torch_model)
    weights.place(model.graph)
    simplify(model, weights.placed.keys())
    common.TopologicalSortPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    names = [name for name in model.graph.initializers if name in weights.placed]
    weights.check_complete(names)
    _name_everything(model.graph, frozenset(names))
    _set_signature(model.graph, signature)
    _strip(model)
    model.metadata_props[PARAMETERS_KEY] = json.dumps(names)


def _name_everything(graph: ir.Graph, parameters: AbstractSet[str]) -> None:
    """Name nodes ``<module>/<op>``, values after their node, and constants by number, all in the graph's order."""
    counts: Counter[str] = Counter()
    for node in graph:
        scope = scope_of(node)
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        node.name = base if not counts[base] else f"{base}_{counts[base]}"
        counts[base] += 1
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"{node.name}:{index}"
    constants = [value for value in graph.initializers.values() if value.name not in parameters]
    for value in constants:
        value.name = f"exported:{value.name}"
    for number, value in enumerate(constants):
        value.name = f"constant_{number}"


def _set_signature(graph: ir.Graph, signature: Signature) -> None:
    """Write the shapes of inputs and outputs, in the signature's order, and the names of its dimensions everywhere."""
    symbols: dict[str | None, str] = {}
    for values, shapes in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        by_name = {str(value.name): value for value in values}
        if by_name.keys() != shapes.keys():
            different = sorted(by_name.keys() ^ shapes.keys())
            raise ContractError(f"the exported graph has other inputs and outputs than expected: {different}")
        values[:] = [by_name[name] for name in shapes]
        for value, shape in zip(values, shapes.values(), strict=True):
            for old, new in zip(value.shape or (), shape, strict=False):
                if not isinstance(old, int) and isinstance(new, str):
                    symbols[old.value] = new
            value.shape = _ir_shape(shape)
    for value in _outputs(graph):
        if value.shape is not None and not value.is_graph_output():
            value.shape = _ir_shape([dim if isinstance(dim, int) else symbols.get(dim.value) for dim in value.shape])


def _ir_shape(shape: Sequence[int | str | None]) -> ir.Shape:
    import onnx_ir as ir

    return ir.Shape(shape)


def _strip(model: ir.Model) -> None:
    """Remove the traces of the export that do not belong to the model."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.name = "main"
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *_outputs(model.graph)):
        value.metadata_props.clear()
        value.doc_string = None


def _outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from node.outputs
