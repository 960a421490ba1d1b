"""What the fused exporter takes, what it refuses, and that it leaves everything as it found it."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir
import pytest

from qexport.core.errors import UnsupportedHere
from qexport.exporting import parity
from qexport.exporting.fused import export_fused
from qexport.exporting.operators import substituted
from qexport.exporting.prepare import prepare
from qexport.exporting.signature import signature_of
from tests.architectures import LONGROPE_SWITCH, TINY, tiny_model

SMALL = {"vocab_size": 64, "max_position_embeddings": 32, "initializer_range": 0.15, "pad_token_id": None}


def state_of(model):
    """Whatever an export could leave changed."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    namespace = __import__(type(model).__module__, fromlist=["apply_rotary_pos_emb"])
    return (
        sorted(ALL_ATTENTION_FUNCTIONS.valid_keys()),
        model.config._attn_implementation,
        model.config.to_dict(),
        getattr(namespace, "apply_rotary_pos_emb", None),
        ["forward" in vars(module) for module in model.modules()],
        {name: tensor.sum().item() for name, tensor in model.state_dict().items()},
    )


def logits_of(model, length):
    import torch

    ids = torch.arange(length)[None] % model.config.vocab_size
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_model_and_transformers_are_as_before():
    import torch

    model = tiny_model("phi3")
    before, logits = state_of(model), logits_of(model, 20)
    export_fused(model, signature_of(model))
    assert state_of(model) == before
    assert torch.equal(logits_of(model, 20), logits)


def test_model_and_transformers_are_as_before_when_it_fails():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(dynamic_rope()).eval()
    before = state_of(model)
    with pytest.raises(UnsupportedHere):
        export_fused(model, signature_of(model))
    assert state_of(model) == before


def dynamic_rope():
    """Rotary angles computed anew from the longest length seen so far: a state that a graph does not have."""
    from transformers import LlamaConfig

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return LlamaConfig(**SMALL, **small, rope_scaling={"rope_type": "dynamic", "factor": 2.0})


def own_attention():
    """An architecture whose code does not ask the attention interface."""
    from transformers import GPTJConfig

    return GPTJConfig(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)


@pytest.mark.parametrize("config", [dynamic_rope, own_attention])
def test_what_cannot_be_traced_is_refused_in_one_line(config, capfd):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config()).eval()
    signature = signature_of(model)
    capfd.readouterr()
    with pytest.raises(UnsupportedHere, match="--exporter optimum") as caught:
        export_fused(model, signature)
    assert "\n" not in str(caught.value)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def scaled_by_layer():
    config = TINY["gpt2"]()
    config.scale_attn_by_inverse_layer_idx = True
    config.scale_attn_weights = False
    config.tie_word_embeddings = False
    return config


def windows_in_some_layers():
    config = TINY["qwen2"]()
    config.update({"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1})
    config.layer_types = ["full_attention", "sliding_attention"]
    return config


def stretched_rope_and_biases():
    config = TINY["llama"]()
    config.update({"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False})
    config.rope_scaling = {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    return config


@pytest.mark.parametrize("config", [scaled_by_layer, windows_in_some_layers, stretched_rope_and_biases])
def test_variants_of_an_architecture_are_exact_too(config, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config()).eval()
    signature = signature_of(model)
    graph = export_fused(model, signature)
    prepare(graph, model, signature)
    ir.save(graph, tmp_path / "model.onnx")
    assert parity.check(tmp_path / "model.onnx", model, signature)


@pytest.mark.parametrize("length", [LONGROPE_SWITCH, LONGROPE_SWITCH + 1])
def test_long_rotary_factors_are_chosen_where_transformers_chooses_them(length):
    import torch

    model = tiny_model("phi3")
    rotary = model.model.rotary_emb
    hidden, positions = torch.zeros(1, length, 32), torch.arange(length)[None]
    expected = rotary(hidden, positions)
    with substituted(model):
        actual = rotary(hidden, positions)
    other = rotary(hidden, positions[:, :-1] if length > LONGROPE_SWITCH else torch.arange(length + 1)[None])
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
    assert not torch.equal(other[0][:, : length - 1], expected[0][:, : length - 1])


def test_every_layer_is_one_attention_node_and_little_else(exported):
    nodes = onnx.load(exported("gpt2").onnx_path).graph.node
    layers = TINY["gpt2"]().num_hidden_layers
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["GroupQueryAttention"] == layers
    assert sum(node.name.startswith("transformer.h.") for node in nodes) <= 16 * layers
    assert not kinds["Softmax"]
    assert kinds["Transpose"] == 1  # the tied lm_head's
    assert not [node.name for node in nodes if node.op_type == "Reshape" and node.name.startswith("transformer.h.")]


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "phi3"])
def test_rotation_is_one_node_for_query_and_one_for_key(exported, name):
    kinds = Counter(node.op_type for node in onnx.load(exported(name).onnx_path).graph.node)
    assert kinds["RotaryEmbedding"] == 2 * TINY[name]().num_hidden_layers
    assert not kinds["Neg"]
