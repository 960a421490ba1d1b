"""The architectures of GGUF that qexport reads, each with its configuration and the changes that llama.cpp made to weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexport.core import InputError, near_names, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qexport.inputs.gguf.file import GgufFile

    Weights = NDArray[np.float32]

_DECODER = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_GPT2 = {
    "block_count": "n_layer",
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_OPTIONAL = {"attention.head_count_kv": "num_key_value_heads", "rope.freq_base": "rope_theta"}
_HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
"""Keys that must agree: transformers has one size for all three."""
_WITHOUT_EFFECT = ("vocab_size", "tensor_data_layout")
"""Keys that repeat the tensors' shapes, or name an order of weights that all readers of these architectures expect."""
_NEUTRAL: Mapping[str, object] = {"rope.scaling.type": "none", "expert_count": 0, "expert_used_count": 0}
"""Keys for parts that qexport does not read, with the value that says that the model is without the part."""

_ROPE_THETA = 10000.0
"""llama.cpp's value for a file that names none."""
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The rotary angles of Llama 3.1 and later, of which a GGUF file holds only the factors that follow from them."""


def _unchanged(_name: str, weights: Weights, _config: Mapping[str, Any]) -> Weights:
    return weights


def _rotated_in_halves(name: str, weights: Weights, config: Mapping[str, Any]) -> Weights:
    """Queries and keys in the order of transformers: llama.cpp rotates neighbours, transformers the halves of a head."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return weights
    pairs = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weights.shape)


def _around_zero(name: str, weights: Weights, _config: Mapping[str, Any]) -> Weights:
    """Gemma adds one to the weights of its norms; llama.cpp has added it already."""
    return weights - 1 if name.endswith("norm.weight") else weights


def _none(_config: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _no_window_of_zero(config: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp writes zero for a model without a sliding window."""
    return {"sliding_window": config.get("sliding_window") or None}


def _gemma2_scale(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scale of the attention, which llama.cpp takes from the sizes: the 27B model alone has another."""
    by_width = config["hidden_size"] // config["num_attention_heads"]
    return {"query_pre_attn_scalar": by_width if config["num_hidden_layers"] == 46 else config["head_dim"]}


@dataclass(frozen=True, kw_only=True)
class GgufArchitecture:
    """The way from a GGUF file of one architecture to a model of transformers."""

    model_type: str
    keys: Mapping[str, str]
    """Keys of the configuration by the keys of the file, which must all be there."""
    optional: Mapping[str, str]
    inputs_first: bool = False
    """True if the matrices of transformers' layers have a row for each input, where the file has one for each output."""
    restore: Callable[[str, Weights, Mapping[str, Any]], Weights] = _unchanged
    """Undoes the changes that llama.cpp's converter makes to a tensor, given its name in the file."""
    derive: Callable[[Mapping[str, Any]], dict[str, Any]] = _none
    """Further settings that follow from the others."""


ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "gpt2": GgufArchitecture(model_type="gpt2", keys=_GPT2, optional={}, inputs_first=True),
    "llama": GgufArchitecture(model_type="llama", keys=_DECODER, optional=_OPTIONAL, restore=_rotated_in_halves),
    "qwen2": GgufArchitecture(model_type="qwen2", keys=_DECODER, optional=_OPTIONAL),
    "qwen3": GgufArchitecture(model_type="qwen3", keys=_DECODER, optional=_OPTIONAL),
    "phi3": GgufArchitecture(
        model_type="phi3",
        keys=_DECODER,
        optional={
            **_OPTIONAL,
            "attention.sliding_window": "sliding_window",
            "rope.scaling.original_context_length": "original_max_position_embeddings",
        },
        derive=_no_window_of_zero,
    ),
    "gemma2": GgufArchitecture(
        model_type="gemma2",
        keys={
            **_DECODER,
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
            "attention.sliding_window": "sliding_window",
        },
        optional=_OPTIONAL,
        restore=_around_zero,
        derive=_gemma2_scale,
    ),
}
"""By the name in the file. Only those that tests compare with transformers, weight by weight."""

EMBEDDING, OUTPUT, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"


def architecture_of(file: GgufFile) -> GgufArchitecture:
    """The row of :data:`ARCHITECTURES` for a file.

    Raises:
        InputError: the file names no architecture, or one that qexport does not read.
    """
    if not file.architecture:
        raise InputError(f"{file.path}: names no architecture; convert the model again with llama.cpp")
    found = ARCHITECTURES.get(file.architecture)
    if found is None:
        raise InputError(
            f"{file.path}: qexport reads no GGUF of the architecture {shown(file.architecture)} "
            f"({near_names(file.architecture, ARCHITECTURES)}); give the model's folder in the Hugging Face layout"
        )
    return found


def config_values(file: GgufFile) -> dict[str, Any]:
    """The arguments of ``AutoConfig.for_model`` that describe the model of a file.

    Raises:
        InputError: a key is missing, or has a meaning that would be lost.
    """
    kind = architecture_of(file)
    own = {
        key.removeprefix(f"{file.architecture}."): value
        for key, value in file.values.items()
        if key.startswith(f"{file.architecture}.")
    }
    values: dict[str, Any] = {"model_type": kind.model_type, "rope_theta": _ROPE_THETA}
    for key, name in {**kind.keys, **kind.optional}.items():
        if key in own:
            values[name] = own[key]
        elif key in kind.keys:
            raise InputError(
                f"{file.path}: has no key {file.architecture}.{key}; convert the model again with llama.cpp"
            )
    for key, value in own.items():
        known = key in kind.keys or key in kind.optional or key in _HEAD_SIZES or key in _WITHOUT_EFFECT
        if not known and _NEUTRAL.get(key, _LOST) != value:
            raise _lost(file, f"{file.architecture}.{key} = {value}")
    if EMBEDDING not in file.tensors:
        raise InputError(f"{file.path}: has no tensor {EMBEDDING}; give the file of a language model")
    values["vocab_size"] = file.tensors[EMBEDDING].shape[0]
    values["tie_word_embeddings"] = OUTPUT not in file.tensors
    if kind.keys is _GPT2:
        del values["rope_theta"]
        return values | kind.derive(values)
    heads, width = values["num_attention_heads"], values["hidden_size"]
    if not all(isinstance(size, int) and size > 0 for size in (heads, width)):
        raise _lost(file, f"{file.architecture}.attention.head_count = {heads}")
    values.setdefault("num_key_value_heads", heads)
    values["head_dim"] = own.get("attention.key_length", width // heads)
    other = next((key for key in _HEAD_SIZES if own.get(key, values["head_dim"]) != values["head_dim"]), None)
    if other is not None:
        raise _lost(file, f"{file.architecture}.{other} = {own[other]} with heads of {values['head_dim']}")
    if ROPE_FACTORS in file.tensors:
        values["rope_scaling"] = _rope_scaling(file, values)
    return values | kind.derive(values)


_LOST = object()


def _lost(file: GgufFile, setting: str) -> InputError:
    return InputError(
        f"{file.path}: {shown(setting)}, which qexport cannot carry over; give the model's folder in the Hugging Face layout"
    )


def _rope_scaling(file: GgufFile, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of Llama 3.1's rotary angles, if the factors in the file follow from them.

    Raises:
        InputError: the factors are others.
    """
    import numpy as np

    factors = file.load(file.tensors[ROPE_FACTORS])
    factor = float(factors.max())
    frequencies = values["rope_theta"] ** (-np.arange(0, values["head_dim"], 2) / values["head_dim"])
    turns = _LLAMA3["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    share = (turns - _LLAMA3["low_freq_factor"]) / (_LLAMA3["high_freq_factor"] - _LLAMA3["low_freq_factor"])
    share = np.clip(share, 0.0, 1.0)
    expected = 1 / ((1 - share) / factor + share)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise _lost(file, f"{ROPE_FACTORS} has other factors than Llama 3.1")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
