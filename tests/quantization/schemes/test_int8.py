from __future__ import annotations

import importlib.util
import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from qexport.core import cpu, graph
from qexport.core.errors import ContractError, InputError
from qexport.core.selection import parse_selector, weight_nodes
from qexport.inputs.text import TokenSet
from qexport.quantization import int8_check, rescale
from qexport.quantization.numerics.grid import quantize_channels as real
from qexport.quantization.schemes import int8
from qexport.quantization.schemes.int8 import Dynamic, Int8, Static, WeightGrid
from qexport.runtime.onnx_session import OrtSession
from tests.rewritten import apply

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "phi3")
INC_HERE = importlib.util.find_spec("neural_compressor") is not None
ENGINES = [
    "ort",
    pytest.param("inc", marks=pytest.mark.skipif(not INC_HERE, reason="neural-compressor is not installed")),
]
WAYS = {"static": Static(), "dynamic": Dynamic(), "per-token": Dynamic(per_token=True)}

architectures = pytest.mark.parametrize("name", ARCHITECTURES)
both_engines = pytest.mark.parametrize("engine", ENGINES)
both_ways = pytest.mark.parametrize("way", ["static", "dynamic"])
every_way = pytest.mark.parametrize("way", WAYS)

CLOSE = {"gpt2": 0.03, "llama": 0.08, "mistral": 0.08, "qwen2": 0.08, "phi3": 0.08}
"""Relative error of logits that W8A8 keeps on the tiny models (seen: 0.017 and up to 0.059); a grid four times as coarse
does not."""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-int8"))


def calibration_tokens():
    rng = np.random.default_rng(7)
    sequences = tuple(rng.integers(1, 380, 24) for _ in range(8))
    return TokenSet(kind="windows", origin="seeded", description="windows of 24 tokens", sequences=sequences)


def quantize(parent, folder, *, way="dynamic", nodes="all", smooth=False, **fields):
    """Quantize with a scheme of these fields; naive unless they say otherwise."""
    folder.mkdir()
    selection = parse_selector(nodes).select(weight_nodes(ir.load(parent.onnx_path)))
    scheme = Int8(activations=WAYS[way], smooth=smooth, **{"engine": "ort", "outlier_channels": False} | fields)
    tokens = calibration_tokens() if scheme.calibration else None
    return selection, apply(scheme, parent, selection, folder, tokens=tokens)


def initializers(path):
    """What is stored, by name; a table that a lookup maps once more is left out."""
    stored = [
        tensor for tensor in onnx.load(path).graph.initializer if not tensor.name.endswith(int8_check.LOOKUP_SUFFIX)
    ]
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in stored}


def logits(path):
    ids = np.random.default_rng(3).integers(1, 380, (3, 20))
    return OrtSession(path, threads=1).logits(ids)


def relative_error(path, reference):
    exact = logits(reference)
    return np.linalg.norm(logits(path) - exact) / np.linalg.norm(exact)


def readers(path):
    """Modules whose node reads integers, told from the file without qexport's own check."""
    graph = onnx.load(path).graph
    whole = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    }
    dequantized = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in whole
    }
    found = set()
    for node in graph.node:
        reads = node.op_type in ("MatMulInteger", "Gather") and whole & set(node.input[:2])
        if reads or (node.op_type == "MatMul" and node.input[1] in dequantized):
            found.add(node.name.removesuffix("_quant").rsplit("/", 1)[0])
    return found


@architectures
@pytest.mark.parametrize("way", [("static", "ort"), ("dynamic", "inc"), ("per-token", "inc")], ids=" by ".join)
@pytest.mark.parametrize("nodes", ["all", "attention"])
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "naive"])
def test_conformance(fp32, tmp_path, *, name, way, nodes, smooth):
    if way[1] == "inc" and not INC_HERE:
        pytest.skip("neural-compressor is not installed")
    parent, folder, (way, engine) = fp32(name), tmp_path / "out", way
    selection, result = quantize(parent, folder, way=way, nodes=nodes, smooth=smooth, engine=engine)
    path = folder / "model.onnx"
    asked = {node.module for node in selection.nodes}
    assert readers(path) == asked
    assert [(node.name, node.weight) for node in result.quantized] == [(n.name, n.weight) for n in selection.nodes]
    matmuls = {node.name for node in selection.matmuls}
    assert {node.activation for node in result.quantized if node.name in matmuls} == {way}

    before, after = initializers(parent.onnx_path), initializers(path)
    for node in weight_nodes(ir.load(parent.onnx_path)):
        if node.module in asked:
            assert node.weight not in after, "the float weight is stored beside its integers"
        else:
            np.testing.assert_array_equal(after[node.weight], before[node.weight])
    assert result.weight_bytes == sum(array.nbytes for array in after.values())
    assert relative_error(path, parent.onnx_path) < CLOSE[name]


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
@both_ways
def test_a_grid_four_times_as_coarse_is_not_close(fp32, tmp_path, name, way):
    quantize(fp32(name), tmp_path / "out", way=way, grid=WeightGrid.INT8)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_quantized"):
            coarse = np.clip(np.rint(numpy_helper.to_array(tensor) / 4.0) * 4, -124, 124).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
    onnx.save(model, tmp_path / "coarse.onnx")
    assert relative_error(tmp_path / "coarse.onnx", fp32(name).onnx_path) > CLOSE[name]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@both_engines
@both_ways
def test_a_tied_table_is_stored_once(fp32, tmp_path, name, engine, way):
    parent = fp32(name)
    selection, _ = quantize(parent, tmp_path / "out", engine=engine, way=way)
    (head,) = (node for node in selection.nodes if node.tied)
    after = initializers(tmp_path / "out" / "model.onnx")
    tables = [array.dtype for array in after.values() if array.size == math.prod(head.shape)]
    assert [dtype.itemsize for dtype in tables] == [1]
    assert sum(array.nbytes for array in after.values()) < 0.45 * sum(
        array.nbytes for array in initializers(parent.onnx_path).values()
    )
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    places = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer}
    (mapped,) = (name for name in places if name.endswith(int8_check.LOOKUP_SUFFIX))
    assert places[mapped] == places[mapped.replace(int8_check.LOOKUP_SUFFIX, int8_check.SUFFIX)] != {}


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
@pytest.mark.parametrize("nodes", ["embedding", "lm-head", "embedding,lm-head", "mlp,lm-head", "attention,embedding"])
@pytest.mark.parametrize("grid", [WeightGrid.INT8_PAIRED, WeightGrid.UINT8])
def test_parts_of_a_model(fp32, tmp_path, name, nodes, grid):
    parent = fp32(name)
    selection, _ = quantize(parent, tmp_path / "out", nodes=nodes, grid=grid)
    assert readers(tmp_path / "out" / "model.onnx") == {node.module for node in selection.nodes}
    error = relative_error(tmp_path / "out" / "model.onnx", parent.onnx_path)
    assert 1e-6 < error < CLOSE[name]


@both_engines
@both_ways
def test_the_unsigned_grid_holds_the_same_weights_bit_for_bit(fp32, tmp_path, engine, way):
    found = {}
    for grid in (WeightGrid.INT8, WeightGrid.UINT8):
        quantize(fp32("llama"), tmp_path / grid.value, engine=engine, way=way, grid=grid)
        nodes = int8_check.integer_nodes(ir.load(tmp_path / grid.value / "model.onnx"))
        found[grid] = {node.key: node.parts() for node in nodes}
        assert {parts[0].dtype for key, parts in found[grid].items() if not key[1]} == {np.dtype(grid.value)}
    assert found[WeightGrid.INT8].keys() == found[WeightGrid.UINT8].keys()
    for key, (integers, scale, zero) in found[WeightGrid.INT8].items():
        unsigned, other_scale, middle = found[WeightGrid.UINT8][key]
        np.testing.assert_array_equal(
            (unsigned.astype(np.float32) - middle) * np.float32(1), integers.astype(np.float32) - zero
        )
        np.testing.assert_array_equal(other_scale, scale)


@both_engines
def test_the_reduced_grid_leaves_a_bit_to_the_kernels(fp32, tmp_path, engine):
    quantize(fp32("gpt2"), tmp_path / "out", engine=engine, grid=WeightGrid.INT8_REDUCED)
    for node in int8_check.integer_nodes(ir.load(tmp_path / "out" / "model.onnx")):
        integers = node.parts()[0].astype(int)
        own_table = node.lookup and node.axis == 0
        assert np.abs(integers).max() == (127 if own_table else 64)


@pytest.mark.parametrize("grid", [grid for grid in WeightGrid if grid is not WeightGrid.INT8 or cpu.has_vnni()])
@both_engines
def test_symmetric_activations_run_on_every_grid_that_this_cpu_multiplies_rightly(fp32, tmp_path, engine, grid):
    quantize(fp32("gpt2"), tmp_path / "out", engine=engine, way="static", grid=grid, symmetric=True)
    assert relative_error(tmp_path / "out" / "model.onnx", fp32("gpt2").onnx_path) < CLOSE["gpt2"]


@both_engines
@both_ways
def test_a_second_run_gives_the_same_bytes(fp32, tmp_path, engine, way):
    for folder in ("one", "two"):
        quantize(fp32("phi3"), tmp_path / folder, engine=engine, way=way, smooth=True)
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


@pytest.mark.skipif(not INC_HERE, reason="neural-compressor is not installed")
@both_ways
def test_both_engines_write_the_same_weights(fp32, tmp_path, way):
    for engine in ("inc", "ort"):
        quantize(fp32("qwen2"), tmp_path / engine, engine=engine, way=way, smooth=True)
    one, other = (
        {name: array for name, array in initializers(tmp_path / engine / "model.onnx").items() if "_quantized" in name}
        for engine in ("inc", "ort")
    )
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
@every_way
def test_the_bytes_of_a_plan_are_the_bytes_of_the_file(fp32, tmp_path, name, way):
    selection, _ = quantize(fp32(name), tmp_path / "out", way=way)
    scheme = Int8(activations=WAYS[way])
    planned = sum(scheme.stored_bytes(node) for node in {node.weight: node for node in selection.nodes}.values())
    stored = {node.weight for node in selection.nodes} | {"lm_head.weight"}
    after = initializers(tmp_path / "out" / "model.onnx")
    suffixes = ("_quantized", "_scale", "_zero_point")
    assert planned == sum(
        after[key].nbytes for weight in stored for end in suffixes if (key := f"{weight}{end}") in after
    )


def test_what_an_engine_leaves_undone_is_an_error(fp32, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "engine", lambda _name: lambda source, _request: onnx.load(source))
    with pytest.raises(ContractError, match="engine ort: quantized nodes differ from the selection: left in float"):
        quantize(fp32("gpt2"), tmp_path / "out", nodes="attention")


@pytest.mark.parametrize("fields", [{"activations": Static(), "smooth": False}, {"activations": Dynamic()}])
def test_ranges_and_smoothing_need_text(fp32, tmp_path, fields):
    selection = parse_selector("attention").select(weight_nodes(ir.load(fp32("gpt2").onnx_path)))
    with pytest.raises(InputError, match="calibration text"):
        apply(Int8(**fields), fp32("gpt2"), selection, tmp_path, tokens=None)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"activations": Static()}, "smoothquant, outlier channels, minmax"),
        ({"activations": Static(), "smooth": False}, "outlier channels, minmax"),
        ({"activations": Dynamic(), "outlier_channels": False}, "smoothquant"),
        ({"activations": Dynamic(), "smooth": False, "outlier_channels": False}, ""),
    ],
)
def test_a_scheme_says_what_it_learns_from_text(fields, label):
    assert Int8(**fields).calibration == label


def test_per_token_is_for_dynamic_activations():
    dynamic, static = Int8(activations=Dynamic()), Int8(activations=Static())
    chosen = dynamic.configured({"per_token": True, "engine": "ort", "smooth": False})
    assert (chosen.activations, chosen.engine, chosen.smooth) == (Dynamic(per_token=True), "ort", False)
    with pytest.raises(InputError, match="per_token is for dynamic activations"):
        static.configured({"per_token": True})
    with pytest.raises(InputError, match="per_token: 'yes'"):
        dynamic.configured({"per_token": "yes"})


def test_a_token_is_rounded_by_itself(fp32, tmp_path):
    quantize(fp32("llama"), tmp_path / "out", way="per-token")
    session = OrtSession(tmp_path / "out" / "model.onnx", threads=1)
    ids = np.random.default_rng(3).integers(1, 380, (1, 20))
    alone = session.logits(ids[:, :7])
    np.testing.assert_allclose(session.logits(ids)[:, :7], alone, atol=1e-4 * alone.std())


def test_tokens_rounded_in_another_way_bite(fp32, tmp_path, monkeypatch):
    real = int8.engine

    def engine(name):
        def altered(source, request):
            model = real(name)(source, request)
            for tensor in model.graph.initializer:
                if tensor.name == "per_token/smallest_peak":
                    tensor.CopyFrom(numpy_helper.from_array(np.asarray(0.5, np.float32), tensor.name))
            return model

        return altered

    monkeypatch.setattr(int8, "engine", engine)
    with pytest.raises(ContractError, match="is quantized static instead of per-token"):
        quantize(fp32("gpt2"), tmp_path / "out", way="per-token", nodes="attention")


def test_smoothing_that_changes_the_function_is_an_error(fp32, tmp_path, monkeypatch):
    def only_the_weights(model, group, scale):
        for name in group.weights:
            value = model.graph.initializers[name]
            graph.set_initializer(model.graph, name, graph.array(value) * scale[:, None])

    monkeypatch.setattr(rescale, "rescale", only_the_weights)
    with pytest.raises(ContractError, match="smoothing and outlier channels changed what the model computes"):
        quantize(fp32("gpt2"), tmp_path / "out", smooth=True)


@both_ways
@both_engines
def test_outlier_channels_undo_injected_outliers(outlier_twin, tmp_path, way, engine):
    errors = {}
    for channels in (True, False):
        folder = tmp_path / str(channels)
        _, result = quantize(outlier_twin, folder, way=way, outlier_channels=channels, smooth=channels, engine=engine)
        assert any(node.float_channels or node.activation == "per-token" for node in result.quantized) == channels
        errors[channels] = relative_error(folder / "model.onnx", outlier_twin.onnx_path)
    assert errors[True] < CLOSE["llama"] < 3 * CLOSE["llama"] < errors[False]


@pytest.mark.parametrize("part", ["rows", "channels", "mask"])
def test_channels_multiplied_in_another_way_bite(outlier_twin, tmp_path, monkeypatch, part):
    real = int8.engine

    def engine(name):
        def altered(source, request):
            model = real(name)(source, request)
            tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(f"/{part}"))
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] += 1
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            return model

        return altered

    monkeypatch.setattr(int8, "engine", engine)
    monkeypatch.setattr(int8, "BULKY_ELEMENTS", 2**30)  # the engine sees the values, and not placeholders
    with pytest.raises(ContractError, match=r"in float instead of|float rows of .* are not the rows of its weight"):
        quantize(outlier_twin, tmp_path / "out", outlier_channels=True)


@pytest.mark.parametrize(("vnni", "grid"), [(True, "int8"), (False, "uint8")])
def test_the_processor_decides_the_grid_only_where_that_is_asked(monkeypatch, vnni, grid):
    monkeypatch.setattr(int8.cpu, "has_vnni", lambda: vnni)
    scheme = Int8(activations=Dynamic())
    assert scheme.configured({}).grid == scheme.configured({"grid": "int8-paired"}).grid == "int8-paired"
    assert scheme.configured({"grid": "native"}).grid == grid
    assert scheme.configured({"grid": "int8-reduced"}).grid == "int8-reduced"
    with pytest.raises(InputError, match=r"the option grid: int9: .*int8"):
        scheme.configured({"grid": "int9"})


@every_way
def test_the_default_grid_has_no_pair_that_saturates_and_the_full_one_has(fp32, tmp_path, way):
    pairs = {}
    for grid in (WeightGrid.INT8_PAIRED, WeightGrid.INT8):
        quantize(fp32("llama"), tmp_path / grid.value, way=way, grid=grid)
        nodes = int8_check.integer_nodes(ir.load(tmp_path / grid.value / "model.onnx"))
        pairs[grid] = [int8_check.saturating_pairs(node.parts()[0]) for node in nodes if not node.lookup]
    assert max(pairs[WeightGrid.INT8_PAIRED]) == 0
    assert min(pairs[WeightGrid.INT8]) > 0


def test_pairs_that_saturate_where_none_may_are_an_error(fp32, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "quantize_channels", lambda weight, **given: real(weight, **given | {"paired": False}))
    with pytest.raises(ContractError, match="do not spread its weights"):
        quantize(fp32("gpt2"), tmp_path / "out", nodes="mlp")


def test_weights_of_many_bytes_go_to_a_file_of_their_own(fp32, tmp_path, monkeypatch):
    quantize(fp32("gpt2"), tmp_path / "one")
    monkeypatch.setattr(graph, "EXTERNAL_DATA_BYTES", 1000)
    quantize(fp32("gpt2"), tmp_path / "two")
    assert (tmp_path / "two" / "model.onnx.data").stat().st_size > 1000
    np.testing.assert_array_equal(logits(tmp_path / "one" / "model.onnx"), logits(tmp_path / "two" / "model.onnx"))
