from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qexport.core.errors import ContractError
from qexport.core.selection import parse_selector, weight_nodes
from qexport.quantization import half
from qexport.quantization.schemes.cast import Cast
from qexport.runtime.onnx_session import OrtSession
from tests.rewritten import apply

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "phi3", "gemma2")
CLOSE = {"fp16": 0.003, "bf16": 0.03}
"""Relative error of logits that each type keeps on the tiny models (seen: up to 0.0014 and 0.016)."""

both_types = pytest.mark.parametrize("dtype", ["fp16", "bf16"])


def cast(parent, folder, dtype, target="cpu"):
    folder.mkdir(exist_ok=True)
    everything = parse_selector("all").select(weight_nodes(ir.load(parent.onnx_path)))
    return apply(Cast(dtype=dtype, target=target), parent, everything, folder, tokens=None)


def logits(path):
    return OrtSession(path, threads=1).logits(np.random.default_rng(3).integers(1, 380, (3, 20)))


@pytest.mark.parametrize("name", ARCHITECTURES)
@both_types
def test_conformance(fp32, tmp_path, name, dtype):
    parent, path = fp32(name), tmp_path / "out" / "model.onnx"
    result = cast(parent, tmp_path / "out", dtype)
    assert result.quantized == ()
    assert result.settings["dtype"] == dtype
    assert ("arithmetic" in result.settings) == (dtype == "bf16")
    exact = logits(parent.onnx_path)
    assert 1e-5 < np.linalg.norm(logits(path) - exact) / np.linalg.norm(exact) < CLOSE[dtype]
    assert result.weight_bytes < 0.51 * parent.manifest.weight_bytes
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    wanted = onnx.TensorProto.FLOAT16 if dtype == "fp16" else onnx.TensorProto.BFLOAT16
    assert {stored[name] for name in half.parameters(ir.load(parent.onnx_path))} == {wanted}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@both_types
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_accelerators_get_a_graph_that_computes_in_the_type(fp32, tmp_path, name, dtype, target):
    result = cast(fp32(name, "optimum"), tmp_path / "out", dtype, target)
    assert "arithmetic" not in result.settings
    model = onnx.load(tmp_path / "out" / "model.onnx")
    cache = next(value for value in model.graph.input if value.name == "past_key_values.0.key")
    wanted = onnx.TensorProto.FLOAT16 if dtype == "fp16" else onnx.TensorProto.BFLOAT16
    assert cache.type.tensor_type.elem_type == wanted


def generate(model, *, use_cache):
    import torch

    prompt = torch.tensor([[5, 17, 90, 211]])
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(prompt)
    return model.generate(prompt, attention_mask=mask, use_cache=use_cache, **settings).tolist()


def optimum_model(parent, folder, dtype):
    from optimum.onnxruntime import ORTModelForCausalLM

    shutil.copytree(parent.path, folder)
    cast(parent, folder, dtype)
    return ORTModelForCausalLM.from_pretrained(folder, use_cache=True, use_io_binding=False)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_optimum_generates_in_float16_what_torch_generates_in_float32(fp32, tiny, tmp_path, name):
    from transformers import AutoModelForCausalLM

    model = optimum_model(fp32(name), tmp_path / "out", "fp16")
    expected = generate(AutoModelForCausalLM.from_pretrained(tiny(name)).eval(), use_cache=True)
    assert generate(model, use_cache=True) == expected
    assert generate(model, use_cache=False) == expected


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_optimum_generates_the_same_with_and_without_the_cache_of_bfloat16_values(fp32, tmp_path, name):
    model = optimum_model(fp32(name), tmp_path / "out", "bf16")
    assert generate(model, use_cache=True) == generate(model, use_cache=False)


@both_types
def test_a_second_run_gives_the_same_bytes(fp32, tmp_path, dtype):
    for folder in ("one", "two"):
        cast(fp32("qwen2"), tmp_path / folder, dtype)
    assert (tmp_path / "one" / "model.onnx").read_bytes() == (tmp_path / "two" / "model.onnx").read_bytes()


@both_types
@pytest.mark.parametrize("change", ["left in fp32", "altered"])
def test_a_weight_that_is_not_what_was_asked_is_a_contract_error(fp32, tmp_path, dtype, change):
    parent = fp32("llama")
    cast(parent, tmp_path / "out", dtype)
    emitted, name = ir.load(tmp_path / "out" / "model.onnx"), "model.layers.0.mlp.up_proj.weight"
    original = ir.load(parent.onnx_path)
    scheme = Cast(dtype=dtype)
    scheme._check(emitted, original)
    weight = original.graph.initializers[name].const_value.numpy()
    altered = half.rounded(weight * np.float32(1.01), dtype, name)
    value = emitted.graph.initializers[name]
    value.const_value = ir.tensor(weight if change == "left in fp32" else altered, name=name)
    value.dtype = value.const_value.dtype
    with pytest.raises(ContractError, match=f"{name}: is not (stored in|what its weight rounds to)"):
        scheme._check(emitted, original)


def test_no_nodes_are_taken():
    assert not Cast.takes_nodes
