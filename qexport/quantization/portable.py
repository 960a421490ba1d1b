"""Calibration graphs whose float32 values are the same on every x86-64 CPU with FMA.

ONNX Runtime's matrix products, norms and activation functions add in an order that does not depend on the width of the
vectors. The order of its Softmax does: AVX-512 sums in sixteen lanes and AVX2 in eight. GroupQueryAttention contains a
Softmax, and also splits its work by the size of the L2 cache. GPTQ turns such a different last bit into different
integers. So calibration runs a graph in which each sum of a Softmax is a matrix product with ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

_ATTENTION, _SOFTMAX = "GroupQueryAttention", "Softmax"
_BIAS = 10
"""Index of the attention bias among the inputs of GroupQueryAttention."""
_SMALLEST = float(np.finfo(np.float32).min)


def make_portable(model: ir.Model) -> None:
    """Replace every GroupQueryAttention and every Softmax over the last axis by operators that add in a fixed order.

    Args:
        model: the prepared graph in float32; it is changed. It must run one row at a time, without padding, on a past
            of exactly the tokens before, as in calibration.
    """
    for node in list(model.graph):
        if node.op_type == _ATTENTION:
            _replace(model.graph, node, _attention(_Writer(model.graph, node), node))
        elif node.op_type == _SOFTMAX and node.attributes.get_int("axis", -1) == -1:
            writer = _Writer(model.graph, node)
            _replace(model.graph, node, [writer.softmax(node.inputs[0])])


def _attention(writer: _Writer, node: ir.Node) -> list[ir.Value]:
    """The output ``[1, tokens, heads * head_dim]``, and the keys and values of past and new tokens."""
    query, key, value, past_key, past_value = node.inputs[:5]
    heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
    keys = writer("Concat", past_key, writer.heads(key, kv_heads), axis=2)
    values = writer("Concat", past_value, writer.heads(value, kv_heads), axis=2)
    tokens, total = writer.size(query, 1), writer.size(keys, 2)
    # Query heads of a group share a key head: [kv_heads, group, tokens, head_dim] times [kv_heads, 1, head_dim, total].
    groups = writer.integers(kv_heads, heads // kv_heads)
    head_dim = writer.size(keys, 3)
    shape = writer("Concat", groups, tokens, head_dim, axis=0)
    queries = writer("Reshape", writer.heads(query, heads), shape)
    across = writer.integers(1)
    spread_keys = writer("Unsqueeze", writer("Squeeze", keys, writer.integers(0)), across)
    spread_values = writer("Unsqueeze", writer("Squeeze", values, writer.integers(0)), across)
    scores = writer("MatMul", queries, writer("Transpose", spread_keys, perm=[0, 1, 3, 2]))
    scores = writer("Mul", scores, writer.number(node.attributes["scale"].as_float()))
    if softcap := node.attributes.get_float("softcap", 0.0):
        cap = writer.number(softcap)
        scores = writer("Mul", writer("Tanh", writer("Div", scores, cap)), cap)
    if len(node.inputs) > _BIAS and node.inputs[_BIAS] is not None:
        scores = writer("Add", scores, node.inputs[_BIAS])
    seen = _seen(writer, tokens, total, node.attributes.get_int("local_window_size", -1))
    weights = writer.softmax(writer("Where", seen, scores, writer.number(_SMALLEST)))
    by_head = writer("Concat", writer.integers(1, heads), tokens, head_dim, axis=0)
    rows = writer("Reshape", writer("MatMul", weights, spread_values), by_head)
    output = writer("Reshape", writer("Transpose", rows, perm=[0, 2, 1, 3]), writer.integers(0, 0, -1))
    return [output, keys, values]


def _seen(writer: _Writer, tokens: ir.Value, total: ir.Value, window: int) -> ir.Value:
    """The mask of the tokens that each new token attends to, ``[tokens, total]``."""
    none = writer.integers(0)
    first = writer("Squeeze", writer("Sub", total, tokens), none)
    start, end, step = (writer("Squeeze", each, none) for each in (none, total, writer.integers(1)))
    columns = writer("Range", start, end, step)
    positions = writer("Unsqueeze", writer("Range", first, end, step), writer.integers(1))
    seen = writer("LessOrEqual", columns, positions)
    if window <= 0:
        return seen
    near = writer("Greater", columns, writer("Sub", positions, writer.integers(window)))
    return writer("And", seen, near)


def _replace(graph: ir.Graph, node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Replace a node's outputs by values, under the same names."""
    for old, new in zip(node.outputs, values, strict=True):
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = None, old.name
    graph.remove(node, safe=True)


class _Writer:
    """Writes operators before a node. Their names follow from the node's name, so that they belong to its layer."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self._graph, self._before = graph, before
        self._written = 0

    def __call__(self, op: str, *inputs: ir.Value | None, **attributes: int | Sequence[int]) -> ir.Value:
        import onnx_ir as ir

        node = ir.node(op, inputs, attributes=attributes, name=self._name())
        node.outputs[0].name = f"{node.name}:0"
        self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def softmax(self, scores: ir.Value | None) -> ir.Value:
        """Softmax over the last axis; its sum is a matrix product with ones."""
        peak = self("ReduceMax", scores, self.integers(-1))
        powers = self("Exp", self("Sub", scores, peak))
        column = self("Concat", self.size(powers, -1), self.integers(1), axis=0)
        ones = self("Expand", self.number(1.0), column)
        return self("Div", powers, self("MatMul", powers, ones))

    def heads(self, value: ir.Value | None, count: int) -> ir.Value:
        """``[1, tokens, count * head_dim]`` as ``[1, count, tokens, head_dim]``."""
        return self("Transpose", self("Reshape", value, self.integers(0, 0, count, -1)), perm=[0, 2, 1, 3])

    def size(self, value: ir.Value | None, axis: int) -> ir.Value:
        """The length of an axis, ``[1]``."""
        return self("Gather", self("Shape", value), self.integers(axis))

    def integers(self, *numbers: int) -> ir.Value:
        return self._constant(np.array(numbers, np.int64))

    def number(self, value: float) -> ir.Value:
        return self._constant(np.array(value, np.float32))

    def _constant(self, data: NDArray[np.generic]) -> ir.Value:
        import onnx_ir as ir

        tensor = ir.tensor(data, name=self._name())
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value

    def _name(self) -> str:
        self._written += 1
        return f"{self._before.name}/portable/{self._written}"
