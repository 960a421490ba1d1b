"""onnxruntime-genai: ``genai_config.json`` next to the model.

The format is documented at https://onnxruntime.ai/docs/genai/reference/config.html. onnxruntime-genai pads batches on
the right and treats tokens at the end of a row that equal ``pad_token_id`` as padding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.core import ONNX_NAME, Artifact
from qexport.deployment.layouts.device import runs_on_gpu
from qexport.deployment.layouts.files import copy_model, copy_side_files
from qexport.deployment.layouts.interface import Interface, read_interface
from qexport.deployment.layouts.layout import Laid, Layout, Request
from qexport.deployment.layouts.padding import right_only
from qexport.deployment.layouts.tokenizer import settle
from qexport.inputs import Architecture, load_config, load_tokenizer, source_of, stop_ids

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG = "genai_config.json"
_DECODER = "decoder"
"""The type for decoders in general. Of the named types, ``gpt2`` wants keys and values in one tensor, and others have
special behaviour."""


def check(artifact: Artifact) -> None:
    """Accept every artifact: onnxruntime-genai runs all that ONNX Runtime runs."""
    del artifact


def write(request: Request, folder: Path) -> Laid:
    """Write the artifact's files, the completed tokenizer files, and the configuration."""
    (artifact,) = request.artifacts
    copy_side_files(artifact, folder)
    copy_model(artifact, folder / ONNX_NAME)
    changes = settle(artifact, folder)
    config = _config(artifact, read_interface(artifact.onnx_path))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    told = "written for onnxruntime-genai"
    if (context := config["model"]["context_length"]) < source_of(artifact).context_length:
        told += f"; context_length is the sliding window's {context}, beyond which padded batches would be wrong"
    return Laid(models=(ONNX_NAME,), changes=changes | {CONFIG: told})


def _config(artifact: Artifact, interface: Interface) -> dict[str, Any]:
    config = load_config(artifact.path)
    context = _context_length(artifact, config)
    tokenizer = load_tokenizer(source_of(artifact))
    stops = list(stop_ids(artifact.path, tokenizer))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(stops), 0)
    model = {
        "type": _DECODER,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else padding,
        "eos_token_id": stops,
        "pad_token_id": padding,
        "context_length": context,
        "vocab_size": interface.outputs["logits"].shape[2],
        "decoder": _decoder(artifact, config, interface),
    }
    search = {"do_sample": False, "max_length": context, "past_present_share_buffer": False}
    return {"model": model, "search": search}


def _context_length(artifact: Artifact, config: PretrainedConfig) -> int:
    """The model's context length, or its sliding window, which padding between prompt and new tokens would fill.

    Graphs that take their lengths by row ignore the padding.
    """
    length = source_of(artifact).context_length
    window = None if right_only(artifact) else Architecture.of(config.to_dict()).sliding_window
    return length if window is None else min(length, window)


def _decoder(artifact: Artifact, config: PretrainedConfig, interface: Interface) -> dict[str, Any]:
    _, kv_heads, _, head_size = interface.cache.shape
    named = {name: name for name in interface.inputs if not name.startswith("past_key_values.")}
    return {
        "session_options": {
            "log_id": "onnxruntime-genai",
            "provider_options": [{"cuda": {}}] if runs_on_gpu(artifact) else [],
        },
        "filename": ONNX_NAME,
        "head_size": head_size,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": interface.layers,
        "num_key_value_heads": kv_heads,
        "inputs": named | {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }


LAYOUT = Layout(runtime="onnxruntime-genai", check=check, write=write, proved={"onnxruntime-genai": "0.18.0"})
