"""Models with activation outliers that compute what they computed before: a few channels of every norm are scaled up and
the columns of the linear layers that read them scaled down, as large language models have them (LLM.int8(), SmoothQuant)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SMALLEST, LARGEST = 50.0, 200.0
"""Between these a channel is scaled up."""


def inject(model: PreTrainedModel, *, channels: int = 3, seed: int = 0) -> int:
    """Scale ``channels`` channels of every norm that only linear layers read; returns how many norms those are.

    A norm that feeds a head tied to the embedding is left alone: the table cannot change without the embedding.
    """
    import torch

    rng = np.random.default_rng(seed)
    pairs = _readers(model)
    with torch.no_grad():
        for norm, linears in pairs:
            chosen = torch.from_numpy(rng.choice(norm.weight.numel(), channels, replace=False))
            factors = torch.from_numpy(rng.uniform(SMALLEST, LARGEST, channels)).float()
            plus = 1.0 if "Gemma" in type(norm).__name__ else 0.0  # Gemma's norms multiply by 1 + weight
            norm.weight[chosen] = (norm.weight[chosen] + plus) * factors - plus
            if getattr(norm, "bias", None) is not None:
                norm.bias[chosen] *= factors
            for linear in linears:
                if isinstance(linear, torch.nn.Linear):
                    linear.weight[:, chosen] /= factors
                else:  # transformers' Conv1D: [in, out]
                    linear.weight[chosen] /= factors[:, None]
    return len(pairs)


def save_outlier_twin(source: Path, target: Path, *, channels: int = 3, seed: int = 0) -> Path:
    """Save a model folder again with outliers injected, its tokenizer beside it; returns the folder."""
    import shutil

    from transformers import AutoModelForCausalLM

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    model = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
    assert inject(model, channels=channels, seed=seed)
    model.save_pretrained(target)
    return target


def _readers(model: PreTrainedModel) -> list[tuple[Any, list[Any]]]:
    """Each norm with the linear layers that are given its output, seen in a run of two tokens."""
    import torch
    from transformers.pytorch_utils import Conv1D

    outputs: list[tuple[Any, torch.Tensor, list[Any]]] = []

    def note(norm: Any, _given: Any, output: torch.Tensor) -> None:
        outputs.append((norm, output, []))

    def match(linear: Any, given: Any) -> None:
        for _, output, linears in outputs:
            if given[0].data_ptr() == output.data_ptr():  # heads are given a view of it
                linears.append(linear)

    handles = []
    for module in model.modules():
        if "Norm" in type(module).__name__:
            handles.append(module.register_forward_hook(note))
        elif isinstance(module, torch.nn.Linear | Conv1D):
            handles.append(module.register_forward_pre_hook(match))
    with torch.no_grad():
        model(torch.tensor([[1, 2]]))
    for handle in handles:
        handle.remove()
    table = model.get_input_embeddings().weight
    return [
        (norm, linears)
        for norm, _, linears in outputs
        if linears and all(linear.weight is not table for linear in linears)
    ]
