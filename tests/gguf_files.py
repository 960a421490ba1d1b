"""Writes models of transformers as GGUF files, by the rules of llama.cpp's converter."""

from __future__ import annotations

import json

import numpy as np

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def decoder_keys(config) -> dict[str, object]:
    """The metadata of a gated decoder, without its architecture's name."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
        "rope.freq_base": float(config.rope_theta),
    }


def keys_of(config) -> dict[str, object]:
    if config.model_type == "gpt2":
        return {
            "block_count": config.n_layer,
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "feed_forward_length": 4 * config.n_embd,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        }
    more = {}
    if config.model_type == "gemma2":
        more["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        more["final_logit_softcapping"] = float(config.final_logit_softcapping)
    if config.model_type in {"gemma2", "phi3"}:
        more["attention.sliding_window"] = config.sliding_window or 0
    return decoder_keys(config) | more


def byte_level_keys(tokenizer, **more) -> dict[str, object]:
    """The metadata of a byte-level tokenizer."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = {token["content"] for token in state["added_tokens"]}
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "merges": [" ".join(pair) for pair in state["model"]["merges"]],
        "eos_token_id": tokenizer.eos_token_id,
        **more,
    }


def sentence_piece_keys(tokenizer, **more) -> dict[str, object]:
    """The metadata of a tokenizer with scores, as stories260K has one: the later a token, the lower its score."""
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": [float(min(0, 259 - number)) for number in range(len(tokens))],
        "token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259),
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def tensors_of(model) -> dict[str, np.ndarray]:
    """The weights of a model under the names, and in the order, of llama.cpp."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config = model.config
    (kind,) = (kind for kind, name in MODEL_ARCH_NAMES.items() if name == config.model_type)
    table = get_tensor_name_map(kind, config.num_hidden_layers)
    found = {}
    for name, weight in model.named_parameters():
        place, values = table.get_name(name, (".weight", ".bias")), weight.detach().float().numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", 0)}
        part = place.split(".")[-2]
        if config.model_type == "llama" and part in heads:
            halves = values.reshape(heads[part], 2, values.shape[0] // heads[part] // 2, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        if config.model_type == "gpt2" and place.startswith("blk.") and values.ndim == 2:
            values = values.T
        if config.model_type == "gemma2" and place.endswith("norm.weight"):
            values = values + 1
        found[place] = np.ascontiguousarray(values)
    return found


def save_gguf(path, architecture, keys, tokenizer, tensors, *, general=(), kinds=None):
    """Write a GGUF file.

    Args:
        path: the file.
        architecture: its name.
        keys: the metadata of the architecture, without its name.
        tokenizer: the metadata of the tokenizer, without ``tokenizer.ggml``; empty for none.
        tensors: by name; those of other types than float32 as their bytes.
        general: further keys, whole.
        kinds: the type of each tensor that is not float32.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    named = {f"{architecture}.{name}": value for name, value in keys.items()}
    named |= {f"tokenizer.ggml.{name}": value for name, value in tokenizer.items()} | dict(general)
    for name, value in named.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add.get(type(value), writer.add_string)(name, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values, raw_dtype=(kinds or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
