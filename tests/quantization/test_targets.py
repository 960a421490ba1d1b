from __future__ import annotations

from typing import get_args

import onnx
import onnx_ir as ir
import pytest

from qexport import quantization
from qexport.core.errors import InputError, SelectionError, UnsupportedHere
from qexport.core.selection import parse_selector
from qexport.inputs.text import Text
from qexport.quantization import pipeline, targets
from qexport.quantization.recipes import RECIPES, recipe

WORDS = "the quick brown fox jumps over the lazy dog and then the other dog comes back to the fox again"
STORIES = Text("stories", tuple(f"Story {number}: {WORDS}. It was {number}!" for number in range(8)))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-targets"))


def operators(artifact):
    graph = onnx.load(artifact.onnx_path, load_external_data=False).graph
    return {(node.domain, node.op_type) for node in graph.node}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("int8-dynamic", "cuda"),
        *((name, "tensorrt") for name in ("int8-dynamic", "w8a16-rtn", "w8a16-gptq", "nf4", "fp4")),
        *((name, "web") for name in ("bf16", "fp8")),
    ],
)
def test_what_would_fall_back_is_refused_before_any_work(tmp_path, monkeypatch, name, target):
    monkeypatch.setattr(pipeline, "locate", lambda *_given: pytest.fail("work was begun"))
    with pytest.raises(UnsupportedHere, match=f"{name} --target {target}: "):
        quantization.quantize("somebody/model", tmp_path / "out", recipe_name=name, options={"target": target})
    assert name in RECIPES


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_fused_attention_is_refused_where_it_cannot_run(fp32, tmp_path, target):
    with pytest.raises(
        UnsupportedHere, match=f"--target {target}: the fp32 artifact has 2 GroupQueryAttention: .*optimum"
    ):
        quantization.quantize(
            str(fp32("gpt2").path),
            tmp_path / "out",
            recipe_name="int8-static",
            options={"target": target, "engine": "ort"},
            text=STORIES,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["fp16", "w8a16-rtn", "w4a16-rtn"])
def test_cuda_gets_fused_attention_in_16_bits(tiny, tmp_path, name):
    made = quantization.quantize(str(tiny("llama")), tmp_path / "out", recipe_name=name, options={"target": "cuda"})
    assert made.manifest.exporter == "fused-cuda"
    assert made.manifest.settings["target"] == "cuda"
    graph = ir.load(made.onnx_path).graph
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"]
    assert [len(node.inputs) for node in attention] == [7, 7]  # none has a bias
    assert {node.inputs[3].dtype for node in attention} == {ir.DataType.FLOAT16}
    if name != "fp16":
        products = [node for node in graph if node.op_type == "MatMulNBits"]
        assert {node.attributes["block_size"].as_int() for node in products} == {32}
        assert {len(node.inputs) for node in products} == {3}  # and none zero points
        scales = {value.dtype for value_name, value in graph.initializers.items() if value_name.endswith("_scale")}
        assert scales == {ir.DataType.FLOAT16}


def test_what_is_chosen_stays_chosen_for_cuda():
    scheme = recipe("w8a16-rtn").configured({"target": "cuda", "block_size": 64}).scheme
    assert (scheme.block_size, scheme.symmetric) == (64, True)


def test_cuda_has_no_fused_attention_in_32_bits(fp32, tmp_path):
    with pytest.raises(UnsupportedHere, match="16 bits only; export with --exporter optimum"):
        quantization.quantize(
            str(fp32("gpt2", "fused-cuda").path),
            tmp_path / "out",
            recipe_name="int8-static",
            options={"target": "cuda", "engine": "ort"},
            text=STORIES,
        )
    made = quantization.quantize(
        str(fp32("gpt2", "optimum").path), tmp_path / "out", recipe_name="nf4", options={"target": "cuda"}
    )
    assert made.manifest.exporter == "optimum"


@pytest.mark.parametrize("name", ["int8-static", "fp8", "w4a16-rtn", "fp16"])
def test_tensorrt_gets_operators_of_onnx_only(fp32, tmp_path, name):
    options = {"target": "tensorrt"} | ({"engine": "ort"} if name == "int8-static" else {})
    learns = name in ("int8-static", "fp8")
    made = quantization.quantize(
        str(fp32("gpt2", "optimum").path),
        tmp_path / "out",
        recipe_name=name,
        options=options,
        text=STORIES if learns else None,
    )
    assert {domain for domain, _ in operators(made)} <= {"", "ai.onnx"}
    if name != "fp16":
        assert made.manifest.selection.rules == "--nodes body"
        assert ("", "DequantizeLinear") in operators(made)


def test_tensorrt_gets_symmetric_ranges(fp32, tmp_path):
    made = quantization.quantize(
        str(fp32("gpt2", "optimum").path),
        tmp_path / "out",
        options={"target": "tensorrt", "engine": "ort"},
        text=STORIES,
    )
    assert (made.manifest.settings["symmetric"], made.manifest.settings["weights"]) == (True, "int8")


@pytest.mark.parametrize("name", ["int8-static", "fp8", "w4a16-rtn"])
def test_tensorrt_has_no_quantized_lookups(fp32, tmp_path, name):
    with pytest.raises(SelectionError, match="TensorRT"):
        quantization.quantize(
            str(fp32("gpt2", "optimum").path),
            tmp_path / "out",
            recipe_name=name,
            selector=parse_selector("all"),
            options={"target": "tensorrt"},
        )


def test_the_web_gets_no_lookups_in_blocks(fp32, tmp_path):
    made = quantization.quantize(
        str(fp32("gpt2").path), tmp_path / "out", recipe_name="w4a16-rtn", options={"target": "web"}
    )
    assert made.manifest.selection.rules == "--nodes body,lm-head"
    assert ("com.microsoft", "MatMulNBits") in operators(made)
    assert ("com.microsoft", "GatherBlockQuantized") not in operators(made)
    assert not (made.path / "model.onnx.data").exists()
    with pytest.raises(SelectionError, match="/webgpu build of onnxruntime-web"):
        quantization.quantize(
            str(fp32("gpt2").path),
            tmp_path / "other",
            recipe_name="w4a16-rtn",
            selector=parse_selector("all"),
            options={"target": "web"},
        )
    with pytest.raises(InputError, match="int8 is a kernel of the CPU that the target web has not"):
        recipe("w4a16-rtn").configured({"target": "web", "compute": "int8"})


def test_the_tables_of_targets_and_recipes_agree():
    for each in RECIPES.values():
        each.require_target()  # cpu refuses nothing
        assert each.default_selector.label in ("all", "body")
    assert recipe("fp8").configured({"target": "tensorrt"}).default_selector.label == "body"
    assert recipe("w4a16-rtn").configured({"target": "web"}).default_selector.label == "body,lm-head"
    lacks = {need for target in targets.TARGETS.values() for need in target.lacks}
    assert lacks == set(get_args(targets.Need))
