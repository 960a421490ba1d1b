from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qexport.core.errors import InputError
from qexport.inputs.models import copy_side_files, load_tokenizer, load_torch_model, locate_model

if TYPE_CHECKING:
    from pathlib import Path

    import torch

WEIGHTS = "model.safetensors"
TABLE = "transformer.wte.weight"
INDEX = "model.safetensors.index.json"


def refused(spec: object, *parts: str, **options: object) -> str:
    """The message of the InputError that the model must raise: one line that holds all parts."""
    with pytest.raises(InputError) as caught:
        locate_model(str(spec), **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path) -> None:
    """Turn the folder's one weight file into two and an index."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / WEIGHTS).unlink()


def pickle_weights(folder: Path, **changed: torch.Tensor) -> None:
    import torch

    state = {name: torch.from_numpy(value) for name, value in load_file(folder / WEIGHTS).items()} | changed
    torch.save(state, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


# What works


def test_a_local_folder(model_folder):
    source = locate_model(model_folder)
    assert (source.name, source.revision, source.model_type, source.context_length) == ("model", "", "gpt2", 64)
    assert source.weight_files == (model_folder / WEIGHTS,)
    assert re.fullmatch(r"[0-9a-f]{64}", source.weights_sha256)
    assert not source.trust_remote_code


def test_the_name_is_the_folder_s_even_for_a_dot(model_folder, monkeypatch):
    monkeypatch.chdir(model_folder)
    assert locate_model(".").name == "model"


def test_the_digest_is_of_the_weights_and_of_nothing_else(model_folder, set_config):
    before = locate_model(model_folder).weights_sha256
    set_config(task_specific_params={})
    assert locate_model(model_folder).weights_sha256 == before
    rewrite(model_folder, lambda tensors: tensors["transformer.ln_f.bias"].__setitem__(0, 1e-7))
    assert locate_model(model_folder).weights_sha256 != before


def test_the_torch_model_is_fp32_and_in_evaluation(model_folder):
    import torch

    rewrite(model_folder, lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}))
    model = load_torch_model(locate_model(model_folder))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_the_tokenizer_round_trips(model_folder):
    tokenizer = load_tokenizer(locate_model(model_folder))
    assert tokenizer.decode(tokenizer("A red stone.", add_special_tokens=False)["input_ids"]) == "A red stone."


def test_side_files_make_a_folder_whole_without_weights(model_folder, tmp_path):
    source, target = locate_model(model_folder), tmp_path / "copy"
    target.mkdir()
    copy_side_files(source, target)
    shutil.copy(model_folder / WEIGHTS, target)
    assert locate_model(target).weights_sha256 == source.weights_sha256
    assert load_tokenizer(locate_model(target)).get_vocab() == load_tokenizer(source).get_vocab()
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(
        os.listdir(target)
    )


def test_shards_load_as_one_file_does(model_folder):
    import torch

    whole = load_torch_model(locate_model(model_folder)).state_dict()
    shard(model_folder)
    source = locate_model(model_folder)
    parts = load_torch_model(source).state_dict()
    assert len(source.weight_files) == 2
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_mask_buffers_of_old_checkpoints_are_no_weights(model_folder):
    mask = np.tril(np.ones((1, 1, 64, 64), np.uint8))
    rewrite(
        model_folder,
        lambda tensors: tensors.update(
            {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": np.float32([-np.inf])}
        ),
    )
    load_torch_model(locate_model(model_folder))


def test_a_really_trained_model(data_dir):
    source = locate_model(data_dir / "models" / "stories260K")
    assert (source.model_type, source.context_length) == ("llama", 512)
    assert sum(p.numel() for p in load_torch_model(source).parameters()) == 260_032


# A folder that lacks something


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        (["config.json"], ["no config.json", "save_pretrained"]),
        (["tokenizer.json"], ["no tokenizer", "tokenizer.json"]),
        ([WEIGHTS], ["no weights", WEIGHTS]),
    ],
)
def test_a_missing_file_is_named(model_folder, missing, parts):
    for name in missing:
        (model_folder / name).unlink()
    refused(model_folder, str(model_folder), *parts)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", '{"vocab_size": 3}'])
def test_a_config_that_is_none(model_folder, content):
    (model_folder / "config.json").write_text(content)
    refused(model_folder, "config.json", "save")


def test_a_tokenizer_that_cannot_be_read(model_folder):
    (model_folder / "tokenizer.json").write_text('{"model": {"type": "Nonsense"}}')
    with pytest.raises(InputError, match="the tokenizer cannot be read") as caught:
        load_tokenizer(locate_model(model_folder))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_a_larger_model(model_folder, set_config):
    set_config(vocab_size=200)
    rewrite(model_folder, lambda tensors: tensors.update({TABLE: tensors[TABLE][:200]}))
    with pytest.raises(InputError, match="300 tokens and the model only 200"):
        load_tokenizer(locate_model(model_folder))


def test_a_configuration_that_does_not_fit_the_weights(model_folder, set_config):
    set_config(n_embd=8)
    refused(model_folder, "config.json: makes transformer.wte.weight", "correct its sizes")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"n_layer": 1_000_000_000}, "names 1000000000 layers"),
        ({"n_embd": 4096}, "the weight files have room for"),
        ({"vocab_size": 1 << 40}, "the weight files have room for"),
        ({"n_head": 0}, "cannot build the model"),
        ({"n_embd": -16}, "cannot build the model"),
        ({"n_layer": "two"}, "cannot build the model"),
    ],
)
def test_a_configuration_of_a_larger_model_takes_no_memory(model_folder, set_config, sizes, said):
    set_config(**sizes)
    refused(model_folder, "config.json", said)


def test_a_model_is_not_cut_down_in_silence(model_folder, set_config):
    """A configuration with one layer less would export half of the model, equal to torch's half to the last bit."""
    set_config(n_layer=1)
    with pytest.raises(InputError, match=r"would be left out, among them transformer\.h\.1\."):
        load_torch_model(locate_model(model_folder))


def test_a_weight_of_another_name_is_not_left_out(model_folder):
    rewrite(
        model_folder, lambda tensors: tensors.update({"transformer.h.0.lora.weight": tensors["transformer.ln_f.bias"]})
    )
    with pytest.raises(InputError, match=r"transformer\.h\.0\.lora\.weight"):
        load_torch_model(locate_model(model_folder))


def test_an_adapter_beside_the_model_is_not_left_out(model_folder):
    (model_folder / "adapter_config.json").write_text("{}")
    refused(model_folder, "adapter_config.json", "merge_and_unload")


def test_two_sets_of_weights_are_one_too_many(model_folder):
    (model_folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    refused(model_folder, "model.safetensors.index.json", "remove the one")


def test_a_layer_whose_weights_are_missing_is_not_made_up(model_folder):
    rewrite(model_folder, lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.weight"))
    with pytest.raises(InputError, match=r"among them transformer\.h\.1\.mlp\.c_fc\.weight"):
        load_torch_model(locate_model(model_folder))


# Weight files


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -1000])
def test_truncated_safetensors(model_folder, keep):
    path = model_folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    refused(model_folder, str(path), "download or save")


@pytest.mark.parametrize(
    "content",
    [b"not a safetensors file at all", b"PK\x03\x04" + bytes(200), (20).to_bytes(8, "little") + b"{" * 40, bytes(64)],
    ids=["text", "zip", "no-json", "zeros"],
)
def test_a_file_that_is_no_safetensors(model_folder, content):
    path = model_folder / WEIGHTS
    path.write_bytes(content)
    refused(model_folder, str(path), "not a safetensors file")


def test_safetensors_with_bytes_behind_the_last_tensor(model_folder):
    path = model_folder / WEIGHTS
    path.write_bytes(path.read_bytes() + b"x")
    refused(model_folder, str(path), "too long")


def header_with(path: Path, name: str, **values: object) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header[name] |= values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def test_a_shape_that_does_not_fit_its_bytes(model_folder):
    header_with(model_folder / WEIGHTS, "transformer.ln_f.bias", shape=[17])
    refused(model_folder, "transformer.ln_f.bias", "byte range")


def test_tensors_that_overlap(model_folder):
    header_with(model_folder / WEIGHTS, "transformer.ln_f.bias", data_offsets=[0, 64])
    refused(model_folder, WEIGHTS, "byte range")


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "F8_E4M3", "F8_E5M2", "F4", "Q4_0"])
def test_weights_of_a_type_that_is_quantized_already(model_folder, dtype):
    name = "transformer.h.0.mlp.c_fc.weight"
    rewrite(model_folder, lambda tensors: tensors.update({name: tensors[name].astype(np.int8)}))
    header_with(model_folder / WEIGHTS, name, dtype=dtype)
    refused(model_folder, WEIGHTS, name, dtype, "original model")


def test_integer_weights_named_like_a_bias_are_refused_too(model_folder):
    name = "transformer.h.0.mlp.c_fc.bias"
    rewrite(model_folder, lambda tensors: tensors.update({name: tensors[name].astype(np.int32)}))
    refused(model_folder, name, "I32")


def test_a_model_that_says_it_is_quantized(model_folder, set_config):
    set_config(quantization_config={"quant_method": "bitsandbytes"})
    refused(model_folder, "config.json", "quantized already", "original model")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_weight_that_is_not_finite(model_folder, value, dtype):
    name = "transformer.h.1.attn.c_proj.weight"

    def spoil(tensors):
        tensors[name] = tensors[name].astype(dtype)
        tensors[name][3, 5] = value

    rewrite(model_folder, spoil)
    refused(model_folder, WEIGHTS, name, "NaN or infinite")


def test_bfloat16_weights_are_checked_too(model_folder):
    import torch
    from safetensors.torch import load_file as load_torch, save_file as save_torch

    name = "transformer.h.1.attn.c_proj.weight"
    tensors = {key: value.to(torch.bfloat16) for key, value in load_torch(model_folder / WEIGHTS).items()}
    save_torch(tensors, model_folder / WEIGHTS, metadata={"format": "pt"})
    assert load_torch_model(locate_model(model_folder)).dtype == torch.float32
    tensors[name][0, 0] = torch.nan
    save_torch(tensors, model_folder / WEIGHTS, metadata={"format": "pt"})
    refused(model_folder, name, "NaN or infinite")


def test_the_largest_finite_numbers_are_finite(model_folder):
    def fill(tensors):
        tensors["transformer.ln_f.bias"][:] = np.finfo(np.float32).max

    rewrite(model_folder, fill)
    locate_model(model_folder)


# Shards


def test_a_missing_shard(model_folder):
    shard(model_folder)
    (model_folder / "model-00002-of-00002.safetensors").unlink()
    refused(model_folder, "model-00002-of-00002.safetensors: missing", INDEX)


def test_a_truncated_shard(model_folder):
    shard(model_folder)
    path = model_folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    refused(model_folder, str(path), "truncated")


def test_a_shard_without_a_tensor_of_the_index(model_folder):
    shard(model_folder)
    index = json.loads((model_folder / INDEX).read_text())
    index["weight_map"]["transformer.h.7.ln_1.weight"] = "model-00001-of-00002.safetensors"
    (model_folder / INDEX).write_text(json.dumps(index))
    refused(model_folder, "transformer.h.7.ln_1.weight", INDEX)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', "\x80"])
def test_an_index_that_is_none(model_folder, content):
    shard(model_folder)
    (model_folder / INDEX).write_text(content, encoding="latin-1")
    refused(model_folder, INDEX, "again")


def test_an_index_does_not_reach_out_of_its_folder(model_folder):
    shard(model_folder)
    (model_folder / INDEX).write_text(json.dumps({"weight_map": {"x": "../../other.safetensors"}}))
    refused(model_folder, INDEX, "outside its folder")


# Pickled weights and remote code


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickled_weights_are_refused_and_not_read(model_folder, tmp_path):
    import torch

    (model_folder / WEIGHTS).unlink()
    canary = tmp_path / "ran"
    torch.save({"x": Canary(str(canary))}, model_folder / "pytorch_model.bin")
    refused(model_folder, "pytorch_model.bin", "pickled", "--allow-pickle")
    refused(model_folder, "pytorch_model.bin", "plain tensors", allow_pickle=True)
    assert not canary.exists()


def test_pickled_weights_that_are_allowed(model_folder):
    import torch

    expected = load_torch_model(locate_model(model_folder)).state_dict()
    pickle_weights(model_folder)
    source = locate_model(model_folder, allow_pickle=True)
    loaded = load_torch_model(source).state_dict()
    assert source.weight_files == (model_folder / "pytorch_model.bin",)
    assert all(torch.equal(expected[name], loaded[name]) for name in expected)


def test_pickled_weights_are_checked_as_safetensors_are(model_folder):
    import torch

    pickle_weights(model_folder, **{"transformer.ln_f.bias": torch.full((16,), torch.nan)})
    refused(model_folder, "transformer.ln_f.bias", "NaN or infinite", allow_pickle=True)


def test_safetensors_are_preferred_even_where_pickle_is_allowed(model_folder):
    import torch

    torch.save({}, model_folder / "pytorch_model.bin")
    assert locate_model(model_folder, allow_pickle=True).weight_files == (model_folder / WEIGHTS,)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_and_not_run(model_folder, tmp_path, file):
    (model_folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = model_folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}))
    refused(model_folder, file, "remote", "--trust-remote-code")
    assert not (tmp_path / "ran").exists()


def test_remote_code_that_is_trusted_runs(model_folder, set_config, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    code = "from transformers import GPT2Config, GPT2LMHeadModel\nclass Mine(GPT2LMHeadModel):\n    config_class = GPT2Config\n"
    (model_folder / "modeling.py").write_text(code)
    set_config(auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    source = locate_model(model_folder, trust_remote_code=True)
    assert source.trust_remote_code
    assert type(load_torch_model(source)).__name__ == "Mine"


def test_trust_that_is_not_needed_is_not_given(model_folder):
    assert not locate_model(model_folder, trust_remote_code=True).trust_remote_code


# What is no decoder


@pytest.mark.parametrize(
    ("model_type", "part"),
    [
        ("bert", "is an encoder"),
        ("roberta", "is an encoder"),
        ("distilbert", "is an encoder"),
        ("vit", "is an encoder"),
        ("t5", "is an encoder-decoder"),
        ("bart", "is an encoder-decoder"),
        ("whisper-of-tomorrow", "does not know"),
    ],
)
def test_models_that_are_no_decoders(model_folder, set_config, model_type, part):
    set_config(model_type=model_type)
    refused(model_folder, "config.json", model_type, part)


def test_a_bert_made_a_decoder_is_one(model_folder, set_config):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    set_config(model_type="bert", is_decoder=True, vocab_size=64, max_position_embeddings=16, **small)
    assert locate_model(model_folder).model_type == "bert"


# The hub


@pytest.mark.parametrize("spec", ["./nowhere", "/no/such/model", "a/b/c", "no such model", "models/../gpt2"])
def test_a_path_that_is_not_there_is_no_hub_id(spec):
    refused(spec, spec, "no such folder")


def test_a_file_instead_of_a_folder(model_folder):
    refused(model_folder / WEIGHTS, WEIGHTS, "give the folder")


def test_a_revision_of_a_local_folder(model_folder):
    refused(model_folder, "no revision", revision="main")


def test_a_hub_id_without_a_network_is_one_line(tmp_path):
    code = (
        "from qexport.inputs.models import locate_model\nfrom qexport.core.errors import InputError\n"
        "try:\n    locate_model('openai-community/gpt2')\nexcept InputError as error:\n    print(error)\n"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("openai-community/gpt2: no such folder, and the hub cannot be reached")
    assert "local folder" in done.stdout


def test_a_hub_id_from_the_cache(tiny_folder, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = (
        "from qexport.inputs.models import locate_model, load_tokenizer\n"
        "source = locate_model('someone/tiny')\nload_tokenizer(source)\nprint(source.name, source.revision)\n"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["someone/tiny", commit]


@pytest.mark.network
def test_a_hub_id_with_a_network():
    refused("openai-community/no-such-model-at-all", "no such model on the hub")
