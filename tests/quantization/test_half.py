from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from qexport.core.errors import ContractError
from qexport.quantization import half
from qexport.runtime.onnx_session import OrtSession, decoder_feeds

ARCHITECTURES = ("gpt2", "llama", "qwen3", "phi3", "gemma2")
CLOSE = {"fp16": 0.003, "bf16": 0.03}
"""Relative error of logits that each type keeps on the tiny models (seen: up to 0.0014 and 0.016)."""


def ids():
    return np.random.default_rng(3).integers(1, 380, (3, 20))


def logits(path, *, optimized=True):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], decoder_feeds(session.get_inputs(), ids(), None))[0].astype(np.float32)


def relative_error(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def save(model, folder):
    path = folder / "model.onnx"
    ir.save(model, path)
    return path


def changed(artifact, folder, dtype):
    model = ir.load(artifact.onnx_path)
    half.to_half(model, dtype)
    return save(model, folder)


def types(path):
    model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    graph = model.graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return model, known | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_tensor_has_one_type_and_only_islands_are_float32(fp32, tmp_path, name, dtype):
    path = changed(fp32(name), tmp_path, dtype)
    onnx.checker.check_model(path)
    model, known = types(path)  # strict: a node whose inputs differ in type is an error
    wanted = onnx.TensorProto.FLOAT16 if dtype == "fp16" else onnx.TensorProto.BFLOAT16
    for node in model.graph.node:
        floats = {known[v] for v in (*node.input, *node.output) if v and known.get(v) in (1, 10, 16)}
        if node.op_type in half.KEPT_OPS:
            assert floats == {1}, node.name
        elif node.op_type in ("MatMul", "GroupQueryAttention", "RotaryEmbedding", "LayerNormalization", "Gelu"):
            positions = all(known[value] == 1 for value in node.input)  # the rotary angles are a product too
            assert floats == {wanted} or (node.op_type == "MatMul" and positions), node.name
        elif node.op_type != "Cast":
            assert len(floats) <= 1, node.name
    by_name = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert by_name["logits"] == 1
    cache = {dtype for name, dtype in by_name.items() if name.startswith(("past_key_values.", "present."))}
    assert cache == {wanted}
    assert by_name["input_ids"] == by_name["attention_mask"] == onnx.TensorProto.INT64


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float16_is_close(fp32, tmp_path, name):
    exact = logits(fp32(name).onnx_path)
    assert 1e-5 < relative_error(logits(changed(fp32(name), tmp_path, "fp16")), exact) < CLOSE["fp16"]


def test_squares_of_large_activations_do_not_overflow():
    """Large models have hidden values beyond 256, whose squares leave float16.

    Run by ONNX's reference implementation: ONNX Runtime on a CPU without float16 computes such an operator in float32
    whatever the graph says.
    """
    from onnx.reference import ReferenceEvaluator

    operators = [
        ("Pow", "x two", "square"),
        ("ReduceMean", "square axis", "mean"),
        ("Add", "mean tiny", "sum"),
        ("Sqrt", "sum", "root"),
        ("Div", "one root", "inverse"),
        ("Mul", "x inverse", "logits"),
    ]
    nodes = [helper.make_node(op, read.split(), [made], name=made) for op, read, made in operators]
    scalars = {"two": 2.0, "tiny": 1e-6, "one": 1.0}
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in scalars.items()]
    constants.append(numpy_helper.from_array(np.array([-1]), "axis"))
    values = [helper.make_tensor_value_info(name, 1, ["rows", 64]) for name in ("x", "logits")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    half.to_half(model, "fp16")
    x = (np.random.default_rng(5).standard_normal((4, 64)) * 1000).astype(np.float16)
    (result,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    exact = x.astype(np.float32) / np.sqrt(np.mean(x.astype(np.float32) ** 2, axis=-1, keepdims=True))
    np.testing.assert_allclose(result, exact, rtol=2e-3)


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_casts_are_few(fp32, tmp_path, name):
    before = sum(node.op_type == "Cast" for node in onnx.load(fp32(name).onnx_path).graph.node)
    model = onnx.load(changed(fp32(name), tmp_path, "fp16"))
    after = sum(node.op_type == "Cast" for node in model.graph.node)
    norms = sum(node.op_type == "ReduceMean" for node in model.graph.node)
    assert after == before + 2 * norms + 3 + 1  # into and out of each norm; cosines, sines and the mask; the logits


@pytest.mark.parametrize("change", ["changed", "rounding"])
def test_far_positions_are_as_exact_as_near_ones(fp32, tmp_path, change):
    """Neither type holds every position beyond 2048 or 256: angles are computed in float32."""
    path = changed(fp32("llama"), tmp_path, "fp16") if change == "changed" else rounding(fp32("llama"), tmp_path)
    far = np.random.default_rng(4).integers(1, 380, (1, 3000 if change == "changed" else 700))
    exact = OrtSession(fp32("llama").onnx_path, threads=1).logits(far)[0]
    result = OrtSession(path, threads=1).logits(far)[0]
    assert relative_error(result[-100:], exact[-100:]) < 2 * relative_error(result[:100], exact[:100])


@pytest.mark.parametrize("change", ["changed", "rounding"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_stay_finite(fp32, tmp_path, side, change):
    """A row of the mask is all padding for some queries: -inf in it would make NaN of them."""
    path = changed(fp32("llama"), tmp_path, "fp16") if change == "changed" else rounding(fp32("llama"), tmp_path)
    session = OrtSession(path, threads=1)
    feeds = decoder_feeds(session.inputs, ids(), None)
    feeds["attention_mask"][0, : 5 if side == "left" else None] = 0
    feeds["attention_mask"][0, 15:] = side == "left"
    assert np.isfinite(session.run(feeds)["logits"]).all()


def test_a_weight_beyond_the_range_is_named(fp32, tmp_path):
    model = ir.load(fp32("llama").onnx_path)
    name = "model.layers.1.mlp.up_proj.weight"
    weight = model.graph.initializers[name].const_value.numpy().copy()
    weight[3, 4] = -70000
    model.graph.initializers[name].const_value = ir.tensor(weight, name=name)
    with pytest.raises(ContractError, match=rf"{name}: holds 70000, and fp16 ends at 65504"):
        half.to_half(model, "fp16")


def test_a_weight_beyond_float16_fits_bfloat16(fp32, tmp_path):
    assert half.rounded(np.array([70000.0], np.float32), "bf16", "w").astype(np.float32) == 70144


def test_packed_weights_stay_and_their_scales_are_cast(tmp_path):
    rng = np.random.default_rng(1)
    packed, scales = rng.integers(0, 256, (8, 1, 16)).astype(np.uint8), rng.random((8, 1)).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "packed", "scales"], ["logits"], domain="com.microsoft", K=32, N=8, bits=4, block_size=32
    )
    values = [helper.make_tensor_value_info(n, 1, ["rows", w]) for n, w in (("x", 32), ("logits", 8))]
    constants = [numpy_helper.from_array(packed, "packed"), numpy_helper.from_array(scales, "scales")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], constants)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    x = rng.standard_normal((5, 32)).astype(np.float32)
    exact = OrtSession(save(model, tmp_path), threads=1).run({"x": x})["logits"]
    half.to_half(model, "fp16")
    stored = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    np.testing.assert_array_equal(stored["packed"], packed)
    np.testing.assert_array_equal(stored["scales"], scales.astype(np.float16))
    session = OrtSession(save(model, tmp_path), threads=1)
    assert [tensor.type for tensor in session.inputs] == ["tensor(float16)"]
    result = session.run({"x": x.astype(np.float16)})["logits"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, exact, rtol=0.01, atol=0.02)


# Rounding to bfloat16 in float32 arithmetic


def rounding(artifact, folder):
    model = ir.load(artifact.onnx_path)
    half.round_to_bf16(model)
    return save(model, folder)


def without_pairs(path, folder):
    """The same graph without its pairs of Cast between activations."""
    model = ir.load(path)
    for node in list(model.graph):
        source = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        if source is not None and source.op_type == "Cast" and source.outputs[0].dtype is ir.DataType.BFLOAT16:
            node.outputs[0].replace_all_uses_with(source.inputs[0], replace_graph_outputs=True)
    folder.mkdir()
    for value in model.graph.outputs:
        value.name = value.name.removesuffix("_exact")
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return save(model, folder)


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3"])
def test_the_runtime_keeps_the_rounding(fp32, tmp_path, name):
    path = rounding(fp32(name), tmp_path)
    kept = logits(path)
    np.testing.assert_allclose(kept, logits(path, optimized=False), atol=2e-2)
    bare = logits(without_pairs(path, tmp_path / "bare"))
    exact = logits(fp32(name).onnx_path)
    assert 1e-4 < relative_error(kept, exact) < CLOSE["bf16"]
    assert relative_error(kept, bare) > 3e-3


def test_logits_and_weights_hold_bfloat16_values(fp32, tmp_path):
    path = rounding(fp32("gpt2"), tmp_path)
    values = logits(path)
    np.testing.assert_array_equal(values, half.rounded(values, "bf16", "logits").astype(np.float32))
    plain = logits(fp32("gpt2").onnx_path)
    assert np.any(plain != half.rounded(plain, "bf16", "logits").astype(np.float32))


def test_each_product_is_that_of_torch_in_bfloat16(tmp_path):
    """One MatMul between its pairs of Cast: float32 sums of bfloat16 products, rounded once."""
    import torch

    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((64, 48)).astype(np.float32), rng.standard_normal((48, 32)).astype(np.float32)
    values = [helper.make_tensor_value_info(n, 1, ["rows", width]) for n, width in (("x", 48), ("logits", 32))]
    node = helper.make_node("MatMul", ["x", "w"], ["logits"], name="m")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(w, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, {"qexport.parameters": '["w"]'})
    model = ir.from_proto(proto)
    half.round_to_bf16(model)
    assert model.graph.initializers["w"].dtype is ir.DataType.BFLOAT16
    result = OrtSession(save(model, tmp_path), threads=1).run({"x": x})["logits"]
    both = [torch.from_numpy(array).bfloat16().float() for array in (x, w)]
    expected = (both[0] @ both[1]).bfloat16().float().numpy()
    # A sum in another order may tip the rounding: one step of bfloat16 is 2**-8 of the value.
    assert np.mean(result == expected) > 0.99
    np.testing.assert_allclose(result, expected, rtol=2.0**-7)
    assert np.abs(result - x @ w).max() > 1e-3
