from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common as ir_passes

from qexport.core.errors import ContractError
from qexport.quantization import int8_check
from qexport.quantization.engines.engine import engine
from qexport.quantization.engines.request import MatMulRequest
from tests.quantization.engines.graphs import NODES, RANGES, asked, floats, products

ENGINE_NAMES = ["ort", "inc"] if importlib.util.find_spec("neural_compressor") is not None else ["ort"]
WAYS = {"dynamic": None, "static": RANGES}
EVERY = tuple(NODES)

pytestmark = pytest.mark.parametrize("engine_name", ENGINE_NAMES)


@pytest.fixture
def emitted(tmp_path, engine_name):
    def emit(*weights, ranges=None, symmetric=False):
        source = tmp_path / "source.onnx"
        onnx.save(products(), source)
        request = MatMulRequest(nodes=tuple(NODES[name] for name in weights), ranges=ranges, symmetric=symmetric)
        return ir.from_proto(engine(engine_name)(source, request))

    return emit


def check(model, *weights, ranges=None, symmetric=False, steps=127, paired=False):
    return int8_check.check(
        model,
        asked=asked(*weights),
        original=floats().__getitem__,
        ranges=ranges or {},
        static=ranges is not None,
        symmetric=symmetric,
        steps=steps,
        paired=paired,
        by="the engine",
    )


def values(model, name):
    return model.graph.initializers[name].const_value.numpy().copy()


def put(model, name, array):
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(array, name=name)
    value.shape = ir.Shape(array.shape)


def node_of(model, op, weight):
    """The node of this kind that comes after the integers of a weight."""
    (node,) = (use.node for use in model.graph.initializers[f"{weight}_quantized"].uses())
    while node.op_type != op:
        (node,) = (use.node for use in node.outputs[0].uses())
    return node


def both(kinds):
    return pytest.mark.parametrize("way", kinds)


@both(WAYS)
@pytest.mark.parametrize("weights", [EVERY[:1], EVERY[1:], EVERY], ids=["first", "others", "all"])
def test_what_was_asked_passes_and_is_told(emitted, way, weights):
    found = check(emitted(*weights, ranges=WAYS[way]), *weights, ranges=WAYS[way])
    assert [(node.weight, node.name) for node in found] == [(name, NODES[name]) for name in weights]
    assert {(node.weight_dtype, node.per_channel, node.activation) for node in found} == {("int8", True, way)}


def test_symmetric_ranges_pass_for_both_engines(emitted):
    check(emitted(*EVERY, ranges=RANGES, symmetric=True), *EVERY, ranges=RANGES, symmetric=True)


@both(WAYS)
def test_the_integers_stand_for_the_weights(emitted, way):
    for node in int8_check.integer_nodes(emitted(*EVERY, ranges=WAYS[way])):
        integers, scale, zero = node.parts()
        steps = np.abs((integers.astype(np.float32) - zero) * scale - floats()[node.weight]) / scale
        assert steps.max() <= 0.5 + 1e-3


@both(WAYS)
def test_a_node_left_in_float_bites(emitted, way):
    with pytest.raises(ContractError, match=r"left in float body\.c\.weight; not selected none"):
        check(emitted(*EVERY[:1], EVERY[2], ranges=WAYS[way]), *EVERY, ranges=WAYS[way])


@both(WAYS)
def test_a_node_quantized_unasked_bites(emitted, way):
    with pytest.raises(ContractError, match=r"left in float none; not selected like\.weight"):
        check(emitted(*EVERY, ranges=WAYS[way]), *EVERY[:2], ranges=WAYS[way])


@both(WAYS)
def test_a_graph_left_as_it_was_bites(engine_name, way):
    with pytest.raises(ContractError, match="quantized nodes differ from the selection"):
        check(ir.from_proto(products()), *EVERY, ranges=WAYS[way])


@both(WAYS)
def test_one_scale_off_by_two_percent_bites(emitted, way):
    model = emitted(*EVERY, ranges=WAYS[way])
    scale = values(model, "body.c.weight_scale")
    scale[3] *= 1.02
    put(model, "body.c.weight_scale", scale)
    with pytest.raises(ContractError, match=r"body\.c\.weight"):
        check(model, *EVERY, ranges=WAYS[way])


@both(WAYS)
def test_one_integer_off_by_two_bites(emitted, way):
    model = emitted(*EVERY, ranges=WAYS[way])
    integers = values(model, "like.weight_quantized")
    row, column = np.argwhere(np.abs(integers) < 100)[5]
    integers[row, column] += 2
    put(model, "like.weight_quantized", integers)
    with pytest.raises(ContractError, match=r"integers of like\.weight are further than half a step"):
        check(model, *EVERY, ranges=WAYS[way])


@both(WAYS)
def test_channels_in_the_wrong_order_bite(emitted, way):
    model = emitted(*EVERY, ranges=WAYS[way])
    put(model, "body.a.weight_quantized", values(model, "body.a.weight_quantized")[:, ::-1].copy())
    with pytest.raises(ContractError, match="further than half a step"):
        check(model, *EVERY, ranges=WAYS[way])


@both(WAYS)
@pytest.mark.parametrize("coarser", [2, 4])
def test_a_coarser_grid_bites_though_it_is_well_rounded(emitted, way, coarser):
    model = emitted(*EVERY, ranges=WAYS[way])
    scale = values(model, "body.a.weight_scale") * coarser
    put(model, "body.a.weight_scale", scale)
    put(model, "body.a.weight_quantized", np.rint(floats()["body.a.weight"] / scale).astype(np.int8))
    with pytest.raises(ContractError, match=r"scales of body\.a\.weight do not spread its weights over 127 steps"):
        check(model, *EVERY, ranges=WAYS[way])


@both(WAYS)
def test_the_full_grid_bites_where_the_reduced_one_was_asked(emitted, way):
    with pytest.raises(ContractError, match="over 64 steps"):
        check(emitted(*EVERY, ranges=WAYS[way]), *EVERY, ranges=WAYS[way], steps=64)


@both(WAYS)
def test_one_scale_for_all_channels_bites(emitted, way):
    model = emitted(*EVERY, ranges=WAYS[way])
    scale = np.abs(floats()["body.a.weight"]).max() / np.float32(127)
    put(model, "body.a.weight_scale", np.asarray(scale, np.float32))
    put(model, "body.a.weight_zero_point", np.zeros((), np.int8))
    put(model, "body.a.weight_quantized", np.rint(floats()["body.a.weight"] / scale).astype(np.int8))
    with pytest.raises(ContractError, match=r"body\.a\.weight does not have one scale for each output channel"):
        check(model, *EVERY, ranges=WAYS[way])


def test_scales_along_the_inputs_bite(emitted):
    model = emitted(*EVERY, ranges=RANGES)
    weight = floats()["body.a.weight"]
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    put(model, "body.a.weight_scale", scale)
    put(model, "body.a.weight_zero_point", np.zeros(scale.shape, np.int8))
    put(model, "body.a.weight_quantized", np.rint(weight / scale[:, None]).astype(np.int8))
    dequantize = node_of(model, "DequantizeLinear", "body.a.weight")
    dequantize.attributes["axis"] = ir.AttrInt64("axis", 0)
    with pytest.raises(ContractError, match=r"body\.a\.weight does not have one scale for each output channel"):
        check(model, *EVERY, ranges=RANGES)


@pytest.mark.parametrize("other", [(-2.0, 6.0), (-2.5, 2.5), (-2.0, 3.1)], ids=["wider", "shifted", "by 2 %"])
def test_a_range_that_was_ignored_bites(emitted, other):
    with pytest.raises(ContractError, match="the calibrated range"):
        check(emitted(*EVERY, ranges=RANGES), *EVERY, ranges=RANGES | {"x": other})


def test_an_input_that_was_not_calibrated_bites(emitted):
    with pytest.raises(ContractError, match="gated, which was not calibrated"):
        check(emitted(*EVERY, ranges=RANGES), *EVERY, ranges={"x": RANGES["x"]})


def test_an_asymmetric_range_bites_where_a_symmetric_one_was_asked(emitted):
    with pytest.raises(ContractError, match="the calibrated range"):
        check(emitted(*EVERY, ranges=RANGES), *EVERY, ranges=RANGES, symmetric=True)


def test_dynamic_bites_where_static_was_asked(emitted):
    with pytest.raises(ContractError, match="is quantized dynamic instead of static"):
        check(emitted(*EVERY), *EVERY, ranges=RANGES)


def test_static_bites_where_dynamic_was_asked(emitted):
    with pytest.raises(ContractError, match="is quantized static instead of dynamic"):
        check(emitted(*EVERY, ranges=RANGES), *EVERY)


def test_weights_alone_quantized_bite(emitted):
    model = emitted(*EVERY, ranges=RANGES)
    node_of(model, "MatMul", "like.weight").replace_input_with(0, value_called(model, "gated"))
    with pytest.raises(ContractError, match="operator outside the selection: QuantizeLinear gated"):
        check(model, *EVERY, ranges=RANGES)
    ir_passes.RemoveUnusedNodesPass()(model)
    with pytest.raises(ContractError, match=r"like\.weight is quantized none instead of static"):
        check(model, *EVERY, ranges=RANGES)


def value_called(model, name):
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def test_a_way_back_with_another_scale_bites(emitted):
    model = emitted(*EVERY, ranges=RANGES)
    other = ir.Value(name="other", const_value=ir.tensor(np.float32(0.5), name="other"), shape=ir.Shape(()))
    model.graph.register_initializer(other)
    dequantize = node_of(model, "MatMul", "like.weight").inputs[0].producer()
    dequantize.replace_input_with(1, other)
    with pytest.raises(ContractError, match="operator outside the selection"):
        check(model, *EVERY, ranges=RANGES)


def test_a_product_without_the_inputs_scale_bites(emitted):
    model = emitted(*EVERY)
    last = node_of(model, "Mul", "like.weight")
    (place,) = (i for i, value in enumerate(last.inputs) if value.producer().op_type == "Mul")
    last.replace_input_with(place, model.graph.initializers["like.weight_scale"])
    with pytest.raises(ContractError, match="never multiplied by the weight's and the input's scale"):
        check(model, *EVERY)


def test_a_product_without_the_inputs_zero_point_bites(emitted):
    model = emitted(*EVERY)
    node_of(model, "MatMulInteger", "like.weight").replace_input_with(2, None)
    with pytest.raises(ContractError, match=r"like\.weight is quantized none instead of dynamic"):
        check(model, *EVERY)


@both(WAYS)
def test_quantized_outputs_bite(emitted, way):
    model = emitted(*EVERY, ranges=WAYS[way])
    scale = ir.Value(name="s", const_value=ir.tensor(np.float32(0.1), name="s"), shape=ir.Shape(()))
    zero = ir.Value(name="z", const_value=ir.tensor(np.uint8(0), name="z"), shape=ir.Shape(()))
    for value in (scale, zero):
        model.graph.register_initializer(value)
    relu = value_called(model, "y").producer()
    there = ir.node("QuantizeLinear", [relu.inputs[0], scale, zero], name="y_QuantizeLinear")
    back = ir.node("DequantizeLinear", [there.outputs[0], scale, zero])
    model.graph.insert_before(relu, [there, back])
    relu.replace_input_with(0, back.outputs[0])
    with pytest.raises(ContractError, match="operator outside the selection: QuantizeLinear y_QuantizeLinear"):
        check(model, *EVERY, ranges=WAYS[way])


@both(WAYS)
def test_a_channel_of_zeros_is_no_difference(emitted, tmp_path, engine_name, way):
    weight = floats()["body.a.weight"]
    weight[:, 4] = 0.0
    model = products()
    (tensor,) = (each for each in model.graph.initializer if each.name == "body.a.weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, tmp_path / "zeros.onnx")
    request = MatMulRequest(nodes=("body.a/MatMul",), ranges=WAYS[way], symmetric=False)
    int8_check.check(
        ir.from_proto(engine(engine_name)(tmp_path / "zeros.onnx", request)),
        asked=asked("body.a.weight"),
        original={"body.a.weight": weight}.__getitem__,
        ranges=WAYS[way] or {},
        static=WAYS[way] is not None,
        symmetric=False,
        steps=127,
        by="the engine",
    )
