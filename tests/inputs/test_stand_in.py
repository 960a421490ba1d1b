from __future__ import annotations

import json

import pytest

from qexport.core.errors import InputError
from qexport.inputs.bundle import bundled
from qexport.inputs.experiment import Experiment, load_experiment
from qexport.inputs.models import load_tokenizer, load_torch_model, locate_model
from qexport.inputs.prompts import encode_prompts, load_prompts
from qexport.inputs.stand_in import make_stand_in
from qexport.inputs.weights import digest_weights

GPT2 = {"model_type": "gpt2", "n_embd": 192, "n_layer": 6, "n_head": 12, "n_positions": 1024, "vocab_size": 2000}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 1792,
    "vocab_size": 1500,
    "max_position_embeddings": 2048,
}
BUNDLED = {
    # name: heads, key-value heads, width, inner width
    "gpt2": (4, None, 64, None),
    "phi-3-mini-128k-instruct": (4, 4, 64, 160),
    "llama-3-8b": (4, 1, 64, 224),
    "qwen2.5-3b": (8, 1, 64, 352),
    "mistral-7b": (4, 1, 64, 224),
}


def experiment(**architecture: object) -> Experiment:
    return Experiment(title="T", model="some/model", rows=[{"recipe": "fp32"}], architecture=architecture or None)  # type: ignore[arg-type]


def config_of(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of the tiny stand-in of a bundled experiment."""
    folders = {}

    def make(name: str):
        if name not in folders:
            made = load_experiment(bundled(f"models/{name}.toml"))
            folders[name] = make_stand_in(made, tmp_path_factory.mktemp("stand-ins") / name)
        return folders[name]

    return make


@pytest.mark.parametrize("name", BUNDLED)
def test_a_tiny_stand_in_of_each_experiment_runs(tiny, name):
    import torch

    source = locate_model(tiny(name))
    model, tokenizer = load_torch_model(source), load_tokenizer(source)
    prompts = load_prompts(bundled("calibration/prompts.txt"), chat=True)
    tokens = encode_prompts(prompts, tokenizer, new_tokens=128, context=source.context_length)
    with torch.inference_mode():
        logits = model(torch.from_numpy(tokens.sequences[0])[None]).logits
    assert logits.shape == (1, len(tokens.sequences[0]), len(tokenizer))
    assert torch.isfinite(logits).all()
    assert 0.1 < float(logits.std()) < 10  # the tokens are told apart, as a real model tells them
    config = model.config
    heads, kv_heads, width, inner = BUNDLED[name]
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, width, heads)
    assert getattr(config, "num_key_value_heads", None) == kv_heads
    assert getattr(config, "intermediate_size", None) == inner
    assert source.context_length == 512
    assert config.vocab_size == len(tokenizer)
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == ends
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_what_makes_an_architecture_is_kept(tiny):
    phi, mistral, qwen, llama = (
        config_of(tiny(name)) for name in ("phi-3-mini-128k-instruct", "mistral-7b", "qwen2.5-3b", "llama-3-8b")
    )
    assert (qwen["tie_word_embeddings"], llama["tie_word_embeddings"]) == (True, False)
    assert (qwen["rope_theta"], llama["rope_theta"]) == (1e6, 5e5)
    assert mistral["sliding_window"] == 512 * 4096 // 32768
    assert phi["sliding_window"] > phi["max_position_embeddings"]
    assert phi["original_max_position_embeddings"] == 256
    assert phi["rope_scaling"]["type"] == "longrope"
    assert [len(phi["rope_scaling"][f"{which}_factor"]) for which in ("short", "long")] == [8, 8]
    assert phi["rope_scaling"]["long_factor"][-1] == 60.0
    assert phi["rope_scaling"]["short_factor"] == sorted(phi["rope_scaling"]["short_factor"])


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_generator_alone(tmp_path):
    import torch

    before = torch.random.get_rng_state()
    folders = [
        make_stand_in(experiment(**LLAMA), tmp_path / str(index), seed=seed) for index, seed in enumerate((5, 5, 6))
    ]
    digests = [digest_weights([folder / "model.safetensors"]) for folder in folders]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_medium_one_has_a_quarter_of_the_width_and_the_real_vocabulary(tmp_path):
    config = config_of(make_stand_in(experiment(**LLAMA), tmp_path / "m", size="medium"))
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    assert [config[name] for name in names] == [128, 4, 4, 1, 448]
    assert (config["vocab_size"], config["max_position_embeddings"]) == (1500, 2048)


def test_a_full_one_has_the_real_shapes(tmp_path):
    config = config_of(make_stand_in(experiment(**GPT2), tmp_path / "m", size="full"))
    assert {name: config[name] for name in GPT2} == GPT2
    assert config["initializer_range"] == 0.02


def test_names_of_the_class_and_their_aliases_say_the_same(tmp_path):
    aliases = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 12, "max_position_embeddings": 1024}
    architecture = {"model_type": "gpt2", "vocab_size": 2000, **aliases}
    own = config_of(make_stand_in(experiment(**GPT2), tmp_path / "own"))
    aliased = config_of(make_stand_in(experiment(**architecture, n_inner=768), tmp_path / "aliased"))
    assert aliased.pop("n_inner") == 256
    assert own.pop("n_inner") is None
    assert own == aliased


def test_a_model_as_small_as_that_keeps_its_shape(tmp_path):
    small = LLAMA | {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    config = config_of(make_stand_in(experiment(**small), tmp_path / "m"))
    names = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_hidden_layers")
    assert [config[name] for name in names] == [32, 2, 1, 16, 1]


def test_rotary_settings_and_head_widths_of_other_models_fit(tmp_path):
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
    config = config_of(make_stand_in(experiment(**LLAMA, rope_scaling=rope), tmp_path / "llama"))
    assert config["rope_scaling"] == rope | {"original_max_position_embeddings": 256}
    qwen3 = LLAMA | {"model_type": "qwen3", "head_dim": 128, "layer_types": ["full_attention"] * 8}
    config = config_of(make_stand_in(experiment(**qwen3), tmp_path / "qwen3"))
    assert (config["head_dim"], config["layer_types"]) == (16, ["full_attention"] * 2)


@pytest.mark.parametrize(
    ("architecture", "size", "parts"),
    [
        ({}, "tiny", ["has no [architecture]", "add one"]),
        ({"model_type": "gpt9"}, "tiny", ["model type gpt9", "does not know"]),
        ({"model_type": "t5"}, "tiny", ["no model can be built from [architecture]"]),
        (LLAMA | {"hidden_size": "wide"}, "tiny", ["no model can be built from [architecture]"]),
        (LLAMA | {"hidden_size": "wide"}, "full", ["no model can be built from [architecture]"]),
        (LLAMA | {"vocab_size": 100}, "full", ["vocabulary of 100", "vocab_size"]),
    ],
)
def test_bad_architectures(tmp_path, architecture, size, parts):
    with pytest.raises(InputError) as caught:
        make_stand_in(experiment(**architecture), tmp_path / "m", size=size)
    message = str(caught.value)
    assert "\n" not in message
    for part in ["some/model", *parts]:
        assert part in message, message
    assert not (tmp_path / "m").exists()
