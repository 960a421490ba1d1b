"""The tensors of a GGUF file as safetensors, one at a time, so that memory holds one of them and not the model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.core import InputError, first_words, progress, shown
from qexport.inputs.gguf.architectures import ROPE_FACTORS, architecture_of
from qexport.inputs.sizes import without_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel

    from qexport.inputs.gguf.file import GgufFile, GgufTensor

_ITEM_BYTES: Mapping[str, int] = {"F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A tensor of a GGUF file, and the weight of transformers that it becomes."""

    tensor: GgufTensor
    name: str
    shape: tuple[int, ...]
    """The weight's; with ``turned`` the tensor has the reverse."""
    turned: bool

    @property
    def dtype(self) -> str:
        """The type in safetensors: float32 holds the values of all quantized types exactly, float16 does not.

        Vectors become float32 in any case, since :attr:`GgufArchitecture.restore` may compute with them.
        """
        kind = self.tensor.kind.name
        return kind if kind in _ITEM_BYTES and len(self.shape) > 1 else "F32"


def place_tensors(file: GgufFile, config: PretrainedConfig) -> list[Placed]:
    """Find the weight of transformers for each tensor of a file.

    Args:
        file: the GGUF file.
        config: the configuration of its model.

    Raises:
        InputError: the file lacks a tensor of the model, has one that the model does not, or one of another shape.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    layers = config.num_hidden_layers
    if not 0 < layers <= len(file.tensors):
        raise InputError(
            f"{file.path}: {len(file.tensors)} tensors cannot make {layers} layers; download the file again"
        )
    (kind,) = (kind for kind, name in MODEL_ARCH_NAMES.items() if name == file.architecture)
    table = get_tensor_name_map(kind, layers)
    placed, turned = [], architecture_of(file).inputs_first
    for name, weight in _model(file, config).named_parameters():
        tensor = file.tensors.get(table.get_name(name, (".weight", ".bias")) or "")
        if tensor is None:
            raise InputError(f"{file.path}: has no tensor for {name}; download the file again")
        each = Placed(
            tensor=tensor, name=name, shape=tuple(weight.shape), turned=turned and tensor.name.startswith("blk.")
        )
        expected = each.shape[::-1] if each.turned else each.shape
        if tensor.shape != expected:
            raise InputError(
                f"{file.path}: {shown(tensor.name)} is {list(tensor.shape)}, and the metadata makes it {list(expected)}; "
                "download the file again"
            )
        placed.append(each)
    unused = file.tensors.keys() - {each.tensor.name for each in placed} - {ROPE_FACTORS}
    if unused:
        raise InputError(
            f"{file.path}: {len(unused)} tensors would be left out, among them {shown(min(unused))}; give the model's "
            "folder in the Hugging Face layout"
        )
    return placed


def write_weights(file: GgufFile, placed: list[Placed], settings: Mapping[str, Any], path: Path) -> None:
    """Write the tensors of a GGUF file as safetensors.

    Args:
        file: the GGUF file.
        placed: its tensors, from :func:`place_tensors`.
        settings: the settings of the model's configuration.
        path: the safetensors file to write.

    Raises:
        InputError: a tensor cannot be read, or has values that are not finite.
    """
    restore = architecture_of(file).restore
    with path.open("wb") as handle, progress.task("reading GGUF", total=len(placed)) as advance:
        handle.write(_header(placed))
        for each in placed:
            values = file.load(each.tensor)
            handle.write(_stored(restore(each.tensor.name, values.T if each.turned else values, settings), each.dtype))
            advance()


def _model(file: GgufFile, config: PretrainedConfig) -> PreTrainedModel:
    try:
        return without_weights(config)
    except Exception as error:  # the checks of models raise errors without a common base
        raise InputError(
            f"{file.path}: transformers cannot build the model ({first_words(error)}); download the file again"
        ) from error


def _header(placed: list[Placed]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for each in placed:
        begin, end = end, end + math.prod(each.shape) * _ITEM_BYTES[each.dtype]
        header[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw


def _stored(weights: NDArray[np.float32], dtype: str) -> memoryview:
    stored: NDArray[Any] = np.ascontiguousarray(weights, dtype="<f4")
    if dtype == "F16":
        stored = stored.astype("<f2")
    if dtype == "BF16":  # the upper half of a float32
        stored = (stored.view("<u4") >> 16).astype("<u2")
    return stored.data
