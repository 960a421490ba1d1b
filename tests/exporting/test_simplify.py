"""Simplifying changes the graph, never its result."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qexport.exporting.simplify import simplify

RESHAPES = """
<ir_version: 10, opset_import: ["" : 20]>
main (float[B, S, 8] x, float[B, S, 8] y) => (float[B, S, 8] z)
<int64[4] heads = {0, 0, 2, 4}, int64[3] whole = {0, 0, 8}, float[B, S, 2, 4] split, float[B, S, 8] joined>
{
  split = Reshape (x, heads)
  joined = Reshape (split, whole)
  z = Add (joined, y)
}
"""
SWAPPED = RESHAPES.replace("float[B, S, 8] joined", "float[S, B, 8] joined").replace("{0, 0, 8}", "{3, 2, 8}")
NORM = """
<ir_version: 10, opset_import: ["" : 20]>
main (float[B, S, 8] x) => (float[B, S, 8] z)
<float[8] weight = {1, 2, 3, 4, 5, 6, 7, 8}, float two = {2}, float eps = {0.001}, int64[1] last = {-1}>
{
  square = Pow (x, two)
  mean = ReduceMean (square, last)
  shifted = Add (mean, eps)
  root = Sqrt (shifted)
  inverse = Reciprocal (root)
  scaled = Mul (x, inverse)
  z = Mul (scaled, weight)
}
"""
CONSTANTS = """
<ir_version: 10, opset_import: ["" : 20]>
main (float[4] x) => (float[4] z)
<float[4] bias = {0, 0, 0, 0}, float[4] zeros = {0, 0, 0, 0}, float[4] again = {0, 0, 0, 0}, float[4] two = {2, 2, 2, 2}>
{
  a = Add (x, bias)
  b = Add (a, zeros)
  c = Add (b, again)
  four = Mul (two, two)
  scale = Add (bias, two)
  d = Mul (c, four)
  z = Mul (d, scale)
}
"""


def simplified(text, *, parameters=()):
    proto = onnx.parser.parse_model(text)
    graph = ir.from_proto(proto)
    simplify(graph, set(parameters))
    return proto, ir.to_proto(graph)


def run(proto, feeds, **options):
    settings = ort.SessionOptions()
    for name, value in options.items():
        setattr(settings, name, value)
    return ort.InferenceSession(proto.SerializeToString(), settings).run(None, feeds)[0]


def ops(proto):
    return [node.op_type for node in proto.graph.node]


def feeds_of(proto):
    rng = np.random.default_rng(0)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    sizes = {"B": 2, "S": 3}
    return {
        name: rng.standard_normal([sizes.get(dim.dim_param, dim.dim_value) for dim in dims]).astype(np.float32)
        for name, dims in shapes.items()
    }


@pytest.mark.parametrize("text", [RESHAPES, NORM, CONSTANTS])
def test_result_is_the_same(text):
    before, after = simplified(text, parameters=("bias", "weight"))
    feeds = feeds_of(before)
    np.testing.assert_allclose(run(after, feeds), run(before, feeds), rtol=1e-6)


def test_reshapes_that_lead_back_are_dropped():
    assert ops(simplified(RESHAPES)[1]) == ["Add"]


def test_reshape_to_other_dimensions_of_the_same_product_stays():
    assert "Reshape" in ops(simplified(SWAPPED)[1])


def test_rms_norm_is_one_operator_for_onnxruntime(tmp_path):
    before, after = simplified(NORM, parameters=("weight",))
    assert "Reciprocal" not in ops(after)
    for proto, fused in ((before, False), (after, True)):
        path = tmp_path / "optimized.onnx"
        run(proto, feeds_of(proto), optimized_model_filepath=str(path), log_severity_level=3)
        assert ("SimplifiedLayerNormalization" in ops(onnx.load(path))) == fused


def test_constants_merge_but_parameters_stay_whole():
    _, after = simplified(CONSTANTS, parameters=("bias",))
    names = {tensor.name for tensor in after.graph.initializer}
    assert "bias" in names
    assert len(names & {"zeros", "again"}) == 1
    assert ops(after).count("Mul") == 2  # two * two is folded, bias + two is not
    assert sum("bias" in node.input for node in after.graph.node) == 2
