from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from qexport.core.errors import InputError, UnsupportedHere
from qexport.quantization.engines import engine as engines, inc
from qexport.quantization.engines.engine import ENGINES
from qexport.quantization.engines.request import MatMulRequest
from qexport.quantization.numerics.grid import quantize_channels
from tests.quantization.engines.graphs import NODES, RANGES, floats, products

INC_HERE = importlib.util.find_spec("neural_compressor") is not None
BOTH = ["ort", pytest.param("inc", marks=pytest.mark.skipif(not INC_HERE, reason="neural-compressor is not installed"))]
WAYS = {"dynamic": None, "static": RANGES}
both_engines = pytest.mark.parametrize("engine", BOTH)
both_ways = pytest.mark.parametrize("way", WAYS)


def rewrite(folder, engine, *weights, ranges=None, symmetric=False):
    source = folder / "source.onnx"
    onnx.save(products(), source)
    nodes = tuple(NODES[name] for name in weights)
    return engines.engine(engine)(source, MatMulRequest(nodes=nodes, ranges=ranges, symmetric=symmetric))


def stored(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_our_weights(model):
    """The model with the weights that the pipeline puts in place of an engine's, right on CPUs without VNNI too."""
    for name, weight in floats().items():
        if name in NODES:
            integers, scale = quantize_channels(weight, axis=1, levels=127, paired=True)
            for tensor in model.graph.initializer:
                if tensor.name in (f"{name}_quantized", f"{name}_scale"):
                    data = integers if tensor.name.endswith("quantized") else scale
                    tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
    return model


def run(model, x):
    # The engines append nodes at the end; the pipeline sorts them.
    import onnx_ir as ir

    graph = ir.from_proto(model)
    graph.graph.sort()
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@both_engines
@both_ways
@pytest.mark.parametrize(
    "weights", [("body.a.weight",), ("body.c.weight", "like.weight"), tuple(NODES)], ids=["one", "two", "all"]
)
def test_exactly_the_named_nodes_are_rewritten(tmp_path, engine, way, weights):
    ranges = WAYS[way]
    emitted = rewrite(tmp_path, engine, *weights, ranges=ranges)
    integers = {name.removesuffix("_quantized") for name in stored(emitted) if name.endswith("_quantized")}
    assert integers == set(weights)
    for name in set(NODES) - set(weights):  # the rest is bit for bit what it was
        np.testing.assert_array_equal(stored(emitted)[name], floats()[name])
    assert not [tensor for tensor in stored(emitted) if tensor.startswith("inv_freq_")]
    kinds = [node.op_type for node in emitted.graph.node]
    assert kinds.count("MatMulInteger") == (len(weights) if ranges is None else 0)
    assert kinds.count("MatMul") == len(NODES) + 1 - (len(weights) if ranges is None else 0)


@both_engines
@both_ways
def test_an_input_that_two_nodes_share_is_quantized_once(tmp_path, engine, way):
    emitted = rewrite(tmp_path, engine, "body.a.weight", "body.c.weight", ranges=WAYS[way])
    quantizers = [node for node in emitted.graph.node if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")]
    assert [node.input[0] for node in quantizers] == ["x"]


@both_engines
@both_ways
def test_weights_are_symmetric_and_per_output_channel(tmp_path, engine, way):
    values = stored(rewrite(tmp_path, engine, *NODES, ranges=WAYS[way]))
    for name, weight in floats().items():
        if name in NODES:
            assert values[f"{name}_quantized"].dtype == np.int8
            assert values[f"{name}_scale"].shape == weight.shape[1:]
            assert not values[f"{name}_zero_point"].any()
            np.testing.assert_allclose(values[f"{name}_scale"], np.abs(weight).max(axis=0) / 127, rtol=1e-5)


@both_engines
@both_ways
def test_the_engines_round_weights_as_we_do(tmp_path, engine, way):
    # The pipeline keeps the weights from the engines and rounds them itself: nothing may be lost by that.
    values = stored(rewrite(tmp_path, engine, *NODES, ranges=WAYS[way]))
    for name in NODES:
        integers, scale = quantize_channels(floats()[name], axis=1, levels=127)
        np.testing.assert_array_equal(values[f"{name}_quantized"], integers)
        np.testing.assert_allclose(values[f"{name}_scale"], scale, rtol=1e-6)


@both_engines
def test_static_activations_take_the_ranges_given(tmp_path, engine):
    values = stored(rewrite(tmp_path, engine, *NODES, ranges=RANGES))
    for tensor, (low, high) in RANGES.items():
        scale = (high - low) / 255
        assert values[f"{tensor}_scale"] == pytest.approx(scale, rel=1e-5)
        assert (values[f"{tensor}_zero_point"], values[f"{tensor}_zero_point"].dtype) == (round(-low / scale), np.uint8)


@both_engines
def test_symmetric_activations_are_int8_around_zero(tmp_path, engine):
    values = stored(rewrite(tmp_path, engine, *NODES, ranges=RANGES, symmetric=True))
    for tensor, (low, high) in RANGES.items():
        assert values[f"{tensor}_scale"] == pytest.approx(max(-low, high) / 127, rel=0.005)
        assert (values[f"{tensor}_zero_point"], values[f"{tensor}_zero_point"].dtype) == (0, np.int8)


@both_engines
def test_a_tensor_of_zeros_has_a_range_all_the_same(tmp_path, engine):
    values = stored(rewrite(tmp_path, engine, "body.a.weight", ranges={"x": (0.0, 0.0)}))
    assert (values["x_scale"], values["x_zero_point"]) == (1.0, 0)


@both_engines
@both_ways
def test_the_rewritten_graph_computes_nearly_the_same(tmp_path, engine, way):
    x = np.random.default_rng(1).uniform(-1, 1, (2, 5, 16)).astype(np.float32)
    exact = run(products(), x)
    ranges = None if WAYS[way] is None else {"x": (-1.0, 1.0), "gated": (-25.0, 25.0)}
    emitted = run(with_our_weights(rewrite(tmp_path, engine, *NODES, ranges=ranges)), x)
    assert np.linalg.norm(emitted - exact) / np.linalg.norm(exact) < 0.05


@both_engines
def test_an_engine_leaves_no_output_on_the_terminal(tmp_path, engine, capfd, caplog):
    rewrite(tmp_path, engine, *NODES, ranges=RANGES)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name == "root"]


@pytest.mark.skipif(not INC_HERE, reason="neural-compressor is not installed")
def test_the_module_put_into_onnx_is_taken_out_again(tmp_path):
    rewrite(tmp_path, "inc", "body.a.weight")
    assert "onnx.mapping" not in sys.modules
    assert not hasattr(onnx, "mapping")


def test_all_engines_are_known_and_no_other():
    assert set(ENGINES) == {"inc", "ort"}
    with pytest.raises(InputError, match=r"--engine orts: unknown engine; did you mean ort\?"):
        engines.engine("orts")
    with pytest.raises(InputError, match="unknown engine"):
        engines.require("tensorrt")
    engines.require("ort")


def test_inc_without_neural_compressor_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "neural_compressor", None)
    with pytest.raises(UnsupportedHere, match=r"pip install 'qexport\[inc\]', or choose --engine ort"):
        engines.require("inc")
    engines.require("ort")


@pytest.mark.parametrize("version", ["3.8", "3.8.1", "4.0"])
def test_a_neural_compressor_without_onnx_is_refused(monkeypatch, version):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: version)
    with pytest.raises(UnsupportedHere, match=f"neural-compressor {version} has no ONNX part, 3.7.1 has"):
        inc.require()


def test_requiring_inc_does_not_import_it():
    code = "import sys; from qexport.quantization.engines import engine; engine.require('ort'); from qexport.quantization.engines import inc\n"
    code += "try: inc.require()\nexcept Exception: pass\n"
    code += "print([name for name in ('neural_compressor', 'onnxruntime', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
