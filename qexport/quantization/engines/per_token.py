"""The engine ``qexport``: dynamic activations with a scale for each token, which no other engine writes.

A token's scale is max |x| / 127. Its integers are stored as uint8 around 128: on a machine with VNNI, ONNX Runtime's
CPU kernels for u8 x s8 products are 12 times as fast as those for s8 x s8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.core import array, replace_node, set_initializer
from qexport.quantization.engines.request import MatMulRequest

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import onnx_ir as ir

MIDDLE = 128
SMALLEST_SCALE = 1e-30
"""The scale of a token of zeros. The token stays zero."""


def quantize(source: Path, request: MatMulRequest) -> onnx.ModelProto:
    """Rewrite the requested MatMuls to MatMulInteger. MatMuls that share an activation share its integers."""
    import onnx_ir as ir

    model = ir.load(source)
    graph = model.graph
    rounded: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for node in [node for node in graph if node.name in request.nodes]:
        activation, weight = node.inputs
        assert activation is not None
        assert weight is not None
        if activation not in rounded:
            rounded[activation] = _round_tokens(graph, node, activation)
        _multiply(graph, node, weight, *rounded[activation])
    return ir.to_proto(model)


def _round_tokens(graph: ir.Graph, before: ir.Node, activation: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The integers of an activation, and the scales ``[..., 1]`` of its tokens."""
    import onnx_ir as ir

    place = f"{(before.name or '').rsplit('/', 1)[0]}/round"

    def constant(name: str, data: object, dtype: type[np.generic] = np.float32) -> ir.Value:
        return set_initializer(graph, f"per_token/{name}", np.asarray(data, dtype))

    def add(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op, list(inputs), attributes=attributes, name=f"{place}/{op}")
        node.outputs[0].name = f"{node.name}:0"
        graph.insert_before(before, node)
        return node.outputs[0]

    peak = add("ReduceMax", add("Abs", activation), constant("axes", [-1], np.int64), keepdims=1)
    scale = add("Max", add("Mul", peak, constant("step", 1.0 / 127.0)), constant("smallest", SMALLEST_SCALE))
    whole = add("Round", add("Div", activation, scale))
    return add("Cast", add("Add", whole, constant("middle", MIDDLE)), to=int(ir.DataType.UINT8)), scale


def _multiply(graph: ir.Graph, node: ir.Node, weight: ir.Value, integers: ir.Value, scale: ir.Value) -> None:
    """Replace a MatMul by a MatMulInteger whose product is multiplied by the scales."""
    import onnx_ir as ir

    name, columns = weight.name or "", array(weight).shape[1]
    parts = [
        set_initializer(graph, f"{name}_quantized", np.zeros((1, columns), np.int8)),
        set_initializer(graph, "per_token/zero_point", np.asarray(MIDDLE, np.uint8)),
        set_initializer(graph, f"{name}_zero_point", np.zeros(columns, np.int8)),
    ]
    product = ir.node("MatMulInteger", [integers, parts[0], *parts[1:]], name=f"{node.name}_quant")
    cast = ir.node("Cast", product.outputs, attributes={"to": int(ir.DataType.FLOAT)}, name=f"{node.name}/Cast")
    by_token = ir.node("Mul", [cast.outputs[0], scale], name=f"{node.name}/Mul_tokens")
    scales = set_initializer(graph, f"{name}_scale", np.ones(columns, np.float32))
    by_column = ir.node("Mul", [by_token.outputs[0], scales], name=f"{node.name}/Mul_columns")
    for made in (product, cast, by_token):
        made.outputs[0].name = f"{made.name}:0"
    graph.insert_before(node, [product, cast, by_token])
    replace_node(graph, node, by_column)
