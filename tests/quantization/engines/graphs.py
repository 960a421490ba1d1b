"""Graphs of a few MatMuls as ONNX text, for engines and for the check of what they emit."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

from qexport.core.selection import Role, WeightNode

# "a" and "c" share their input; "like" has a name that contains another's; "rotary" multiplies by no weight of theirs.
TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
products (float[batch, sequence, 16] x) => (float[batch, sequence, 8] y, float[batch, sequence, 16] angles) {
  "body.a/MatMul" = MatMul (x, "body.a.weight")
  biased = Add ("body.a/MatMul", "body.a.bias")
  "body.c/MatMul" = MatMul (x, "body.c.weight")
  "body.rotary/MatMul" = MatMul (x, inv_freq)
  angles = Cos ("body.rotary/MatMul")
  gated = Mul (biased, "body.c/MatMul")
  "body.a/MatMul_like" = MatMul (gated, "like.weight")
  y = Relu ("body.a/MatMul_like")
}
"""
SHAPES = {"body.a.weight": (16, 12), "body.a.bias": (12,), "body.c.weight": (16, 12), "like.weight": (12, 8)}
NODES = {"body.a.weight": "body.a/MatMul", "body.c.weight": "body.c/MatMul", "like.weight": "body.a/MatMul_like"}
INPUTS = {"body.a.weight": "x", "body.c.weight": "x", "like.weight": "gated"}
RANGES = {"x": (-2.0, 3.0), "gated": (-5.0, 4.0)}


def floats() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def products() -> onnx.ModelProto:
    """The graph with seeded weights; nodes are called like their outputs."""
    model = parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = node.output[0]
    values = floats() | {"inv_freq": np.ones((16, 16), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return model


def asked(*weights: str) -> dict[tuple[str, bool], WeightNode]:
    """These weights' nodes, as ``quantized.check`` takes them."""
    return {
        (name, False): WeightNode(name=NODES[name], role=Role.ATTENTION, weight=name, shape=SHAPES[name], tied=False)
        for name in weights
    }
