"""What trainers really leave in a folder: never exported as another model than it is, and each refusal says what to do."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qexport.core.errors import InputError
from qexport.inputs.models import load_torch_model, locate_model
from tests.command import failure

WEIGHTS = "model.safetensors"
HEAD, TABLE = "lm_head.weight", "transformer.wte.weight"


def refused(folder):
    with pytest.raises(InputError) as caught:
        load_torch_model(locate_model(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(folder, change):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("left", "way_out"),
    [
        ("adapter_model.safetensors", "merge_and_unload"),
        ("zero_to_fp32.py", "zero_to_fp32.py . OUTPUT"),
        ("global_step500/mp_rank_00_model_states.pt", "zero_to_fp32.py"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights"),
        ("model-q4_0.gguf", "give the original model"),
        ("consolidated.00.pth", "transformers' layout"),
        ("pytorch_model.safetensors", "rename it to model.safetensors"),
    ],
)
def test_a_folder_that_holds_no_model_as_transformers_loads_it(model_folder, left, way_out):
    (model_folder / WEIGHTS).unlink()
    path = model_folder / left
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    assert way_out in refused(model_folder)


def test_a_folder_of_checkpoints(model_folder, tmp_path):
    for step in (500, 1000):
        shutil.copytree(model_folder, tmp_path / "run" / f"checkpoint-{step}")
    assert refused(tmp_path / "run").endswith(
        f"holds 2 checkpoints, not a model; give one of these, such as {tmp_path}/run/checkpoint-1000"
    )


def test_an_adapter_alone(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter, not a model; merge it" in refused(tmp_path)


def test_empty_shards_of_deepspeed(model_folder):
    """ZeRO-3 without ``stage3_gather_16bit_weights_on_model_save`` saves a file of empty tensors."""
    rewritten(model_folder, lambda tensors: {name: tensor.reshape(-1)[:0] for name, tensor in tensors.items()})
    (model_folder / "zero_to_fp32.py").write_text("")
    assert "zero_to_fp32.py . OUTPUT" in refused(model_folder)


@pytest.mark.parametrize(
    ("prefix", "way_out"),
    [("_orig_mod.", "model._orig_mod"), ("module.", "model.module"), ("base_model.model.", "merge_and_unload")],
)
def test_weights_that_were_saved_with_a_wrapper(model_folder, prefix, way_out):
    rewritten(model_folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    said = refused(model_folder)
    assert f"begin with {prefix}" in said
    assert way_out in said


def test_a_head_that_was_trained_and_is_tied_in_the_configuration(model_folder):
    """transformers ties the head to the table and says nothing: another model than the one that was trained."""
    rewritten(model_folder, lambda tensors: tensors | {HEAD: tensors[TABLE] + np.float32(0.5)})
    assert f"ties {TABLE} and {HEAD} to each other, and in the weights they differ; set tie_word_embeddings" in refused(
        model_folder
    )


def test_a_head_that_is_the_table_is_taken(model_folder):
    rewritten(model_folder, lambda tensors: tensors | {HEAD: tensors[TABLE].copy()})
    load_torch_model(locate_model(model_folder))


def test_pickled_weights_whose_tied_head_differs(model_folder):
    import torch

    state = {name: torch.from_numpy(tensor) for name, tensor in load_file(model_folder / WEIGHTS).items()}
    torch.save(state | {HEAD: state[TABLE] + 0.5}, model_folder / "pytorch_model.bin")
    (model_folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="in the weights they differ"):
        locate_model(model_folder, allow_pickle=True)


def test_a_head_that_is_missing(model_folder, set_config):
    set_config(tie_word_embeddings=False)
    assert "set tie_word_embeddings to true in config.json" in refused(model_folder)


def test_a_classifier_is_not_advised_to_tie_a_head(model_folder, set_config):
    set_config(tie_word_embeddings=False)
    rewritten(model_folder, lambda tensors: tensors | {"score.weight": tensors[TABLE][:2]})
    assert "tie_word_embeddings" not in refused(model_folder)


def test_a_table_that_was_resized_and_a_configuration_that_was_not(model_folder):
    rewritten(model_folder, lambda tensors: tensors | {TABLE: np.concatenate([tensors[TABLE], tensors[TABLE][:2]])})
    rows, width = load_file(model_folder / WEIGHTS)[TABLE].shape
    assert (
        f"makes {TABLE} [{rows - 2}, {width}], and in the weights it is [{rows}, {width}]; correct its sizes"
        in refused(model_folder)
    )


def test_one_tensor_in_two_shards(model_folder):
    tensors = load_file(model_folder / WEIGHTS)
    names = sorted(tensors)
    for number, part in enumerate((names[:5], names[4:]), start=1):
        save_file(
            {name: tensors[name] for name in part}, model_folder / f"{number}.safetensors", metadata={"format": "pt"}
        )
    places = {name: "1.safetensors" if name in names[:4] else "2.safetensors" for name in names}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (model_folder / WEIGHTS).unlink()
    assert f"2.safetensors: holds {names[4]}, which 1.safetensors holds too" in refused(model_folder)


def test_a_tied_head_without_its_table(model_folder):
    """transformers leaves the table without contents and says nothing."""
    rewritten(
        model_folder,
        lambda tensors: {HEAD if name == TABLE else name: tensor for name, tensor in tensors.items()},
    )
    assert f"weights are missing, among them {TABLE}" in refused(model_folder)


def test_an_adapter_without_its_configuration(model_folder):
    (model_folder / "adapter_model.safetensors").write_bytes(b"x")
    assert "adapter_model.safetensors: an adapter lies beside the model" in refused(model_folder)


def test_shards_without_their_index(model_folder):
    (model_folder / WEIGHTS).rename(model_folder / "model-00001-of-00002.safetensors")
    assert "holds shards and no model.safetensors.index.json; copy the index there too" in refused(model_folder)


def test_an_artifact_is_no_model(fp32):
    assert "is an artifact of qexport, not a model; give the model" in refused(fp32("gpt2").path)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name, model_folder, monkeypatch):
    monkeypatch.chdir(model_folder)
    assert "the name of the model is empty" in refused(name)


@pytest.mark.parametrize("length", [0, -1])
def test_a_context_of_no_tokens(model_folder, set_config, length):
    set_config(n_positions=length)
    assert f"config.json: n_positions is {length}; correct it" in refused(model_folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_byte_order_mark_is_named(model_folder, name):
    path = model_folder / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert f"{name}: begins with a byte order mark, which transformers cannot read; save it without" in refused(
        model_folder
    )


def test_a_message_of_transformers_names_the_user_s_folder(model_folder):
    from qexport.inputs.pretrained import load_config

    (model_folder / "config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        load_config(model_folder)
    assert "qexport-model-" not in str(caught.value)
    assert f"Unrecognized model in {model_folder}" in str(caught.value)


def test_a_tokenizer_of_a_larger_model_is_found_by_export(model_folder, tmp_path):
    path = model_folder / "tokenizer.json"
    values = json.loads(path.read_text())
    first = len(values["model"]["vocab"])
    values["model"]["vocab"] |= {f"new{number}": first + number for number in range(900)}
    path.write_text(json.dumps(values))
    said = failure("export", model_folder, "-o", tmp_path / "out")
    assert "tokens and the model only" in said


def test_a_shard_that_the_index_does_not_name(model_folder):
    (model_folder / WEIGHTS).rename(model_folder / "model-00001-of-00001.safetensors")
    names = load_file(model_folder / "model-00001-of-00001.safetensors")
    places = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    load_torch_model(locate_model(model_folder))
    (model_folder / "model-00002-of-00002.safetensors").write_bytes(b"x")
    assert "model-00002-of-00002.safetensors: a shard that model.safetensors.index.json does not name" in refused(
        model_folder
    )
