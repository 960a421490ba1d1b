"""Building blocks of transformers in a form that torch.onnx turns into few operators, for the duration of an export."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from qexport.inputs import Architecture

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_ROTARY = "apply_rotary_pos_emb"
"""The function's name in every modeling file of transformers that has one."""


@contextlib.contextmanager
def attention_set(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Make the model use the attention function that transformers knows as ``name``."""
    before = model.config._attn_implementation  # noqa: SLF001  # there is no public way to read it
    model.config._attn_implementation = name  # noqa: SLF001
    try:
        yield
    finally:
        model.config._attn_implementation = before  # noqa: SLF001


@contextlib.contextmanager
def substituted(model: PreTrainedModel) -> Iterator[None]:
    """Make the model's modules use the functions below while the ``with`` lasts."""
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            forward = _substitute(module)
            if forward is not None:
                module.forward = forward
                stack.callback(delattr, module, "forward")
        for namespace in {sys.modules[type(module).__module__] for module in model.modules()}:
            if hasattr(namespace, _ROTARY):
                stack.callback(setattr, namespace, _ROTARY, getattr(namespace, _ROTARY))
                setattr(namespace, _ROTARY, _apply_rotary)
        yield


def _substitute(module: torch.nn.Module) -> Callable[..., Any] | None:
    from transformers.activations import NewGELUActivation

    if isinstance(module, NewGELUActivation):
        return _gelu_tanh
    if getattr(module, "rope_type", None) == "longrope":
        return _longrope(module)
    return None


def _gelu_tanh(hidden: torch.Tensor) -> torch.Tensor:
    """The tanh form of GELU, which transformers spells out in eight operations."""
    import torch

    return torch.nn.functional.gelu(hidden, approximate="tanh")


def _longrope(module: Any) -> Callable[..., Any]:
    """Rotary angles whose factors are chosen in the graph.

    transformers chooses them with an ``if`` on the largest position of the whole batch: the long ones from
    ``original_max_position_embeddings`` on. Here the same condition becomes a select.
    """
    import torch

    switch = Architecture.of(module.config.to_dict()).longrope_switch
    assert switch is not None, "transformers itself says that this is longrope"
    short = module.original_inv_freq
    long, _ = module.rope_init_fn(module.config, short.device, seq_len=switch + 1)
    plain = inspect.unwrap(type(module).forward)

    def forward(hidden: torch.Tensor, position_ids: torch.Tensor) -> Any:
        inv_freq = torch.where(position_ids.max() + 1 > switch, long, short)
        return plain(
            SimpleNamespace(inv_freq=inv_freq, attention_scaling=module.attention_scaling), hidden, position_ids
        )

    return forward


def _apply_rotary(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *_unused: Any, **_also_unused: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate query and key [batch, heads, sequence, head_dim] by angles [batch or 1, sequence, rotary_dim].

    The operator wants a table of angles by position: each token has its own row in it.
    """
    import torch

    rows, sequence, rotary_dim = cos.shape
    half = rotary_dim // 2  # the second half of the angles repeats the first
    table = [angles[:, :, :half].reshape(rows * sequence, half) for angles in (cos, sin)]
    row_of = torch.arange(rows * sequence).reshape(rows, sequence).expand(query.shape[0], sequence)
    return _rotate(query, row_of, table, rotary_dim), _rotate(key, row_of, table, rotary_dim)


def _rotate(states: torch.Tensor, row_of: torch.Tensor, table: list[torch.Tensor], rotary_dim: int) -> torch.Tensor:
    from torch.onnx.ops import symbolic

    batch, heads, sequence, head_dim = states.shape
    flat = states.transpose(1, 2).reshape(batch, sequence, heads * head_dim)
    rotated = symbolic(
        "com.microsoft::RotaryEmbedding",
        [flat, row_of, *table],
        {"num_heads": heads, "rotary_embedding_dim": rotary_dim if rotary_dim < head_dim else 0},
        dtype=states.dtype,
        shape=flat.shape,
        version=1,
    )
    return rotated.reshape(batch, sequence, heads, head_dim).transpose(1, 2)
