"""Names and shapes of a decoder graph's inputs and outputs: those of Optimum's exports, which stock clients expect."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexport.core import UnsupportedHere

if TYPE_CHECKING:
    from optimum.exporters.onnx import OnnxConfig
    from transformers import PreTrainedModel

Shape = tuple[int | str, ...]

BATCH = "batch_size"
SEQUENCE = "sequence_length"
PAST = "past_sequence_length"
TOTAL = "past_sequence_length + sequence_length"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The inputs and outputs of a decoder graph.

    Attributes:
        kv_heads: the number of key/value heads of each layer.
        head_dim: the size of one head, the same for keys and values.
        vocab: the number of columns of the logits.
        position_ids: True if positions are an input; else the graph counts them from the past's length.
    """

    kv_heads: tuple[int, ...]
    head_dim: int
    vocab: int
    position_ids: bool

    @property
    def layers(self) -> int:
        return len(self.kv_heads)

    @property
    def inputs(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"input_ids": (BATCH, SEQUENCE), "attention_mask": (BATCH, TOTAL)}
        if self.position_ids:
            shapes["position_ids"] = (BATCH, SEQUENCE)
        return shapes | self._cache("past_key_values", PAST)

    @property
    def outputs(self) -> dict[str, Shape]:
        return {"logits": (BATCH, SEQUENCE, self.vocab)} | self._cache("present", TOTAL)

    def _cache(self, name: str, length: str) -> dict[str, Shape]:
        return {
            f"{name}.{layer}.{part}": (BATCH, heads, length, self.head_dim)
            for layer, heads in enumerate(self.kv_heads)
            for part in ("key", "value")
        }


def signature_of(model: PreTrainedModel) -> Signature:
    """Read the signature from one forward pass of the model, and from Optimum's table of architectures.

    Raises:
        UnsupportedHere: keys and values have heads of different sizes.
    """
    import torch

    token = torch.zeros((1, 1), dtype=torch.int64)
    with torch.inference_mode():
        output = model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=True)
    keys = [layer[0] for layer in output.past_key_values]
    head_dims = {part.shape[3] for layer in output.past_key_values for part in layer[:2]}
    if len(head_dims) > 1:
        raise UnsupportedHere(
            f"{model.config.model_type}: heads of different sizes {sorted(head_dims)}; no exporter here can export them"
        )
    return Signature(
        kv_heads=tuple(key.shape[1] for key in keys),
        head_dim=keys[0].shape[3],
        vocab=output.logits.shape[2],
        position_ids=_takes_position_ids(model),
    )


def _takes_position_ids(model: PreTrainedModel) -> bool:
    """True if the graph takes positions: Optimum's choice for the architecture, which its clients follow."""
    config = optimum_config(model)
    if config is None:
        return "position_ids" in inspect.signature(model.forward).parameters
    return "position_ids" in config.inputs


def optimum_config(model: PreTrainedModel) -> OnnxConfig | None:
    """Optimum's description of the model as a decoder with past; None if Optimum does not know the architecture."""
    import optimum.exporters.onnx.model_configs  # noqa: F401  # fills the table of architectures
    from optimum.exporters.tasks import TasksManager

    try:
        make = TasksManager.get_exporter_config_constructor(
            "onnx", model, task="text-generation-with-past", library_name="transformers"
        )
    except (KeyError, ValueError):
        return None
    return make(model.config, use_past=True, use_past_in_inputs=True)
