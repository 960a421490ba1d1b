"""Sizes of a model by its configuration, and by its weight files, before anything is built from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.errors import InputError, first_words
from qexport.inputs.pretrained import load_config
from qexport.inputs.weights import read_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PretrainedConfig, PreTrainedModel

_BYTES_A_WEIGHT = 2
"""Of the smallest type of a weight that is not quantized."""
_MOST_LAYERS = 10_000
"""Of pickled weights, whose tensors are not counted before they are read."""


def parameter_count(folder: Path) -> int:
    """Number of weights of the model whose configuration lies in ``folder``, tied ones counted once."""
    return parameters_of(load_config(folder))


def parameters_of(config: PretrainedConfig) -> int:
    """Number of weights of a model of this configuration, tied ones counted once."""
    return sum(weight.numel() for weight in without_weights(config).parameters())


def without_weights(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration on torch's meta device, where tensors have shapes and take no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    with torch.device("meta"):
        # Another kind of attention may be named that is not installed; it has no weights of its own.
        model: PreTrainedModel = factory.from_config(config, attn_implementation="eager")
    model.tie_weights()
    return model


def require_like_weights(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a configuration of another model than the weight files are of, before memory is taken for its weights.

    Raises:
        InputError: transformers cannot build the model, or it has more layers or weights than the files hold.
    """
    place = folder / "config.json"
    config = load_config(folder)
    layers = getattr(config, "num_hidden_layers", None)
    tensors = _tensors(files)
    if isinstance(layers, int) and layers > tensors:
        raise InputError(f"{place}: names {layers} layers, and the weights are {tensors} tensors; correct its sizes")
    try:
        needed = parameters_of(config)
    except Exception as error:  # what a model's own checks raise has no common base
        raise InputError(
            f"{place}: transformers cannot build the model ({first_words(error)}); correct its values"
        ) from error
    held = sum(file.stat().st_size for file in files) // _BYTES_A_WEIGHT
    if needed > held:
        raise InputError(
            f"{place}: describes {needed:,} weights, and the weight files have room for {held:,}; "
            "give the configuration that was saved with them"
        )


def _tensors(files: Sequence[Path]) -> int:
    if any(file.suffix != ".safetensors" for file in files):
        return _MOST_LAYERS
    return sum(len(read_header(file)[1]) for file in files)
