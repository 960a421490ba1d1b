"""Graphs in 16 bits.

A whole graph computes in float16 or bfloat16, or in float32 on values that are rounded to bfloat16.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import numpy as np

from qexport.core import PARAMETERS_KEY, ContractError, array, set_initializer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir
    from numpy.typing import NDArray

HalfDtype = Literal["fp16", "bf16"]

KEPT_OPS = frozenset({"Exp", "Log", "Pow", "ReduceMean", "ReduceSum", "Reciprocal", "Softmax", "Sqrt"})
"""Operators that compute in float32. Sums of squares and of exponentials leave float16's range or lose their small
terms. Operators such as LayerNormalization compute in float32 internally and are not in this set."""
KEPT = f"positions and masks, {', '.join(sorted(KEPT_OPS))} and what lies between these"
"""The part of a graph that stays in float32, in words for the record."""
_BETWEEN = frozenset({"Add", "Div", "Mul", "Sub"})
"""Operators that stay in float32 if all their inputs, except constants, come from an operator that does."""
_WEIGHTY = frozenset({"DequantizeLinear", "GatherBlockQuantized", "MatMulBnb4", "MatMulNBits"})
"""Operators whose constants are weights, whatever their names."""
_MULTIPLYING = frozenset({"GroupQueryAttention", "MatMul", "MatMulBnb4", "MatMulNBits"})
"""Operators whose inputs and outputs are rounded if the arithmetic stays float32."""


def data_type(dtype: HalfDtype) -> ir.DataType:
    import onnx_ir as ir

    return ir.DataType.FLOAT16 if dtype == "fp16" else ir.DataType.BFLOAT16


def largest(dtype: HalfDtype) -> np.float32:
    """The largest finite value of a type: 65504, or 3.39e38."""
    return np.float32(65504 if dtype == "fp16" else np.array(0x7F7F0000, np.uint32).view(np.float32))


def parameters(model: ir.Model) -> frozenset[str]:
    """Initializers that were parameters of the torch model."""
    return frozenset(json.loads(model.metadata_props.get(PARAMETERS_KEY, "[]")))


def rounded(weight: NDArray[np.float32], dtype: HalfDtype, name: str) -> NDArray[np.generic]:
    """A weight in a 16-bit type, rounded to nearest even.

    Raises:
        ContractError: a value does not fit the type.
    """
    peak = float(np.abs(weight).max(initial=0.0))
    if peak > largest(dtype):
        raise ContractError(f"{name}: holds {peak:.6g}, and {dtype} ends at {largest(dtype):.6g}; take bf16 or fp32")
    return weight.astype(data_type(dtype).numpy())


def to_half(model: ir.Model, dtype: HalfDtype) -> None:
    """Change a float32 graph in place to one that stores and computes in a 16-bit type.

    Values computed from positions and masks alone stay in float32 until they meet activations. :data:`KEPT_OPS` stay in
    float32 too. One Cast stands at each border. Integer weights do not change; their scales are cast. Mask constants
    beyond the type's range become its largest value. Cache inputs and outputs have the 16-bit type; the logits are
    float32.

    Args:
        model: the prepared graph; its weights may have 4 or 8 bits.
        dtype: the 16-bit type.

    Raises:
        ContractError: a weight does not fit the type; the message names it.
    """
    _Half(model, dtype).run()


class _Half:
    def __init__(self, model: ir.Model, dtype: HalfDtype) -> None:
        import onnx_ir as ir

        self.model, self.graph, self.dtype = model, model.graph, dtype
        self.single, self.half = ir.DataType.FLOAT, data_type(dtype)
        self.parameters = parameters(model)
        self.floats = self._floats()
        self.kept = self._kept()
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        import onnx_ir as ir

        for value in self.graph.inputs:
            if value in self.floats:
                value.dtype = self.half
        for node in list(self.graph):
            for place, read in enumerate(node.inputs):
                if read in self.floats:
                    node.replace_input_with(place, self._as(read, self._wanted(node), node))
            for value in node.outputs:
                if value in self.floats:
                    value.dtype = self._wanted(node)
            if node.op_type == "Cast" and node.outputs[0] in self.floats:
                node.attributes["to"] = ir.AttrInt64("to", int(self._wanted(node)))
        self._finish_logits()

    def _floats(self) -> set[ir.Value | None]:
        """All values of the graph that are float32."""
        given = (*self.graph.inputs, *self.graph.initializers.values())
        found: set[ir.Value | None] = {value for value in given if value.dtype is self.single}
        for node in self.graph:
            for value in node.outputs:
                # A rewritten node may have lost its type; it then has the type of its input.
                unknown = value.dtype is None and node.inputs and node.inputs[0] in found
                if value.dtype is self.single or unknown:
                    found.add(value)
        return found

    def _kept(self) -> set[ir.Node]:
        """The nodes that stay in float32."""
        kept: set[ir.Node] = set()
        apart: set[ir.Node] = set()  # nodes that no activation reaches
        for node in self.graph:
            read = [value for value in node.inputs if value is not None and value in self.floats]
            computed = [value.producer() for value in read if not value.is_initializer()]
            weighty = node.op_type in _WEIGHTY or any(value.name in self.parameters for value in read)
            if not weighty and all(producer in apart for producer in computed):
                apart.add(node)
                continue
            between = node.op_type in _BETWEEN and not weighty and all(producer in kept for producer in computed)
            if between or node.op_type in KEPT_OPS:
                kept.add(node)
        return kept | apart

    def _wanted(self, node: ir.Node) -> ir.DataType:
        return self.single if node in self.kept else self.half

    def _as(self, value: ir.Value | None, wanted: ir.DataType, reader: ir.Node) -> ir.Value:
        assert value is not None
        if (value, wanted) not in self.made:
            self.made[value, wanted] = (
                self._constant(value, wanted) if value.is_initializer() else self._cast(value, wanted, reader)
            )
        return self.made[value, wanted]

    def _constant(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name, data = str(value.name), np.asarray(array(value), np.float32)
        if name not in self.parameters and not self._is_scale(value):
            data = np.where(np.isinf(data), data, np.clip(data, -largest(self.dtype), largest(self.dtype)))
        if wanted is self.half:
            return set_initializer(self.graph, f"{name}:{self.dtype}", rounded(data, self.dtype, name))
        return set_initializer(self.graph, f"{name}:fp32", data)

    def _is_scale(self, value: ir.Value) -> bool:
        return any(use.node.op_type in _WEIGHTY for use in value.uses())

    def _cast(self, value: ir.Value, wanted: ir.DataType, reader: ir.Node) -> ir.Value:
        if value.dtype is wanted:
            return value
        new = cast(value, wanted, f"{value.name}/Cast")
        self.graph.insert_before(reader, new)
        return new.outputs[0]

    def _finish_logits(self) -> None:
        """Make the logits float32, and give the constants their old names."""
        for place, value in enumerate(self.graph.outputs):
            if value.name == "logits" and value.dtype is self.half:
                value.name = "logits_half"
                last = cast(value, self.single, "logits/Cast")
                last.outputs[0].name = "logits"
                self.graph.append(last)
                self.graph.outputs[place] = last.outputs[0]
        for old, new in _by_preference(self.made, self.half):
            if old.is_initializer() and not old.uses() and str(old.name) in self.graph.initializers:
                name = str(old.name)
                del self.graph.initializers[name]
                new.name = name


def _by_preference(
    made: dict[tuple[ir.Value, ir.DataType], ir.Value], half: ir.DataType
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The values made, those in 16 bits first: the 16-bit value gets the name if there are two."""
    for old, dtype in sorted(made, key=lambda key: key[1] is not half):
        yield old, made[old, dtype]


def cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    import onnx_ir as ir

    node = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=name)
    made = node.outputs[0]
    made.name, made.shape, made.dtype = f"{name}_output", value.shape, dtype
    return node


def round_to_bf16(model: ir.Model) -> None:
    """Store a float32 graph's parameters in bfloat16, and round the inputs and outputs of every product to bfloat16.

    The arithmetic is float32, for runtimes without bfloat16 kernels. Accelerators also sum products of two bfloat16
    numbers in float32. The cache holds bfloat16 values in float32.
    """
    import onnx_ir as ir

    graph, single = model.graph, ir.DataType.FLOAT
    kept = _Half(model, "bf16").kept  # angles and masks: bfloat16 cannot hold every position beyond 256
    known: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type not in _MULTIPLYING or node in kept:
            continue
        for place, value in enumerate(node.inputs):
            if value is None or value.dtype is not single or value.is_initializer() or _is_weight(value):
                continue
            if value.producer() in kept:
                continue
            if value not in known:
                known[value] = _round(value, graph, before=node)
            node.replace_input_with(place, known[value])
        _round_output(node, graph)
    first = graph[0]
    for name in sorted(parameters(model) & graph.initializers.keys()):
        value = graph.initializers[name]
        if value.dtype is not single:
            continue
        stored = set_initializer(graph, f"{name}:bf16", rounded(np.asarray(array(value), np.float32), "bf16", name))
        back = cast(stored, single, f"{name}/Cast")
        graph.insert_before(first, back)
        value.replace_all_uses_with(back.outputs[0])
        del graph.initializers[name]
        stored.name = name


def _is_weight(value: ir.Value) -> bool:
    """True if a value is a transposed table."""
    producer = value.producer()
    return (
        producer is not None
        and producer.op_type == "Transpose"
        and any(read is not None and read.is_initializer() for read in producer.inputs)
    )


def _round(value: ir.Value, graph: ir.Graph, before: ir.Node) -> ir.Value:
    import onnx_ir as ir

    down = cast(value, ir.DataType.BFLOAT16, f"{value.name}/Cast")
    up = cast(down.outputs[0], ir.DataType.FLOAT, f"{value.name}/Cast_1")
    graph.insert_before(before, [down, up])
    return up.outputs[0]


def _round_output(node: ir.Node, graph: ir.Graph) -> None:
    """Round the first output of a node for all its readers; a graph output keeps its name."""
    import onnx_ir as ir

    value = node.outputs[0]
    down = cast(value, ir.DataType.BFLOAT16, f"{value.name}/round")
    up = cast(down.outputs[0], ir.DataType.FLOAT, f"{value.name}/round_1")
    value.replace_all_uses_with(up.outputs[0], replace_graph_outputs=True)
    down.replace_input_with(0, value)
    graph.insert_after(node, [down, up])
    if up.outputs[0].is_graph_output():
        up.outputs[0].name, value.name = value.name, f"{value.name}_exact"
