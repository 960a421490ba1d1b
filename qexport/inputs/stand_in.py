"""Stand-ins: an experiment's architecture with random weights, for machines that cannot hold or get the real model.

Memory, speed and the export are those of the architecture and its size. The text of such a model means nothing.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Literal

from qexport.core import InputError
from qexport.inputs.bundle import bundled
from qexport.inputs.pretrained import read_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from qexport.inputs.experiment import Experiment

Size = Literal["tiny", "medium", "full"]
"""``tiny``: 2 layers, width 64 or a little more, a context of at most 512, the vocabulary of the bundled tokenizer.
``medium``: 4 layers, about a quarter of the width, the real context and vocabulary.
``full``: the real shapes, in four bytes a weight.
"""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TINY_WIDTH = 64
TINY_HEADS = 4
TINY_CONTEXT = 512
_LAYERS = {"tiny": 2, "medium": 4}
_WIDTH_STEP = 32
"""Widths are multiples of the smallest block size of quantized weights."""

_INNER_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")


def make_stand_in(experiment: Experiment, folder: Path, *, size: Size = "tiny", seed: int = 0) -> Path:
    """Write a model folder with the experiment's architecture, seeded random weights and the bundled tokenizer.

    Every size keeps the ratio of heads to key-value heads, tied embeddings, and the kinds of attention and positions.
    The tokenizer gets a plain chat template.

    Args:
        experiment: the experiment, whose ``[architecture]`` holds the real model's shapes.
        folder: the output folder; made if it is missing; files with the same names are replaced.
        size: the size relative to the real shapes.
        seed: the seed; the same seed gives the same bytes of weights.

    Returns:
        The folder, in the layout of ``save_pretrained``.

    Raises:
        InputError: the architecture is missing, transformers does not know its model type, or no model can be built
                from its values.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer()
    config = stand_in_config(experiment, size=size)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # models raise errors without a common base
        raise _not_buildable(experiment.model, error) from error
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = config.max_position_embeddings
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(os.fspath(folder), safe_serialization=True)
    tokenizer.save_pretrained(os.fspath(folder))
    return folder


def stand_in_config(experiment: Experiment, *, size: Size = "tiny") -> Any:
    """The configuration of the experiment's stand-in; see :func:`make_stand_in` for the errors."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name, tokenizer = experiment.model, _tokenizer()
    if experiment.architecture is None:
        raise InputError(
            f"{name}: its experiment has no [architecture] to make a stand-in from; "
            "add one with the values of the model's config.json"
        )
    values = experiment.architecture.values
    kind = values["model_type"]
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"{name}: [architecture] names the model type {kind}, which this transformers does not know; correct it"
        )
    ids = {f"{which}_token_id": getattr(tokenizer, f"{which}_token_id") for which in ("bos", "eos", "pad")}
    try:
        real = _configure(values | ids)
        config = real if size == "full" else _configure(values | _smaller(real, values, len(tokenizer), size) | ids)
        vocabulary = config.vocab_size
    except Exception as error:  # the checks of configurations raise errors without a common base
        raise _not_buildable(name, error) from error
    if vocabulary < len(tokenizer):
        raise InputError(
            f"{name}: [architecture] has a vocabulary of {vocabulary}, and the bundled tokenizer {len(tokenizer)} "
            "tokens; give the real vocab_size"
        )
    return config


def _tokenizer() -> PreTrainedTokenizerBase:
    return read_tokenizer(bundled("models/reference"))


def _configure(values: dict[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    config: PretrainedConfig = AutoConfig.for_model(**values)
    return config


def _not_buildable(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return InputError(f"{name}: no model can be built from [architecture] ({reason}); correct its values")


def _smaller(real: Any, values: dict[str, Any], tokens: int, size: Literal["tiny", "medium"]) -> dict[str, Any]:
    """The values that differ from the real configuration, under the names in its class."""
    heads, kv_heads, width = _shape(real, size)
    layers = min(real.num_hidden_layers, _LAYERS[size])
    context = min(real.max_position_embeddings, TINY_CONTEXT) if size == "tiny" else real.max_position_embeddings
    head_width = getattr(real, "head_dim", None) or real.hidden_size // real.num_attention_heads
    changed: dict[str, Any] = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "max_position_embeddings": context,
        "vocab_size": tokens if size == "tiny" else real.vocab_size,
    }
    if getattr(real, "num_key_value_heads", None) is not None:
        changed["num_key_value_heads"] = kv_heads
    if getattr(real, "head_dim", None) is not None:
        changed["head_dim"] = width // heads
    for name in _INNER_WIDTHS:
        if isinstance(inner := getattr(real, name, None), int):
            changed[name] = max(_WIDTH_STEP, round(inner * width / real.hidden_size / _WIDTH_STEP) * _WIDTH_STEP)
    if isinstance(spread := getattr(real, "initializer_range", None), float):
        # A shorter sum needs larger terms, so that the logits vary about as much as in the real size.
        changed["initializer_range"] = spread * math.sqrt(real.hidden_size / width)
    if "layer_types" in values:
        changed["layer_types"] = values["layer_types"][:layers]
    changed |= _positions(real, values, context, head_scale=width // heads / head_width)
    renamed = {real.attribute_map.get(name, name): value for name, value in changed.items()}
    # An alias that stays among the values would override the class's own name.
    aliases = {alias: own for alias, own in real.attribute_map.items() if alias in values and own in renamed}
    return {alias: renamed[own] for alias, own in aliases.items()} | renamed


def _shape(real: Any, size: Literal["tiny", "medium"]) -> tuple[int, int, int]:
    """Heads, key-value heads and width: at most as large as in the real model, in the same ratio of heads."""
    kv_heads = getattr(real, "num_key_value_heads", None) or real.num_attention_heads
    group = real.num_attention_heads // kv_heads
    if size == "tiny":
        groups, target = math.ceil(TINY_HEADS / group), TINY_WIDTH
    else:
        groups, target = max(1, round(kv_heads / 4)), real.hidden_size // 4
    groups = min(groups, kv_heads)
    heads = groups * group
    step = math.lcm(_WIDTH_STEP, 8 * heads)
    width = max(1, round(target / step)) * step
    if width >= real.hidden_size:
        return real.num_attention_heads, kv_heads, real.hidden_size
    return heads, groups, width


def _positions(real: Any, values: dict[str, Any], context: int, *, head_scale: float) -> dict[str, Any]:
    """Sliding window and rotary settings that are valid for a shorter context and narrower heads."""
    changed: dict[str, Any] = {}
    shortened = context / real.max_position_embeddings
    if isinstance(window := getattr(real, "sliding_window", None), int):
        changed["sliding_window"] = max(8, int(window * shortened))
    trained = "original_max_position_embeddings"
    if isinstance(original := getattr(real, trained, None), int):
        changed[trained] = _trained_context(original, context, shortened)
    if isinstance(rope := values.get("rope_scaling"), dict):
        changed["rope_scaling"] = {
            key: _resampled(value, max(1, round(len(value) * head_scale)))
            if isinstance(value, list)
            else _trained_context(value, context, shortened)
            if key == trained
            else value
            for key, value in rope.items()
        }
    return changed


def _trained_context(original: int, context: int, shortened: float) -> int:
    """The length at which long rotary factors start: at most half the context, so that both kinds are reachable."""
    return original if shortened == 1 else min(original, context // 2)


def _resampled(values: list[Any], length: int) -> list[Any]:
    """A list of another length with the same first and last value, taken at even steps."""
    last = len(values) - 1
    return [values[round(index * last / max(1, length - 1))] for index in range(length)]
