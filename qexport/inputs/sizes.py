"""Sizes of a model from its configuration and its weight files, before the model is built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.core import InputError, first_words
from qexport.inputs.leftovers import left_by_training
from qexport.inputs.pretrained import load_config
from qexport.inputs.weights import is_same_tensor, stored_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

_BYTES_A_WEIGHT = 2
"""Bytes of the smallest type of a weight that is not quantized."""


def parameter_count(folder: Path) -> int:
    """The number of weights of the model in ``folder``, from its configuration; tied weights count once."""
    return parameters_of(load_config(folder))


def parameters_of(config: PretrainedConfig) -> int:
    """The number of weights of a model with this configuration; tied weights count once."""
    return _count(without_weights(config))


def _count(model: PreTrainedModel) -> int:
    return sum(weight.numel() for weight in model.parameters())


def without_weights(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration on torch's meta device, where tensors have shapes but take no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    with torch.device("meta"):
        # The configuration may name a kind of attention that is not installed; attention has no weights of its own.
        model: PreTrainedModel = factory.from_config(config, attn_implementation="eager")
    model.tie_weights()
    return model


def require_like_weights(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a configuration that belongs to another model than the weight files, before memory is allocated for it.

    Raises:
        InputError: transformers cannot build the model, it has more layers or weights than the files hold, a weight has
            another shape, or the model ties weights that differ in the files.
    """
    place = folder / "config.json"
    config = load_config(folder)
    layers = getattr(config, "num_hidden_layers", None)
    shapes = stored_shapes(files)
    if isinstance(layers, int) and layers > len(shapes):
        raise InputError(
            f"{place}: names {layers} layers, and the weights are {len(shapes)} tensors; correct its sizes"
        )
    try:
        model = without_weights(config)
    except Exception as error:  # the checks of models raise errors without a common base
        raise InputError(
            f"{place}: transformers cannot build the model ({first_words(error)}); correct its values"
        ) from error
    held, needed = sum(file.stat().st_size for file in files) // _BYTES_A_WEIGHT, _count(model)
    if needed > held:
        way_out = left_by_training(folder) or "give the configuration that was saved with them"
        raise InputError(
            f"{place}: describes {needed:,} weights, and the weight files have room for {held:,}; {way_out}"
        )
    _require_shapes(place, model, shapes)
    _require_alike_where_tied(place, model, files, shapes)


def _require_shapes(place: Path, model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, weight in model.named_parameters():
        if name in shapes and shapes[name] != tuple(weight.shape):
            raise InputError(
                f"{place}: makes {name} {list(weight.shape)}, and in the weights it is {list(shapes[name])}; correct its "
                "sizes (vocab_size, hidden_size and their like), or give the one that was saved with the weights"
            )


def _require_alike_where_tied(
    place: Path, model: PreTrainedModel, files: Sequence[Path], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse tied weights that differ in the files: transformers keeps only one of them."""
    ties: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        bare = name.removeprefix(f"{model.base_model_prefix}.")  # old checkpoints hold the model without its head
        ties.setdefault(id(weight), []).extend(each for each in dict.fromkeys((name, bare)) if each in shapes)
    for first, *others in filter(None, ties.values()):
        for other in others:
            if not is_same_tensor(files, first, other):
                raise InputError(
                    f"{place}: ties {first} and {other} to each other, and in the weights they differ; set "
                    "tie_word_embeddings to false there"
                )
