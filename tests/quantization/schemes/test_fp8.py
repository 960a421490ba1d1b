from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from qexport.core.errors import ContractError, InputError
from qexport.core.float_graph import FloatGraph
from qexport.core.selection import Role, parse_selector, weight_nodes
from qexport.inputs.text import TokenSet
from qexport.quantization.calibration import METHODS, calibrate
from qexport.quantization.schemes.fp8 import Fp8, _Plan
from qexport.runtime.onnx_session import OrtSession, decoder_feeds
from tests.rewritten import apply

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "phi3")
E4M3 = onnx.TensorProto.FLOAT8E4M3FN
CLOSE = 0.15
"""Relative error of logits that FP8 keeps on the tiny models (seen: up to 0.106 by weights alone)."""

architectures = pytest.mark.parametrize("name", ARCHITECTURES)
both_ways = pytest.mark.parametrize("way", ["static", "none"])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-fp8"))


def calibration_tokens():
    rng = np.random.default_rng(7)
    sequences = tuple(rng.integers(1, 380, 24) for _ in range(8))
    return TokenSet(kind="windows", origin="seeded", description="windows of 24 tokens", sequences=sequences)


EXPORTER = {"cpu": "fused", "tensorrt": "optimum"}


def quantize(parent, folder, way="static", nodes="all", target="cpu"):
    folder.mkdir(exist_ok=True)
    selection = parse_selector(nodes).select(weight_nodes(ir.load(parent.onnx_path)))
    scheme = Fp8(activations=way, target=target)
    return selection, apply(scheme, parent, selection, folder, tokens=calibration_tokens())


def initializers(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def logits(path):
    """Through ONNX Runtime without its optimizer, which refuses the form for TensorRT."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(3).integers(1, 380, (3, 20))
    return session.run(["logits"], decoder_feeds(session.get_inputs(), ids, None))[0]


def relative_error(path, reference):
    exact = logits(reference)
    return np.linalg.norm(logits(path) - exact) / np.linalg.norm(exact)


def rounded(weight, axis):
    """A weight as E4M3FN holds it with a scale per channel, through ml_dtypes."""
    peak = np.abs(weight).max(axis=1 - axis, keepdims=True)
    scale = np.where(peak > 0, peak / np.float32(448), np.float32(1)).astype(
        np.float32
    )  # the padding token's row is zero
    return (weight / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale


@architectures
@both_ways
@pytest.mark.parametrize("nodes", ["all", "attention"])
def test_conformance(fp32, tmp_path, name, way, nodes):
    parent, path = fp32(name), tmp_path / "out" / "model.onnx"
    selection, result = quantize(parent, tmp_path / "out", way, nodes)
    assert [(node.name, node.weight) for node in result.quantized] == [(n.name, n.weight) for n in selection.nodes]
    assert {(node.weight_dtype, node.per_channel) for node in result.quantized} == {("float8e4m3fn", True)}
    matmuls = {node.name for node in selection.matmuls}
    assert {node.activation for node in result.quantized if node.name in matmuls} == {way}
    arithmetic = "float on fp8 values"
    assert result.settings == {"weight_dtype": "float8e4m3fn", "activations": way, "arithmetic": arithmetic}
    before, after = initializers(parent.onnx_path), initializers(path)
    for node in weight_nodes(ir.load(parent.onnx_path)):
        if node in selection.nodes:
            assert node.weight not in after, "the float weight is stored beside its codes"
        else:
            np.testing.assert_array_equal(after[node.weight], before[node.weight])
    assert result.weight_bytes == sum(array.nbytes for array in after.values())
    quantizing = [node for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]
    assert bool(quantizing) == (way == "static")
    ids = np.random.default_rng(3).integers(1, 380, (3, 20))
    np.testing.assert_allclose(OrtSession(path, threads=1).logits(ids), logits(path), atol=0.05)
    assert 1e-4 < relative_error(path, parent.onnx_path) < CLOSE


@architectures
def test_weights_alone_run_as_torch_with_the_weights_of_ml_dtypes(fp32, tiny, tmp_path, name):
    import torch
    from transformers import AutoModelForCausalLM

    from qexport.runtime.torch_session import torch_logits

    quantize(fp32(name), tmp_path / "out", "none")
    model = AutoModelForCausalLM.from_pretrained(tiny(name)).eval()
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if weight.ndim == 2:
                conv1d = name == "gpt2" and ".h." in path  # holds [in, out]
                weight.copy_(torch.from_numpy(rounded(weight.numpy(), 1 if conv1d else 0)))
    expected = torch_logits(model, np.random.default_rng(3).integers(1, 380, (3, 20)))
    np.testing.assert_allclose(logits(tmp_path / "out" / "model.onnx"), expected, atol=3e-5)
    assert np.abs(logits(fp32(name).onnx_path) - expected).max() > 0.001


def test_inputs_are_rounded_over_their_calibrated_range(fp32, tmp_path):
    parent = fp32("llama")
    selection, _ = quantize(parent, tmp_path / "out", "static", "mlp")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    nodes = {output: node for node in model.graph.node for output in node.output}
    values = initializers(tmp_path / "out" / "model.onnx")
    seen = set()
    for name in (node.name for node in selection.nodes):
        scaled = nodes[next(node for node in model.graph.node if node.name == name).input[0]]
        quantize_node = nodes[nodes[scaled.input[0]].input[0]]
        source = quantize_node.input[0]
        low, high = calibrate(FloatGraph.read(parent), [source], calibration_tokens(), METHODS["minmax"])[source]
        assert values[quantize_node.input[1]] == np.float32(max(-low, high)) / np.float32(448)
        assert scaled.input[1] == quantize_node.input[1]
        seen.add(source)
    # gate and up read the same tensor, which is rounded once.
    assert (
        len([node for node in model.graph.node if node.op_type == "QuantizeLinear"]) == len(seen) < len(selection.nodes)
    )


def test_the_runtime_rounds_as_ml_dtypes_does(tmp_path):
    """Rounding to nearest even, saturating: what the QuantizeLinear of the emitted graphs is taken to do."""
    scale, zero = numpy_helper.from_array(np.float32(0.01), "s"), helper.make_tensor("z", E4M3, [], bytes(1), raw=True)
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [scale, zero])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    values = (np.random.default_rng(1).standard_normal(50_000) * 3).astype(np.float32)
    clipped = np.clip(values / np.float32(0.01), -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(OrtSession(path, threads=1).run({"x": values})["y"], clipped * np.float32(0.01))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
@both_ways
@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_a_tied_table_is_stored_once(fp32, tmp_path, name, way, target):
    selection, _ = quantize(fp32(name, EXPORTER[target]), tmp_path / "out", way, target=target)
    (head,) = (node for node in selection.nodes if node.tied)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    tables = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) == head.parameters]
    assert [tensor.data_type for tensor in tables] == [E4M3]


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
@pytest.mark.parametrize("nodes", ["embedding", "lm-head", "embedding,lm-head", "mlp,lm-head", "attention,embedding"])
@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_parts_of_a_model(fp32, tmp_path, name, nodes, target):
    parent = fp32(name, EXPORTER[target])
    selection, result = quantize(parent, tmp_path / "out", "static", nodes, target)
    assert {node.per_channel for node in result.quantized} == {target == "cpu"}
    assert 1e-6 < relative_error(tmp_path / "out" / "model.onnx", parent.onnx_path) < CLOSE
    scheme = Fp8(target=target)
    planned = sum(scheme.stored_bytes(node) for node in {node.weight: node for node in selection.nodes}.values())
    after = initializers(tmp_path / "out" / "model.onnx")
    stored = {key.removesuffix("_fp8") for key in after if key.endswith("_fp8")}
    assert planned == sum(after[f"{key}{end}"].nbytes for key in stored for end in ("_fp8", "_scale"))


def test_static_needs_text_and_weights_alone_do_not(fp32, tmp_path):
    selection = parse_selector("attention").select(weight_nodes(ir.load(fp32("gpt2").onnx_path)))
    with pytest.raises(InputError, match="calibration text"):
        apply(Fp8(), fp32("gpt2"), selection, tmp_path, tokens=None)
    assert Fp8(activations="none").calibration == ""
    assert Fp8().calibration == "minmax"
    apply(Fp8(activations="none"), fp32("gpt2"), selection, tmp_path, tokens=None)


def test_a_second_run_gives_the_same_bytes(fp32, tmp_path):
    for folder in ("one", "two"):
        quantize(fp32("qwen2"), tmp_path / folder)
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


def _change(model, suffix, change):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(suffix))
    change(tensor)


def _one_code(model, suffix="h.0.attn.c_attn.weight_fp8"):
    def flip(tensor):
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    _change(model, suffix, flip)


def _one_byte_of_a_table(model):
    _one_code(model, "wpe.weight_fp8")


def _a_scale(model, suffix="attn.c_attn.weight_scale"):
    def grow(tensor):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.001), tensor.name))

    _change(model, suffix, grow)


def _a_scale_of_rows(model):
    _a_scale(model, "wpe.weight_scale")


def _a_range(model):
    quantize_node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    _a_scale(model, quantize_node.input[1])


def _the_decoding(model):
    _a_scale(model, "fp8_values")


def _an_input_left_alone(model):
    node = next(node for node in model.graph.node if node.name == "transformer.h.0.attn.c_attn/MatMul")
    sources = {node.output[0]: node.input[0] for node in model.graph.node}
    node.input[0] = sources[sources[sources[node.input[0]]]]


def _an_output_too(model):
    source = model.graph.node[-1].output[0]
    model.graph.node.append(helper.make_node("QuantizeLinear", [source, "fp8_one"], ["more"], name="more"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "fp8_one"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_one_code, "does not read the FP8 codes"),
        (_one_byte_of_a_table, "wpe/Gather: does not read the FP8 codes"),
        (_a_scale, "does not read the FP8 codes and scales"),
        (_a_scale_of_rows, "wpe/Gather: does not read the FP8 codes and scales"),
        (_the_decoding, "wpe/Gather: does not read the FP8 codes and scales"),
        (_a_range, "over its calibrated range"),
        (_an_input_left_alone, "rounded to FP8: False, asked: True"),
        (_an_output_too, "operator outside the selection: QuantizeLinear more"),
    ],
)
def test_a_file_that_was_changed_is_a_contract_error(fp32, tmp_path, change, reason):
    parent, scheme = fp32("gpt2"), Fp8()
    selection, _ = quantize(parent, tmp_path / "out")
    original = ir.load(parent.onnx_path)
    plans = [_Plan.of(node, selection, "cpu") for node in selection.nodes]
    peaks = scheme._peaks(FloatGraph.read(parent), original, selection, calibration_tokens())
    model = onnx.load(tmp_path / "out" / "model.onnx")
    scheme._check(ir.from_proto(model), original, plans, peaks)
    change(model)
    with pytest.raises(ContractError, match=reason):
        scheme._check(ir.from_proto(model), original, plans, peaks)


def test_tensorrt_alone_refuses_lookups(fp32):
    nodes = weight_nodes(ir.load(fp32("phi3").onnx_path))
    assert {node.role for node in nodes} >= {Role.EMBEDDING, Role.LM_HEAD}
    assert {Fp8().refusal(node) for node in nodes} == {""}
    refused = {node.role for node in nodes if Fp8(target="tensorrt").refusal(node)}
    assert refused == {Role.EMBEDDING}
