from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from qexport.core.errors import ContractError, UnsupportedHere
from qexport.core.selection import Role, parse_selector, weight_nodes
from qexport.quantization.numerics import bnb4
from qexport.quantization.schemes.four_bit_float import FourBitFloat
from qexport.runtime.onnx_session import OrtSession
from tests.rewritten import apply

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "phi3")
BODY = "attention,mlp"

architectures = pytest.mark.parametrize("name", ARCHITECTURES)
kinds = pytest.mark.parametrize("kind", ["nf4", "fp4"])


def quantize(parent, folder, kind, nodes=BODY):
    folder.mkdir(exist_ok=True)
    selection = parse_selector(nodes).select(weight_nodes(ir.load(parent.onnx_path)))
    return selection, apply(FourBitFloat(kind=kind), parent, selection, folder, tokens=None)


def initializers(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def logits(path):
    return OrtSession(path, threads=1).logits(np.random.default_rng(3).integers(1, 380, (3, 20)))


def by_bitsandbytes(weight, kind):
    """A weight [out, in] as bitsandbytes gives it back; as one row, see tests/quantization/numerics/test_bnb4.py."""
    import torch
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(torch.tensor(weight), blocksize=64, quant_type=kind)
    row = torch.ops.bitsandbytes.dequantize_4bit.default(
        packed, state.absmax, 64, kind, (1, weight.size), torch.float32
    )
    return row.numpy().reshape(weight.shape)


def product_with_identity(path, name):
    """The weight [in, out] that a MatMulBnb4 of the file really multiplies by."""
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.name == name)
    width = next(attribute.i for attribute in node.attribute if attribute.name == "K")
    kept = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
    alone = helper.make_node(node.op_type, ["x", *node.input[1:]], ["y"], domain=node.domain)
    alone.attribute.extend(node.attribute)
    graph = helper.make_graph(
        [alone],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [width, width])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        kept,
    )
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    beside = path.with_name("one.onnx")
    onnx.save(small, beside)
    return OrtSession(beside, threads=1).run({"x": np.eye(width, dtype=np.float32)})["y"]


@architectures
@kinds
def test_the_weights_that_run_are_those_of_bitsandbytes_bit_for_bit(fp32, tmp_path, name, kind):
    parent = fp32(name)
    selection, _ = quantize(parent, tmp_path / "out", kind, "attention,mlp,lm-head")
    before = initializers(parent.onnx_path)
    for node in selection.nodes:
        weight = before[node.weight]
        theirs = by_bitsandbytes(weight if node.tied else weight.T, kind)
        np.testing.assert_array_equal(product_with_identity(tmp_path / "out" / "model.onnx", node.name), theirs.T)


@architectures
@kinds
def test_the_logits_are_those_of_a_torch_model_with_the_weights_of_bitsandbytes(fp32, tiny, tmp_path, name, kind):
    import torch
    from transformers import AutoModelForCausalLM

    from qexport.runtime.torch_session import linear_modules, torch_logits

    quantize(fp32(name), tmp_path / "out", kind)
    model = AutoModelForCausalLM.from_pretrained(tiny(name)).eval()
    for path in linear_modules(model.config):
        weight = model.get_submodule(path).weight
        with torch.no_grad():
            rows = weight.numpy().T if name == "gpt2" else weight.numpy()  # Conv1D holds [in, out]
            back = by_bitsandbytes(np.ascontiguousarray(rows), kind)
            weight.copy_(torch.from_numpy(back.T.copy() if name == "gpt2" else back))
    expected = torch_logits(model, np.random.default_rng(3).integers(1, 380, (3, 20)))
    np.testing.assert_allclose(logits(tmp_path / "out" / "model.onnx"), expected, atol=3e-5)
    assert np.abs(logits(fp32(name).onnx_path) - expected).max() > 0.01


@architectures
@kinds
def test_exactly_the_asked_nodes(fp32, tmp_path, name, kind):
    parent = fp32(name)
    selection, result = quantize(parent, tmp_path / "out", kind, "attention")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {node.name for node in model.graph.node if node.op_type == "MatMulBnb4"} == {n.name for n in selection.nodes}
    assert [(node.name, node.weight) for node in result.quantized] == [(n.name, n.weight) for n in selection.nodes]
    assert {(node.weight_dtype, node.block_size, node.activation) for node in result.quantized} == {(kind, 64, "none")}
    assert result.settings == {"weight_dtype": kind, "block_size": 64}
    before, after = initializers(parent.onnx_path), initializers(tmp_path / "out" / "model.onnx")
    asked = {node.weight for node in selection.nodes}
    assert not asked & after.keys()
    for weight in before.keys() - asked:
        np.testing.assert_array_equal(after[weight], before[weight])
    assert result.weight_bytes == sum(array.nbytes for array in after.values())


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
@pytest.mark.parametrize("nodes", ["attention", "lm-head", "attention,mlp,lm-head"])
def test_the_bytes_of_a_plan_are_the_bytes_of_the_file(fp32, tmp_path, name, nodes):
    selection, _ = quantize(fp32(name), tmp_path / "out", "nf4", nodes)
    planned = sum(FourBitFloat(kind="nf4").stored_bytes(node) for node in selection.nodes)
    after = initializers(tmp_path / "out" / "model.onnx")
    assert planned == sum(array.nbytes for key, array in after.items() if key.endswith(("_nf4", "_absmax")))


def test_a_tied_head_gets_its_own_weight_and_the_table_stays(fp32, tmp_path):
    parent = fp32("llama")
    selection, _ = quantize(parent, tmp_path / "out", "nf4", "lm-head")
    (head,) = selection.nodes
    assert head.tied
    after = initializers(tmp_path / "out" / "model.onnx")
    assert after[head.weight].dtype == np.float32
    assert after["lm_head.weight_nf4"].size == head.parameters // 2
    assert "Transpose" not in {
        node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node if "lm_head" in node.name
    }


def test_an_embedding_is_refused_with_the_reason(fp32, tmp_path):
    selection = parse_selector("embedding").select(weight_nodes(ir.load(fp32("gpt2").onnx_path)))
    scheme = FourBitFloat(kind="nf4")
    assert all("multiplies only" in scheme.refusal(node) for node in selection.nodes)
    with pytest.raises(UnsupportedHere, match=r"transformer\.wte/Gather: nf4 has no lookup form"):
        apply(scheme, fp32("gpt2"), selection, tmp_path, tokens=None)


def test_nothing_else_is_refused(fp32):
    nodes = weight_nodes(ir.load(fp32("phi3").onnx_path))
    assert {FourBitFloat(kind="fp4").refusal(node) for node in nodes if node.role is not Role.EMBEDDING} == {""}


def test_tensorrt_has_no_such_operator(fp32, tmp_path):
    selection = parse_selector("mlp").select(weight_nodes(ir.load(fp32("gpt2").onnx_path)))
    with pytest.raises(UnsupportedHere, match="TensorRT"):
        apply(FourBitFloat(kind="nf4", target="tensorrt"), fp32("gpt2"), selection, tmp_path, tokens=None)


def _other_kind(model):
    next(a for n in model.graph.node if n.op_type == "MatMulBnb4" for a in n.attribute if a.name == "quant_type").i = 0


def _one_code(model):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("_nf4"))
    codes = numpy_helper.to_array(tensor).copy()
    codes[0] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))


def _one_scale(model):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("_absmax"))
    peaks = numpy_helper.to_array(tensor).copy()
    peaks[-1] *= 1.001
    tensor.CopyFrom(numpy_helper.from_array(peaks, tensor.name))


def _back_to_float(model):
    node = next(node for node in model.graph.node if node.op_type == "MatMulBnb4")
    weight = numpy_helper.from_array(np.zeros((32, 96), np.float32), "plain")
    model.graph.initializer.append(weight)
    node.CopyFrom(helper.make_node("MatMul", [node.input[0], "plain"], list(node.output), name=node.name))


def _quantized_besides(model):
    model.graph.node.append(
        helper.make_node("DynamicQuantizeLinear", [model.graph.node[-1].output[0]], ["a", "b", "c"])
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_other_kind, "has the attributes"),
        (_one_code, "does not hold the nf4 codes"),
        (_one_scale, "does not hold the nf4 codes"),
        (_back_to_float, "quantized nodes differ"),
        (_quantized_besides, "operator outside the selection: DynamicQuantizeLinear"),
    ],
)
def test_a_file_that_was_changed_is_a_contract_error(fp32, tmp_path, change, reason):
    parent = fp32("gpt2")
    selection, _ = quantize(parent, tmp_path / "out", "nf4")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    change(model)
    with pytest.raises(ContractError, match=reason):
        FourBitFloat(kind="nf4")._check(ir.from_proto(model), ir.load(parent.onnx_path), selection)


def test_a_second_run_gives_the_same_bytes(fp32, tmp_path):
    for folder in ("one", "two"):
        quantize(fp32("qwen2"), tmp_path / folder, "fp4")
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


def test_the_block_is_that_of_the_torch_rows():
    from qexport.runtime.torch_session import BLOCK_SIZE

    assert bnb4.BLOCK_SIZE == BLOCK_SIZE


@pytest.mark.slow
@kinds
def test_a_trained_model_scores_as_in_bitsandbytes(data_dir, tmp_path, kind):
    from qexport import exporting
    from qexport.core.artifact import Manifest, load_artifact, new_artifact
    from qexport.inputs.models import load_tokenizer, locate_model
    from qexport.inputs.text import Text, load_text, make_windows
    from qexport.measurement.metrics.perplexity import sequence_nll
    from qexport.quantization.schemes.bnb import Bnb
    from qexport.runtime.opening import open_session

    source = locate_model(data_dir / "models" / "stories260K")
    stories = load_text(data_dir / "text" / "tinystories_500.json").documents
    windows = make_windows(Text("last", stories[-40:]), load_tokenizer(source), window=512, limit=None)
    parent = exporting.export_source(source, tmp_path / "fp32", "fused")
    quantize(parent, tmp_path / "out", kind)
    with new_artifact(tmp_path / "bnb") as draft:
        result = Bnb(kind=kind).apply(source, draft.path)
        draft.finish(
            Manifest(
                kind="torch",
                model=parent.manifest.model,
                recipe=f"bnb-{kind}",
                quantized=result.quantized,
                weight_bytes=result.weight_bytes,
            )
        )

    def perplexity(session):
        losses = [sequence_nll(session.logits(ids[None])[0], ids) for ids in windows.sequences]
        return np.exp(sum(losses) / sum(len(ids) - 1 for ids in windows.sequences))

    ours = perplexity(OrtSession(tmp_path / "out" / "model.onnx", threads=1))
    theirs = perplexity(open_session(load_artifact(tmp_path / "bnb"), threads=1))
    exact = perplexity(OrtSession(parent.onnx_path, threads=1))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours > 1.02 * exact
