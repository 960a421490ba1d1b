"""Export through transformers' attention interface: every attention layer becomes one GroupQueryAttention node.

There are two forms, because the CUDA kernel takes no attention bias. With a bias, the bias carries the padding and
every row of the batch has the full length, so padding on either side is exact. Without a bias, each row's length is the
number of its real tokens, which must come first: padding belongs on the right. In both forms, a batch of more than one
row continues its past one token at a time on the CPU.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qexport.core import UnsupportedHere, quiet
from qexport.exporting.operators import attention_set, substituted
from qexport.exporting.scopes import WRAPPER
from qexport.exporting.signature import BATCH, PAST, SEQUENCE, Signature

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from transformers import PreTrainedModel

_ATTENTION = "qexport_group_query_attention"
OPSET = 20


def export_fused(model: PreTrainedModel, signature: Signature, *, bias: bool = True) -> ir.Model:
    """Trace ``model`` into an ONNX graph with one GroupQueryAttention node per layer.

    Args:
        model: a decoder on the CPU in fp32 whose attention goes through ``ALL_ATTENTION_FUNCTIONS``; it is restored
            afterwards.
        signature: the signature of the model.
        bias: True for the form with an attention bias.

    Raises:
        UnsupportedHere: the architecture's code does not go through the attention interface, or cannot be traced.
    """
    import torch

    attention = _Attention(bias=bias)
    inputs = _sample_inputs(signature)
    with (
        _explained(model, attention, signature),
        quiet(),
        torch.no_grad(),
        substituted(model),
        _registered(attention),
        attention_set(model, _ATTENTION),
    ):
        program = torch.onnx.export(
            _make_decoder(model, attention),
            kwargs=inputs,
            dynamic_shapes=_dynamic_shapes(signature),
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            opset_version=OPSET,
            optimize=False,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model


@contextlib.contextmanager
def _explained(model: PreTrainedModel, attention: _Attention, signature: Signature) -> Iterator[None]:
    """Say in one line that an architecture cannot be traced; torch needs hundreds of lines."""
    cause = None
    try:
        yield
    except Exception as error:  # noqa: BLE001  # tracing runs the model's code, which may raise anything
        cause = error
    if cause is not None or len(attention.present) != signature.layers:
        raise UnsupportedHere(
            f"{model.config.model_type}: torch cannot trace this architecture through transformers' attention "
            "interface; use --exporter optimum"
        ) from cause


class _Attention:
    """The attention function that transformers calls. The decoder first puts each call's shared tensors here."""

    past: list[tuple[torch.Tensor, torch.Tensor]]
    present: dict[int, tuple[torch.Tensor, torch.Tensor]]
    last_positions: torch.Tensor
    total: int
    total_length: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, *, bias: bool) -> None:
        self.has_bias = bias
        self.present = {}

    def prepare(self, attention_mask: torch.Tensor, sequence: int) -> None:
        """Compute the tensors that all layers share from a mask ``[batch, total]``."""
        import torch

        batch, total = attention_mask.shape
        self.total = total
        self.total_length = torch.scalar_tensor(total, dtype=torch.int32)
        if self.has_bias:
            self.last_positions = torch.full((batch,), total - 1, dtype=torch.int32)
            hidden = torch.where(attention_mask.to(torch.bool), 0.0, torch.finfo(torch.float32).min)
            self.bias = hidden[:, None, None, :].expand(batch, 1, sequence, total)
        else:
            self.last_positions = (attention_mask.sum(dim=1) - 1).to(torch.int32)
            self.bias = None

    def __call__(  # noqa: PLR0917  # the order is transformers'
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Emit the node: query [batch, heads, sequence, head_dim]; key and value have their own number of heads."""
        from torch.onnx.ops import symbolic_multi_out

        del attention_mask, kwargs  # `prepare` has used the mask already; the rest concerns training
        batch, heads, sequence, head_dim = query.shape
        kv_heads = key.shape[1]
        attributes: dict[str, Any] = {
            "num_heads": heads,
            "kv_num_heads": kv_heads,
            "scale": _scale(module, head_dim) if scaling is None else float(scaling),
        }
        if sliding_window is not None:
            attributes["local_window_size"] = sliding_window
        if softcap is not None:
            attributes["softcap"] = softcap
        past_key, past_value = self.past[module.layer_idx]
        cache_shape = (batch, kv_heads, self.total, head_dim)
        output, present_key, present_value = symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            [
                *(t.transpose(1, 2).reshape(batch, sequence, t.shape[1] * head_dim) for t in (query, key, value)),
                past_key,
                past_value,
                self.last_positions,
                self.total_length,
                # The inputs between are tables of angles and positions, for rotation inside the operator.
                *([] if self.bias is None else [None, None, None, self.bias]),
            ],
            attributes,
            dtypes=[query.dtype] * 3,
            shapes=[(batch, sequence, heads * head_dim), cache_shape, cache_shape],
            version=1,
        )
        self.present[module.layer_idx] = (present_key, present_value)
        return output.reshape(batch, sequence, heads, head_dim), None


def _scale(module: Any, head_dim: int) -> float:
    """The scale of attention scores. GPT-2 passes no scaling: its eager attention reads two switches instead."""
    scale = 1 / math.sqrt(head_dim) if getattr(module, "scale_attn_weights", True) else 1.0
    return scale / (module.layer_idx + 1) if getattr(module, "scale_attn_by_inverse_layer_idx", False) else scale


class _NewTokensOnly:
    """A cache for transformers whose ``update`` returns the new keys and values: the node appends them itself."""

    is_compileable = False
    is_sliding: tuple[bool, ...] = ()

    def __init__(self, past: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._past = past

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._past[layer_idx][0].shape[2]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        del layer_idx, cache_kwargs
        return key, value


def _make_decoder(model: PreTrainedModel, attention: _Attention) -> torch.nn.Module:
    """A module over flat tensors, in the signature's order."""
    import torch

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, WRAPPER, model)

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            position_ids: torch.Tensor | None = None,
            *,
            past: list[torch.Tensor],
        ) -> tuple[torch.Tensor, ...]:
            attention.past = list(zip(past[::2], past[1::2], strict=True))
            attention.present = {}
            attention.prepare(attention_mask, input_ids.shape[1])
            positions = {} if position_ids is None else {"position_ids": position_ids}
            output = getattr(self, WRAPPER)(
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=_NewTokensOnly(attention.past),
                use_cache=True,
                **positions,
            )
            present = [attention.present[layer] for layer in sorted(attention.present)]
            return output.logits, *(tensor for pair in present for tensor in pair)

    return Decoder().eval()


def _dynamic_shapes(signature: Signature) -> dict[str, Any]:
    """The dimensions that vary. The mask's length is a dimension of its own: a sum of dimensions cannot be declared."""
    from torch.export import Dim

    batch, sequence, past = Dim(BATCH), Dim(SEQUENCE), Dim(PAST)
    shapes: dict[str, Any] = {
        "input_ids": {0: batch, 1: sequence},
        "attention_mask": {0: batch, 1: Dim.DYNAMIC},
    }
    if signature.position_ids:
        shapes["position_ids"] = {0: batch, 1: sequence}
    return shapes | {"past": [{0: batch, 2: past}] * (2 * signature.layers)}


def _sample_inputs(signature: Signature) -> dict[str, Any]:
    """Tensors to trace with. All lengths differ and none is 0 or 1, which the tracer would treat as constants."""
    import torch

    batch, sequence, past = 2, 3, 5
    inputs: dict[str, Any] = {
        "input_ids": torch.zeros((batch, sequence), dtype=torch.int64),
        "attention_mask": torch.ones((batch, past + sequence), dtype=torch.int64),
    }
    if signature.position_ids:
        inputs["position_ids"] = torch.arange(past, past + sequence).repeat(batch, 1)
    inputs["past"] = [
        torch.zeros((batch, heads, past, signature.head_dim)) for heads in signature.kv_heads for _ in ("key", "value")
    ]
    return inputs


@contextlib.contextmanager
def _registered(attention: _Attention) -> Iterator[None]:
    """Register the attention function with transformers; without a mask function of its name, no mask is built."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS[_ATTENTION] = attention
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[_ATTENTION]
