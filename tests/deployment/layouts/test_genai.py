from __future__ import annotations

import json

import pytest

from qexport.core.artifact import Artifact
from qexport.deployment.layouts.genai import CONFIG, LAYOUT
from qexport.deployment.layouts.interface import read_interface
from qexport.deployment.layouts.layout import Request
from tests.architectures import CONTEXT, TINY, VOCABULARY, WINDOW
from tests.deployment.layouts.test_tokenizer import (
    TEMPLATE,
    among_named_ones,
    in_a_file_of_its_own,
    in_the_configuration,
)
from tests.plants import planted


def lay(artifact, folder):
    LAYOUT.check(artifact)
    folder.mkdir(exist_ok=True)
    laid = LAYOUT.write(Request(artifacts=[artifact], name="tiny"), folder)
    return laid, json.loads((folder / CONFIG).read_text())


def edit(path, **changes):
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def names(pattern, layers):
    return [pattern % layer for layer in range(layers)]


PAIRS = [("llama", "fused"), *((name, "fused" if name == "phi3" else "optimum") for name in TINY)]
"""Graphs of both exporters have the same inputs; Optimum's of phi3 is refused for its longrope."""


@pytest.mark.parametrize(("name", "exporter"), PAIRS)
def test_the_configuration_is_that_of_the_graph(fp32, tmp_path, name, exporter):
    from transformers import AutoConfig

    artifact = fp32(name, exporter)
    laid, config = lay(artifact, tmp_path / "out")
    model, decoder = config["model"], config["model"]["decoder"]
    interface = read_interface(artifact.onnx_path)
    own = AutoConfig.from_pretrained(artifact.path, local_files_only=True)

    layers = decoder["num_hidden_layers"]
    assert layers == own.num_hidden_layers == 2
    inputs, outputs = dict(decoder["inputs"]), dict(decoder["outputs"])
    past = names(inputs.pop("past_key_names"), layers) + names(inputs.pop("past_value_names"), layers)
    assert set(past) | set(inputs.values()) == set(interface.inputs)
    assert all(key == value for key, value in inputs.items())
    assert {"input_ids", "attention_mask"} <= set(inputs)
    present = names(outputs.pop("present_key_names"), layers) + names(outputs.pop("present_value_names"), layers)
    assert set(present) | set(outputs.values()) == set(interface.outputs)
    for each in past:
        heads, size = interface.inputs[each].shape[1], interface.inputs[each].shape[3]
        assert (heads, size) == (decoder["num_key_value_heads"], decoder["head_size"])

    head_dim = getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads
    kv_heads = getattr(own, "num_key_value_heads", None) or own.num_attention_heads
    assert (decoder["head_size"], decoder["num_key_value_heads"]) == (head_dim, kv_heads)
    assert (decoder["hidden_size"], decoder["num_attention_heads"]) == (own.hidden_size, own.num_attention_heads)
    context = WINDOW if name in {"mistral", "gemma2"} else CONTEXT
    assert (model["vocab_size"], model["context_length"]) == (VOCABULARY, context)
    assert config["search"]["max_length"] == context
    assert ("sliding window" in laid.changes[CONFIG]) == (context < CONTEXT)
    assert (model["type"], decoder["filename"]) == ("decoder", "model.onnx")
    assert (model["bos_token_id"], model["eos_token_id"], model["pad_token_id"]) == (0, [0], 0)
    assert decoder["session_options"]["provider_options"] == []
    assert (config["search"]["do_sample"], config["search"]["past_present_share_buffer"]) == (False, False)


def test_only_a_graph_with_positions_is_fed_them(fp32, tmp_path):
    """Named where the graph has them not, or not named where it has them, onnxruntime-genai fails or counts wrong."""
    artifact = fp32("llama", "optimum")
    _, config = lay(artifact, tmp_path / "out")
    assert ("position_ids" in config["model"]["decoder"]["inputs"]) == (
        "position_ids" in read_interface(artifact.onnx_path).inputs
    )
    _, config = lay(rewritten(artifact, tmp_path / "without", "position_ids"), tmp_path / "other")
    assert "position_ids" not in config["model"]["decoder"]["inputs"]


def rewritten(artifact, folder, dropped):
    """The same artifact, whose graph has an input less."""
    import onnx

    def change(place):
        model = onnx.load(place / "model.onnx")
        kept = [value for value in model.graph.input if value.name != dropped]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        (place / "model.onnx").write_bytes(model.SerializeToString())

    return planted(artifact, folder, files=change)


@pytest.mark.parametrize(
    ("settings", "providers"),
    [
        ({}, []),
        ({"target": "cpu"}, []),
        ({"target": "web"}, []),
        ({"target": "cuda"}, [{"cuda": {}}]),
        ({"target": "tensorrt"}, [{"cuda": {}}]),
    ],
)
def test_an_artifact_for_a_gpu_asks_for_it(fp32, tmp_path, settings, providers):
    own = fp32("llama")
    artifact = Artifact(path=own.path, manifest=own.manifest.model_copy(update={"settings": settings}))
    _, config = lay(artifact, tmp_path / "out")
    assert config["model"]["decoder"]["session_options"]["provider_options"] == providers


def without_generation_settings(folder):
    (folder / "generation_config.json").unlink()


def test_a_model_ends_where_its_tokenizer_or_its_generation_settings_say(fp32, tmp_path):
    own = fp32("llama")
    several = planted(
        own, tmp_path / "a", files=lambda folder: edit(folder / "generation_config.json", eos_token_id=[7, 5])
    )
    assert lay(several, tmp_path / "out-a")[1]["model"]["eos_token_id"] == [0, 5, 7]
    one = planted(own, tmp_path / "b", files=lambda folder: edit(folder / "generation_config.json", eos_token_id=9))
    assert lay(one, tmp_path / "out-b")[1]["model"]["eos_token_id"] == [0, 9]
    none = planted(own, tmp_path / "c", files=without_generation_settings)
    assert lay(none, tmp_path / "out-c")[1]["model"]["eos_token_id"] == [0]


def test_without_a_token_for_padding_an_end_takes_its_place(fp32, tmp_path):
    def change(folder):
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            edit(folder / name, pad_token=..., bos_token=..., eos_token="t")
        edit(folder / "generation_config.json", eos_token_id=...)

    artifact = planted(fp32("llama"), tmp_path / "art", files=change)
    model = lay(artifact, tmp_path / "out")[1]["model"]
    (end,) = model["eos_token_id"]
    assert end > 0
    assert (model["pad_token_id"], model["bos_token_id"]) == (end, end)


def test_padding_of_its_own_is_kept(fp32, tmp_path):
    def change(folder):
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            edit(folder / name, pad_token="t")

    model = lay(planted(fp32("llama"), tmp_path / "art", files=change), tmp_path / "out")[1]["model"]
    assert model["pad_token_id"] not in {0, None}
    assert model["eos_token_id"] == [0]


def test_the_context_is_the_models_not_the_tokenizers(fp32, tmp_path):
    artifact = planted(
        fp32("llama"),
        tmp_path / "art",
        files=lambda folder: edit(folder / "tokenizer_config.json", model_max_length=16),
    )
    assert lay(artifact, tmp_path / "out")[1]["search"]["max_length"] == CONTEXT


def test_a_sliding_window_is_no_limit_where_padding_takes_no_room_in_it(fp32, tmp_path):
    own = fp32("mistral", "optimum")
    artifact = Artifact(path=own.path, manifest=own.manifest.model_copy(update={"exporter": "fused-cuda"}))
    laid, config = lay(artifact, tmp_path / "out")
    assert config["model"]["context_length"] == config["search"]["max_length"] == CONTEXT
    assert laid.changes[CONFIG] == "written for onnxruntime-genai"


@pytest.mark.parametrize("recipe", ["fp16", "bf16", "w4a16-rtn", "nf4", "fp8"])
def test_recipes_of_every_kind_go(quantized, tmp_path, recipe):
    artifact = quantized(recipe)
    laid, config = lay(artifact, tmp_path / "out")
    assert laid.models == ("model.onnx",)
    assert config["model"]["vocab_size"] == VOCABULARY
    own = {info.path for info in artifact.manifest.files}
    assert {path.name for path in (tmp_path / "out").iterdir()} == own | {CONFIG}
    assert set(laid.changes) <= {CONFIG, "tokenizer.json", "tokenizer_config.json"}
    for name in own - set(laid.changes):
        assert (tmp_path / "out" / name).read_bytes() == (artifact.path / name).read_bytes()


def test_a_graph_that_takes_padding_on_the_right_only_goes(fp32, tmp_path):
    """onnxruntime-genai pads there, where other runtimes' layouts must refuse."""
    own = fp32("llama")
    LAYOUT.check(Artifact(path=own.path, manifest=own.manifest.model_copy(update={"exporter": "fused-cuda"})))


@pytest.mark.parametrize("change", [in_the_configuration, in_a_file_of_its_own, among_named_ones])
def test_the_chat_template_is_one_text(fp32, tmp_path, change):
    """What else stands there keeps onnxruntime-genai 0.18 from loading the tokenizer, chats or none."""
    lay(planted(fp32("llama"), tmp_path / "art", files=change), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
