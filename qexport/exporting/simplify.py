"""Makes a graph smaller without changing its results: folds constants, and removes detours of shape arithmetic."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

# Larger constants are weights, or tables that are better computed from something small at load time.
_FOLD_INPUT_ELEMENTS = 8192
_FOLD_OUTPUT_ELEMENTS = 65536
_ROUNDS = 4


def simplify(model: ir.Model, parameters: AbstractSet[str]) -> None:
    """Simplify in place. Initializers named in ``parameters`` stay unchanged and are never folded."""
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules import common as rules

    rewrite = RewritePass(
        [
            rules.no_op_cast_rule,
            rules.no_op_expand_rule,
            rules.no_op_transpose_rule,
            rules.reshape_reshape_rule,
            rules.transpose_transpose_rule,
            rules.unsqueeze_unsqueeze_rule,
            rules.collapse_slice_rule,
            rules.collapse_slice2_rule,
            *rules.expand_before_binary_op_rules,
            *rules.mul_by_1_rule.commute(),
        ]
    )

    def should_fold(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in parameters for value in node.inputs) else None

    for _ in range(_ROUNDS):
        folded = fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_FOLD_INPUT_ELEMENTS,
            output_size_limit=_FOLD_OUTPUT_ELEMENTS,
            should_fold=should_fold,
        )
        rewritten = rewrite(model)
        common.IdentityEliminationPass()(model)
        reshapes = _drop_reshapes(model.graph)
        common.RemoveUnusedNodesPass()(model)
        if not (folded.modified or rewritten.modified or reshapes):
            break
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _replace_reciprocals(model.graph)
    _merge_constants(model.graph, parameters)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def _drop_reshapes(graph: ir.Graph) -> int:
    """Remove chains of Reshape that end in the shape they began with, symbolic dimensions included."""
    dropped = 0
    for node in graph:
        if node.op_type != "Reshape" or node.outputs[0].is_graph_output():
            continue
        source = node.inputs[0]
        while source is not None and not same_shape(source, node.outputs[0]):
            producer = source.producer()
            source = producer.inputs[0] if producer is not None and producer.op_type == "Reshape" else None
        if source is not None:
            node.outputs[0].replace_all_uses_with(source)
            dropped += 1
    return dropped


def same_shape(first: ir.Value, second: ir.Value) -> bool:
    """True if both shapes are known and agree in every dimension; unnamed dimensions agree with nothing."""
    if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return False
    return all(
        a == b and (isinstance(a, int) or a.value is not None) for a, b in zip(first.shape, second.shape, strict=True)
    )


def _replace_reciprocals(graph: ir.Graph) -> None:
    """Write 1/x as a division: only in that form does onnxruntime know an RMS norm, which it runs as one operator."""
    import onnx_ir as ir

    nodes = [node for node in graph if node.op_type == "Reciprocal"]
    for number, node in enumerate(nodes):
        one = add_initializer(graph, f"one_{number}", np.ones((), dtype=np.float32))
        division = ir.node("Div", [one, node.inputs[0]])
        division.meta.update(node.meta)
        division.outputs[0].shape, division.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, division)
        node.outputs[0].replace_all_uses_with(division.outputs[0])
        graph.remove(node, safe=True)


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.float32]) -> ir.Value:
    """A new initializer of ``graph``."""
    import onnx_ir as ir

    tensor = ir.tensor(np.asarray(array, order="C"), name=name)  # ascontiguousarray makes a scalar a vector
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _merge_constants(graph: ir.Graph, parameters: AbstractSet[str]) -> None:
    """Keep one initializer for each small constant. Parameters stay apart: equal content does not make them one."""
    first: dict[tuple[object, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if name in parameters or tensor is None or tensor.size > _FOLD_INPUT_ELEMENTS or value.is_graph_output():
            continue
        key = (tensor.dtype, tuple(tensor.shape), tensor.tobytes())
        if key not in first:
            first[key] = value
            continue
        value.replace_all_uses_with(first[key])
        del graph.initializers[name]
