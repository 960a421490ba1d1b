"""The two model configurations, as messages of Triton's ``ModelConfig``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qexport.deployment.layouts.interface import Interface, Tensor
from qexport.deployment.layouts.triton.pbtxt import Message, Name

PAST, PRESENT = "past_key_values.", "present."
TYPES: Mapping[str, str] = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "INT64": "TYPE_INT64"}
"""Triton's names of ONNX's types."""
QUEUE_DELAY_US = 500
"""The longest wait, in microseconds, for requests of the same shape to form a batch."""
WARM_UP_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The facts about the graph's model that the generating model needs.

    Attributes:
        padding: the side on which shorter prompts of a batch are padded, ``left`` or ``right``.
        stop_ids: tokens that end an answer.
        context_length: the most tokens of a row, with new ones.
        tokenizer: True if a ``tokenizer.json`` is next to the model's code.
    """

    padding: str
    stop_ids: Sequence[int]
    context_length: int
    tokenizer: bool


def graph_config(name: str, interface: Interface, *, max_batch: int, gpu: bool, warm_up_tokens: int) -> Message:
    """The configuration of the graph. The ONNX Runtime backend wants exactly its inputs and outputs, none optional."""
    return {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": max_batch,
        "input": [_declared(name, tensor) for name, tensor in interface.inputs.items()],
        "output": [_declared(name, tensor) for name, tensor in interface.outputs.items()],
        "dynamic_batching": {"max_queue_delay_microseconds": QUEUE_DELAY_US},
        "instance_group": [{"count": 1, "kind": Name("KIND_GPU" if gpu else "KIND_CPU")}],
        "model_warmup": [
            _warm_up("prompt", interface, tokens=warm_up_tokens, past=0),
            _warm_up("step", interface, tokens=1, past=warm_up_tokens),
        ],
    }


def generate_config(name: str, model: str, interface: Interface, generation: Generation, *, max_batch: int) -> Message:
    """The configuration of greedy generation in the Python backend: a response for each token of the batch."""
    cache = {name: tensor for name, tensor in interface.inputs.items() if name.startswith(PAST)}
    parameters = {
        "model": model,
        "cache": json.dumps({name: [tensor.shape[1], tensor.shape[3]] for name, tensor in cache.items()}),
        "cache_type": TYPES[interface.cache.dtype],
        "position_ids": json.dumps("position_ids" in interface.inputs),
        "vocabulary": str(interface.outputs["logits"].shape[-1]),
        "max_batch": str(max_batch),
        "padding": generation.padding,
        "stop_ids": json.dumps(list(generation.stop_ids)),
        "context_length": str(generation.context_length),
    }
    inputs = [
        _field("input_ids", "TYPE_INT64", (-1, -1), optional=True),
        _field("attention_mask", "TYPE_INT64", (-1, -1), optional=True),
        _field("max_new_tokens", "TYPE_INT64", (1,)),
        _field("stop_ids", "TYPE_INT64", (-1,), optional=True),
    ]
    outputs = [_field("token_ids", "TYPE_INT64", (-1,))]
    if generation.tokenizer:
        inputs.append(_field("text_input", "TYPE_STRING", (-1,), optional=True))
        outputs.append(_field("text_output", "TYPE_STRING", (-1,)))
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": inputs,
        "output": outputs,
        "instance_group": [{"count": 1, "kind": Name("KIND_CPU")}],
        "parameters": [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()],
    }


def warm_up_files(tokens: int) -> Mapping[str, int]:
    """Files that the warm-up requests name, and the number of 64-bit values in each."""
    return {_ones(tokens): tokens, _ones(tokens + 1): tokens + 1}


def _declared(name: str, tensor: Tensor) -> Message:
    return _field(name, TYPES[tensor.dtype], tuple(dim if isinstance(dim, int) else -1 for dim in tensor.shape[1:]))


def _field(name: str, data_type: str, dims: Sequence[int], *, optional: bool = False) -> Message:
    field: Message = {"name": name, "data_type": Name(data_type), "dims": dims}
    return {**field, "optional": True} if optional else field


def _warm_up(name: str, interface: Interface, *, tokens: int, past: int) -> Message:
    """A request of one row. Its mask is all ones: with zeros alone, attention would have no position to attend to."""
    sizes = {"input_ids": (tokens,), "position_ids": (tokens,), "attention_mask": (past + tokens,)}
    inputs: list[Message] = []
    for key, tensor in interface.inputs.items():
        given: Message = {"input_data_file": _ones(past + tokens)} if key == "attention_mask" else {"zero_data": True}
        dims = sizes.get(key) or tuple(dim if isinstance(dim, int) else past for dim in tensor.shape[1:])
        inputs.append({"key": key, "value": {"data_type": Name(TYPES[tensor.dtype]), "dims": dims, **given}})
    return {"name": name, "batch_size": 1, "inputs": inputs}


def _ones(tokens: int) -> str:
    return f"ones-{tokens}"
