"""Folders from a training that hold no model in transformers' layout, each with its way out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

_PREFIXES: Mapping[str, str] = {
    "_orig_mod.": "torch.compile's; save the model that it wraps (model._orig_mod)",
    "module.": "DataParallel's; save the model that it wraps (model.module)",
    "_fsdp_wrapped_module.": "FSDP's; save a full state dict",
    "base_model.model.": "peft's; merge the adapter (merge_and_unload) and save the merged model",
    "model._orig_mod.": "torch.compile's; save the model that it wraps (model._orig_mod)",
}
"""By the prefix that a wrapper adds to the names of all weights: the wrapper's name, and the way out."""

ADAPTERS = ("adapter_config.json", "adapter_model.*")
_ADAPTER = "holds an adapter, not a model; merge it (merge_and_unload in peft) and save the merged model"
_TOGETHER = "and give the result with config.json and the tokenizer"
_LEFT: Mapping[str, str] = {
    **dict.fromkeys(ADAPTERS, _ADAPTER),
    "zero_to_fp32.py": f"holds DeepSpeed's shards; run `python zero_to_fp32.py . OUTPUT --safe_serialization`, {_TOGETHER}",
    "global_step*": f"holds DeepSpeed's shards; put them together with DeepSpeed's zero_to_fp32.py, {_TOGETHER}",
    "pytorch_model_fsdp*": f"holds FSDP's shards; put them together with `accelerate merge-weights`, {_TOGETHER}",
    "*.gguf": "holds llama.cpp's GGUF, which is quantized already in most cases; give the original model",
    "consolidated*.pth": "holds weights in Meta's layout; give the same model in transformers' layout",
}
"""By a file or folder in it: the kind of the folder, and the way out. The first match is named."""


def left_by_training(folder: Path) -> str:
    """Name the content of a folder without a model's weights, and the way out; empty if it is unknown."""
    checkpoints = list(folder.glob("checkpoint-*/config.json"))
    if checkpoints:
        latest = max(checkpoints, key=lambda path: (_step(path.parent.name), path.parent.name)).parent
        return f"holds {len(checkpoints)} checkpoints, not a model; give one of these, such as {latest}"
    for pattern, words in _LEFT.items():
        if any(folder.glob(pattern)):
            return words
    if any(folder.glob("model-*-of-*.safetensors")):
        return "holds shards and no model.safetensors.index.json; copy the index there too"
    others = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("model"))
    if others:
        return f"holds {others[0]}, which transformers does not look for; rename it to model.safetensors if it is the model"
    return ""


def wrapper_of(missing: Collection[str], unused: Collection[str]) -> str:
    """Name the wrapper that the weights were saved with, and the way out; empty if the names show no wrapper.

    Args:
        missing: weights that the model has and the files lack.
        unused: weights that the files have and the model lacks.
    """
    for prefix, words in _PREFIXES.items():
        if unused and all(name.startswith(prefix) for name in unused):
            bare = {name.removeprefix(prefix) for name in unused}
            if bare & set(missing):
                return f"the names of its weights begin with {prefix}, which is {words}"
    return ""


def _step(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found.group()) if found else -1
