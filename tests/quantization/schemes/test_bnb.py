from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qexport.core import stats
from qexport.core.artifact import Manifest, ModelInfo, load_artifact, new_artifact
from qexport.core.errors import ContractError, UnsupportedHere
from qexport.inputs.models import locate_model
from qexport.inputs.text import Text, make_windows
from qexport.measurement.job import Job
from qexport.measurement.metrics.perplexity import sequence_nll
from qexport.measurement.probing import measure
from qexport.quantization.numerics import bnb4
from qexport.quantization.schemes.bnb import Bnb
from qexport.runtime.opening import open_session
from qexport.runtime.torch_session import linear_modules, load_model, stored_tensor_bytes, torch_logits
from tests.architectures import save_tiny

KINDS = ["int8", "fp4", "nf4"]
IDS = np.arange(3, 43)[None]


def save(source, folder, scheme):
    """The artifact as the pipeline makes it, and the scheme's own account."""
    with new_artifact(folder) as draft:
        result = scheme.apply(source, draft.path)
        draft.finish(
            Manifest(
                schema=1,
                kind="torch",
                model=ModelInfo(name=source.name, weights_sha256="", architecture=source.model_type, parameters=1),
                recipe=f"bnb-{scheme.kind}",
                quantized=result.quantized,
                weight_bytes=result.weight_bytes,
                settings=result.settings,
                versions=result.versions,
            )
        )
    return load_artifact(folder), result


def plain_model(source):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source.path).eval()


@pytest.fixture(scope="session")
def wide_gpt2(tmp_path_factory):
    """A GPT-2 whose attention has shapes that bitsandbytes' packed kernel takes (128), and whose MLP has not (200)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = save_tiny("gpt2", tmp_path_factory.mktemp("wide") / "gpt2")
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=128, n_head=4, n_inner=200, n_positions=64, vocab_size=384)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return locate_model(folder)


# Which layers


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2"])
def test_all_linear_layers_but_the_head_of_every_architecture(tmp_path, name):
    source = locate_model(save_tiny(name, tmp_path / name))
    artifact, result = save(source, tmp_path / "out", Bnb(kind="nf4"))
    names = {node.name for node in result.quantized}
    weights = {name for name, value in plain_model(source).named_parameters() if value.ndim == 2}
    left = {name.removesuffix(".weight") for name in weights} - names
    assert names <= {name.removesuffix(".weight") for name in weights}
    assert all(any(part in name for part in ("embed", "wte", "wpe", "lm_head")) for name in left), left
    assert "lm_head" not in names
    open_session(artifact, threads=1).logits(IDS[:, :8])


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_says_what_was_done(wide_gpt2, tmp_path, kind):
    _, result = save(wide_gpt2, tmp_path / "a", Bnb(kind=kind))
    assert len(result.quantized) == 8  # two layers of c_attn, attn.c_proj, c_fc and mlp.c_proj
    assert {node.weight_dtype for node in result.quantized} == {kind}
    assert {node.activation for node in result.quantized} == {"dynamic" if kind == "int8" else "none"}
    assert all(node.weight == f"{node.name}.weight" for node in result.quantized)
    assert set(result.versions) == {"bitsandbytes", "torch", "transformers"}


def test_a_layer_left_out_is_a_contract_error(wide_gpt2, tmp_path, monkeypatch):
    from transformers.quantizers.base import HfQuantizer

    original = HfQuantizer.get_modules_to_not_convert
    monkeypatch.setattr(
        HfQuantizer, "get_modules_to_not_convert", staticmethod(lambda *args: [*original(*args), "transformer.h.1.mlp"])
    )
    with pytest.raises(ContractError, match=r"6 modules where 8 were asked for; transformer\.h\.1\.mlp\.c_fc"):
        Bnb(kind="nf4").apply(wide_gpt2, tmp_path)


def test_an_artifact_that_was_changed_is_not_run(wide_gpt2, tmp_path):
    artifact, _ = save(wide_gpt2, tmp_path / "a", Bnb(kind="nf4"))
    fewer = artifact.manifest.model_copy(update={"quantized": artifact.manifest.quantized[1:]})
    with pytest.raises(ContractError, match="instead of left alone"):
        open_session(artifact.model_copy(update={"manifest": fewer}), threads=1)


def test_linear_modules_count_conv1d_and_not_the_head(wide_gpt2):
    found = linear_modules(plain_model(wide_gpt2).config)
    assert len(found) == 8
    assert "transformer.h.0.attn.c_attn" in found


# Bytes


@pytest.mark.parametrize("kind", KINDS)
def test_weight_bytes_are_the_footprint_and_the_quantization_state(wide_gpt2, tmp_path, kind):
    artifact, result = save(wide_gpt2, tmp_path / "a", Bnb(kind=kind))
    model = load_model(artifact.path, provider="cpu")
    state = 0
    for node in result.quantized:
        module = model.get_submodule(node.name)
        elements = module.in_features * module.out_features
        state += 4 * module.out_features + 1 if kind == "int8" else 4 * -(elements // -64) + 16 * 4
    footprint = model.get_memory_footprint(return_buffers=False)
    # 4-bit layers also store their shape, type and block size as some JSON.
    json_bytes = 0 if kind == "int8" else 150 * len(result.quantized)
    assert footprint + state <= result.weight_bytes <= footprint + state + json_bytes
    assert result.weight_bytes < artifact.disk_bytes
    plain = sum(value.numel() for value in plain_model(wide_gpt2).parameters()) * 4
    assert result.weight_bytes < plain


def test_a_tied_weight_is_stored_once(tmp_path):
    source = locate_model(save_tiny("gpt2", tmp_path / "m"))
    assert stored_tensor_bytes(source.path) == 4 * sum(value.numel() for value in plain_model(source).parameters())


def test_a_second_run_gives_the_same_files(wide_gpt2, tmp_path):
    first, _ = save(wide_gpt2, tmp_path / "a", Bnb(kind="fp4"))
    second, _ = save(wide_gpt2, tmp_path / "b", Bnb(kind="fp4"))
    assert first.sha256 == second.sha256


def test_the_folder_has_the_tokenizer_and_no_path_of_this_machine(wide_gpt2, tmp_path):
    artifact, _ = save(wide_gpt2, tmp_path / "a", Bnb(kind="int8"))
    assert (artifact.path / "tokenizer.json").is_file()
    config = (artifact.path / "config.json").read_text()
    assert json.loads(config)["quantization_config"]["load_in_8bit"]
    assert str(tmp_path) not in config
    assert str(wide_gpt2.path) not in config


# Numbers


@pytest.mark.parametrize("kind", KINDS)
def test_reloading_gives_the_logits_from_before_saving(wide_gpt2, tmp_path, kind):
    scheme = Bnb(kind=kind)
    artifact, _ = save(wide_gpt2, tmp_path / "a", scheme)
    before = torch_logits(load_model(wide_gpt2.path, provider="cpu", quantization=scheme._config()), IDS)
    session = open_session(artifact, threads=1)
    assert np.array_equal(session.logits(IDS), before)
    assert np.array_equal(session.logits(IDS), before)


def test_eight_bits_are_closer_than_nf4_than_fp4(wide_gpt2, tmp_path):
    exact = torch_logits(plain_model(wide_gpt2), IDS)
    error = {}
    for kind in KINDS:
        artifact, _ = save(wide_gpt2, tmp_path / kind, Bnb(kind=kind))
        error[kind] = np.linalg.norm(open_session(artifact, threads=1).logits(IDS) - exact) / np.linalg.norm(exact)
    assert 0 < error["int8"] < 0.5 * error["nf4"] < 0.5 * error["fp4"]


def test_the_packed_kernel_takes_the_shapes_it_can_and_changes_little(wide_gpt2, tmp_path):
    import bitsandbytes

    artifact, _ = save(wide_gpt2, tmp_path / "a", Bnb(kind="nf4"))
    session = open_session(artifact, threads=1)
    logits = session.logits(IDS)
    # The four attention weights fit; 200 is not a multiple of 32, nor of 64.
    expected = 4 if bitsandbytes.functional.has_avx512bf16() else 0
    # Rows of 200, those of the two mlp.c_proj, are no multiple of 64.
    assert session.facts() == {"bf16_packed_modules": expected, "one_row_modules": 2}
    generic = load_model(artifact.path, provider="cpu")
    for module in generic.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    exact = torch_logits(generic, IDS)
    assert np.linalg.norm(logits - exact) <= 0.01 * np.linalg.norm(exact)  # bfloat16 has 8 bits


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("width", [48, 80])
def test_weights_run_as_their_bytes_say_where_blocks_cross_rows(tmp_path, width, kind, double_quant):
    import torch
    from bitsandbytes import functional
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = save_tiny("llama", tmp_path / "m")
    config = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=width,
        intermediate_size=112,
        num_attention_heads=2,
        vocab_size=384,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    artifact, result = save(locate_model(folder), tmp_path / "a", Bnb(kind=kind, double_quant=double_quant))
    model = load_model(artifact.path, provider="cpu")
    for node in result.quantized:
        module = model.get_submodule(node.name)
        state = module.weight.quant_state
        peaks = (
            functional.dequantize_blockwise(state.absmax, state.state2) + state.offset if double_quant else state.absmax
        )
        shape = (module.out_features, module.in_features)
        stored = bnb4.dequantize(module.weight.data.numpy().reshape(-1), peaks.numpy(), shape, kind)
        with torch.no_grad():
            ran = module(torch.eye(module.in_features)[None])[0].numpy().T
        np.testing.assert_array_equal(ran, stored)
    session = open_session(artifact, threads=1)
    session.logits(IDS)
    assert session.facts() == {"bf16_packed_modules": 0, "one_row_modules": 7}


def test_double_quantization_makes_the_scales_smaller(wide_gpt2, tmp_path):
    plain, double = (save(wide_gpt2, tmp_path / str(on), Bnb(kind="nf4", double_quant=on)) for on in (False, True))
    # Its code book of 256 floats outweighs the scales of layers as small as these; the scales are a quarter.
    from safetensors.numpy import load_file

    scales = [
        sum(
            value.nbytes for name, value in load_file(one.path / "model.safetensors").items() if name.endswith("absmax")
        )
        for one, _ in (plain, double)
    ]
    assert scales[1] < 0.3 * scales[0]


# What cannot be done


def test_remote_code_is_not_run(wide_gpt2, tmp_path):
    with pytest.raises(UnsupportedHere, match="remote"):
        Bnb(kind="nf4").apply(replace(wide_gpt2, trust_remote_code=True), tmp_path)


def test_shapes_without_a_kernel_are_unsupported_here(wide_gpt2, tmp_path, monkeypatch):
    def stop(*_args):
        raise AssertionError("N must be divisible by block_n")

    monkeypatch.setattr("qexport.quantization.schemes.bnb.torch_logits", stop)
    with pytest.raises(UnsupportedHere, match="bitsandbytes nf4 cannot run here"):
        Bnb(kind="nf4").apply(wide_gpt2, tmp_path)


# The whole way


def test_measuring_says_nothing_of_bitsandbytes_own_noise(wide_gpt2, tmp_path, caplog):
    artifact, _ = save(wide_gpt2, tmp_path / "a", Bnb(kind="int8"))
    open_session(artifact, threads=1).logits(IDS)
    assert caplog.text == ""


@pytest.mark.slow
def test_a_trained_model_loses_what_four_bits_cost(data_dir, tmp_path):
    from transformers import AutoTokenizer

    source = locate_model(data_dir / "models" / "stories260K")
    stories = json.loads((data_dir / "text" / "tinystories_500.json").read_text())[-20:]
    tokenizer = AutoTokenizer.from_pretrained(source.path)
    tokens = make_windows(Text("tinystories", tuple(stories)), tokenizer, window=128, limit=12)
    model = plain_model(source)
    base = [sequence_nll(torch_logits(model, ids[None])[0], ids) for ids in tokens.sequences]
    ratio = {}
    for kind in KINDS:
        artifact, _ = save(source, tmp_path / kind, Bnb(kind=kind))
        (record,) = measure(Job(artifact=artifact.path, row=kind, probe="perplexity", tokens=tokens, threads=1))
        assert record.skipped is None, record.skipped
        nll, count = np.array(record.samples).T
        ratio[kind] = stats.perplexity_ratio(nll, base, count).value
    # Measured on the last 100 stories: 1.0003, 1.254 and 1.124.
    assert 0.995 < ratio["int8"] < 1.005
    assert 1.05 < ratio["nf4"] < 1.2 < ratio["fp4"] < 1.4


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_computes_what_the_cpu_computes(wide_gpt2, tmp_path, kind):
    artifact, _ = save(wide_gpt2, tmp_path / "a", Bnb(kind=kind))
    here = open_session(artifact, threads=1).logits(IDS)
    session = open_session(artifact, provider="cuda", observe="device memory")
    there = session.logits(IDS)
    assert np.linalg.norm(here - there) <= 0.02 * np.linalg.norm(here)
    assert artifact.manifest.weight_bytes * 0.9 < session.peak_device_bytes() < artifact.manifest.weight_bytes * 10
