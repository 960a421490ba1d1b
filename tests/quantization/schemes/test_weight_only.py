from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qexport.core.errors import ContractError, InputError
from qexport.core.graph import array, save, set_initializer
from qexport.core.selection import Role, parse_selector, weight_nodes
from qexport.inputs.text import TokenSet
from qexport.quantization import block_weights
from qexport.quantization.numerics.blocks import Grid, rtn
from qexport.quantization.schemes.weight_only import Awq, Gptq, Hqq, Rtn, WeightOnly
from qexport.runtime.onnx_session import OrtSession
from tests.rewritten import apply

TIED = ("gpt2", "llama", "qwen2")
ROUNDINGS = {"rtn": Rtn(), "hqq": Hqq(), "gptq": Gptq(), "awq": Awq()}


def calibration_tokens():
    rng = np.random.default_rng(7)
    sequences = tuple(rng.integers(1, 380, 24) for _ in range(8))
    return TokenSet(kind="windows", origin="seeded", description="windows of 24 tokens", sequences=sequences)


def quantize(parent, folder, *, nodes="all", rounding="rtn", bits=4, **options):
    folder.mkdir()
    selection = parse_selector(nodes).select(weight_nodes(ir.load(parent.onnx_path)))
    scheme = WeightOnly(bits=bits, rounding=ROUNDINGS[rounding], **options)
    result = apply(scheme, parent, selection, folder, tokens=calibration_tokens() if scheme.calibration else None)
    return selection, scheme, result


def logits(path):
    return OrtSession(path, threads=1).logits(np.random.default_rng(3).integers(1, 380, (3, 20)))


def relative_error(path, reference):
    exact = logits(reference)
    return np.linalg.norm(logits(path) - exact) / np.linalg.norm(exact)


def with_rounded_floats(parent, emitted, folder):
    """The fp32 graph with the weights that the emitted graph's integers stand for."""
    model, nodes = ir.load(parent.onnx_path), {node.name: node for node in weight_nodes(ir.load(parent.onnx_path))}
    for read in block_weights.packed_nodes(ir.load(emitted)):
        node = nodes[read.node]
        stored_as_rows = read.lookup or node.tied
        weight = read.blocks.dequantize()[:, : node.shape[1] if stored_as_rows else node.shape[0]]
        set_initializer(model.graph, node.weight, weight if stored_as_rows else weight.T)
    folder.mkdir()
    save(model, folder)
    return folder / "model.onnx"


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_kernels_compute_what_the_integers_stand_for(fp32, tmp_path, *, name, bits, block_size, symmetric):
    quantize(fp32(name), tmp_path / "out", bits=bits, block_size=block_size, symmetric=symmetric, compute="float")
    emitted = tmp_path / "out" / "model.onnx"
    floats = with_rounded_floats(fp32(name), emitted, tmp_path / "floats")
    np.testing.assert_allclose(logits(emitted), logits(floats), atol=2e-5 * np.abs(logits(floats)).max())
    assert relative_error(emitted, fp32(name).onnx_path) > 1e-3


@pytest.mark.parametrize("rounding", list(ROUNDINGS))
@pytest.mark.parametrize("nodes", ["attention", "mlp,lm-head", "embedding", "lm-head"])
@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_parts_of_a_model(fp32, tmp_path, *, name, rounding, nodes):
    selection, _, result = quantize(fp32(name), tmp_path / "out", nodes=nodes, rounding=rounding)
    read = block_weights.packed_nodes(ir.load(tmp_path / "out" / "model.onnx"))
    assert {node.node for node in read} == {node.name for node in selection.nodes}
    assert {node.node for node in read if node.lookup} == {node.name for node in selection.embeddings}
    assert [node.name for node in result.quantized] == [node.name for node in selection.nodes]
    before, after = ir.load(fp32(name).onnx_path), ir.load(tmp_path / "out" / "model.onnx")
    for node in weight_nodes(before):
        if node.weight not in {chosen.weight for chosen in selection.nodes}:
            np.testing.assert_array_equal(
                array(after.graph.initializers[node.weight]), array(before.graph.initializers[node.weight])
            )


@pytest.mark.parametrize("name", TIED)
def test_a_tied_table_is_stored_once(fp32, tmp_path, name):
    selection, scheme, result = quantize(fp32(name), tmp_path / "out")
    head, lookup, places = tied_readers(tmp_path / "out", selection)
    assert lookup.input[0] != head.input[1]
    assert places[lookup.input[0]] == places[head.input[1]] != ()
    assert places[lookup.input[2]] == places[head.input[2]] != ()
    planned = sum({node.weight: scheme.stored_bytes(node) for node in selection.nodes}.values())
    stored = set(ir.load(fp32(name).onnx_path).graph.initializers) - {node.weight for node in selection.nodes}
    model = ir.load(tmp_path / "out" / "model.onnx")
    rest = sum(
        value.const_value.nbytes for key, value in model.graph.initializers.items() if key in stored or "/" in key
    )
    assert result.weight_bytes == planned + rest


@pytest.mark.parametrize("name", TIED)
def test_one_initializer_in_one_file_for_other_targets_than_the_cpu(fp32, tmp_path, name):
    selection, _, _ = quantize(fp32(name, "optimum"), tmp_path / "out", target="cuda", bits=8, symmetric=False)
    head, lookup, _ = tied_readers(tmp_path / "out", selection)
    assert lookup.input[0] == head.input[1]
    assert not (tmp_path / "out" / "model.onnx.data").exists()


def tied_readers(folder, selection):
    """The head, the lookup of the table that it shares, and where each initializer lies in the data file."""
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    (tied,) = (node for node in selection.matmuls if node.tied)
    by_name = {node.name: node for node in graph.node}
    table = next(node for node in selection.embeddings if node.weight == tied.weight)
    places = {
        tensor.name: tuple(sorted((entry.key, entry.value) for entry in tensor.external_data))
        for tensor in graph.initializer
    }
    return by_name[tied.name], by_name[table.name], places


@pytest.mark.parametrize("compute", ["float", "int8"])
def test_what_the_kernel_multiplies_is_in_the_file(fp32, tmp_path, compute):
    _, _, result = quantize(fp32("gpt2"), tmp_path / "out", compute=compute)
    read = block_weights.packed_nodes(ir.load(tmp_path / "out" / "model.onnx"))
    assert {node.compute for node in read if not node.lookup} == {compute}
    assert result.settings["compute"] == compute


@pytest.mark.parametrize(
    ("bits", "head_bits", "target", "body", "head"),
    [
        (4, None, "cpu", "float", "float"),
        (4, 8, "cpu", "float", "int8"),
        (8, None, "cpu", "int8", "int8"),
        (8, None, "cuda", "float", "float"),
        (4, 8, "cuda", "float", "float"),
    ],
)
def test_8_bit_weights_take_the_quick_kernel_of_the_cpu(fp32, tmp_path, *, bits, head_bits, target, body, head):
    parent = fp32("gpt2", "optimum") if target == "cuda" else fp32("gpt2")
    options = {"bits": bits, "head_bits": head_bits, "target": target}
    selection, scheme, result = quantize(parent, tmp_path / "out", **options)
    computes = {
        node.node: node.compute for node in block_weights.packed_nodes(ir.load(tmp_path / "out" / "model.onnx"))
    }
    (tied,) = (node.name for node in selection.matmuls if node.tied)
    assert computes.pop(tied) == head
    assert set(computes.values()) == {body, ""}
    assert result.settings["compute"] == body
    assert result.settings.get("head_compute") == (head if head_bits else None)
    assert scheme.slow == ""


@pytest.mark.parametrize("options", [{"bits": 8}, {"bits": 4, "head_bits": 8}])
def test_float_products_of_8_bit_weights_are_called_slow(options):
    scheme = WeightOnly(rounding=Rtn(), compute="float", **options)
    assert "leave --compute out" in scheme.slow
    assert WeightOnly(rounding=Rtn(), bits=4, compute="float").slow == ""


def test_the_head_can_have_more_bits_than_the_body(fp32, tmp_path):
    selection, _, result = quantize(fp32("gpt2"), tmp_path / "out", head_bits=8)
    (tied,) = (node for node in selection.matmuls if node.tied)
    bits = {node.weight: node.weight_dtype for node in result.quantized}
    assert bits.pop(tied.weight) == "int8"
    assert set(bits.values()) == {"int4"}
    quantize(fp32("gpt2"), tmp_path / "four")
    exact = fp32("gpt2").onnx_path
    assert relative_error(tmp_path / "out" / "model.onnx", exact) < relative_error(
        tmp_path / "four" / "model.onnx", exact
    )


def test_a_second_run_gives_the_same_bytes(fp32, tmp_path):
    for folder in ("one", "two"):
        quantize(fp32("llama"), tmp_path / folder, rounding="gptq")
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("rounding", ["gptq", "awq"])
def test_what_is_learned_needs_text(fp32, tmp_path, rounding):
    selection = parse_selector("attention").select(weight_nodes(ir.load(fp32("gpt2").onnx_path)))
    with pytest.raises(InputError, match="calibration text"):
        apply(WeightOnly(bits=4, rounding=ROUNDINGS[rounding]), fp32("gpt2"), selection, tmp_path, tokens=None)


def test_a_node_left_in_float_is_an_error(fp32, tmp_path, monkeypatch):
    real = block_weights.emit_matmul
    monkeypatch.setattr(
        block_weights,
        "emit_matmul",
        lambda model, node, *rest, **named: "c_attn" in node.name or real(model, node, *rest, **named),
    )
    with pytest.raises(ContractError, match=r"quantized nodes differ from the selection: .*c_attn"):
        quantize(fp32("gpt2"), tmp_path / "out")


def test_other_integers_than_were_rounded_are_an_error(fp32, tmp_path, monkeypatch):
    real = block_weights.store

    def shifted(model, name, blocks, **named):
        blocks.integers[0, 0] ^= 1
        real(model, name, blocks, **named)
        blocks.integers[0, 0] ^= 1

    monkeypatch.setattr(block_weights, "store", shifted)
    with pytest.raises(ContractError, match="does not read the integers and scales"):
        quantize(fp32("gpt2"), tmp_path / "out", nodes="attention")


def test_a_weight_far_off_is_an_error(fp32, tmp_path, monkeypatch):
    from qexport.quantization.schemes import weight_only

    monkeypatch.setattr(weight_only, "rtn", lambda weight, grid: rtn(weight[:, ::-1].copy(), grid))
    with pytest.raises(ContractError, match="rounded to 4 bits it is off by"):
        quantize(fp32("gpt2"), tmp_path / "out", nodes="attention")


def test_lookups_meet_no_input_to_learn_from(fp32, tmp_path):
    selection, _, _ = quantize(fp32("mistral"), tmp_path / "out", nodes="embedding", rounding="gptq")
    (node,) = selection.embeddings
    (read,) = block_weights.packed_nodes(ir.load(tmp_path / "out" / "model.onnx"))
    assert node.role is Role.EMBEDDING
    table = array(ir.load(fp32("mistral").onnx_path).graph.initializers[node.weight])
    expected = rtn(table, Grid(bits=4, block_size=32, symmetric=read.blocks.grid.symmetric))
    np.testing.assert_array_equal(read.blocks.integers, expected.integers)
