"""The head of a GGUF file: metadata and the places of tensors, checked against the file's size before anything is made.

The layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: magic, version, number of
tensors, number of keys; the keys with their values; name, shape, type and offset of each tensor; padding; the tensors.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.core import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gguf import GGMLQuantizationType
    from numpy.typing import NDArray

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
"""Bytes that a tensor's offset is a multiple of, if ``general.alignment`` does not say another number."""
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALARS = ("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", None, None, "<u8", "<i8", "<f8")
"""numpy's name of each type of value, by its number in the file."""
_WAY_OUT = "download the file again"


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """One tensor; ``begin`` and ``end`` are byte offsets in the file."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    """In torch's order, the reverse of the file's."""
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A GGUF file whose head was checked."""

    path: Path
    values: Mapping[str, Any]
    """The metadata: numbers, texts, and lists of either."""
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The name of the architecture, which is also the first part of its keys."""
        return str(self.values.get("general.architecture", ""))

    def load(self, tensor: GgufTensor) -> NDArray[np.float32]:
        """The values of a tensor.

        Raises:
            InputError: the gguf package has no reader for the tensor's type, or a value is NaN or infinite.
        """
        import gguf

        rows, row = tensor.shape[:-1], tensor.shape[-1]
        bytes_a_row = (tensor.end - tensor.begin) // max(1, math.prod(rows))
        raw = np.memmap(self.path, mode="r", offset=tensor.begin, shape=(*rows, bytes_a_row), dtype=np.uint8)
        try:
            with np.errstate(all="ignore"):
                values = gguf.dequantize(raw, tensor.kind).reshape(*rows, row)
        except NotImplementedError as error:
            raise InputError(
                f"{self.path}: {shown(tensor.name)} has the type {tensor.kind.name}, which cannot be read; give a file in "
                "another quantization, such as Q8_0"
            ) from error
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.path}: {shown(tensor.name)} holds NaN or infinite values; use a file whose weights are finite"
            )
        return values


def is_gguf(path: Path) -> bool:
    """True if a file is meant to be GGUF, by its name or by its first bytes."""
    if path.suffix == ".gguf":
        return True
    try:
        with path.open("rb") as handle:
            return handle.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def read_gguf(path: Path) -> GgufFile:
    """Read and check the head of a GGUF file.

    Raises:
        InputError: the file is not GGUF, is truncated, or is a part of a model.
    """
    size = path.stat().st_size
    if size < _Head.SMALLEST:
        raise InputError(f"{path}: {size} bytes, too few for a GGUF file; {_WAY_OUT}")
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        file = _Head(path, data).read()
    _require_whole_model(file)
    return file


class _Head:
    """A place in a file that moves forward over the values that it reads."""

    SMALLEST = 24
    """Bytes of magic, version and the two counts."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def read(self) -> GgufFile:
        if self._take(4) != MAGIC:
            raise self._broken("not a GGUF file, it begins otherwise")
        version = self._number("<I")
        if not version & 0xFFFF:
            raise InputError(f"{self._path}: written for big-endian machines; give the little-endian file")
        if version not in _VERSIONS:
            raise InputError(
                f"{self._path}: version {version} of GGUF, which cannot be read; convert the model again with llama.cpp"
            )
        tensors, keys = self._number("<Q"), self._number("<Q")
        values: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text()
            if key in values:
                raise self._broken(f"has the key {shown(key)} twice")
            values[key] = self._value(self._number("<I"))
        return GgufFile(path=self._path, values=values, tensors=self._tensors(tensors, values))

    def _broken(self, fault: str) -> InputError:
        return InputError(f"{self._path}: {fault}; {_WAY_OUT}")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise self._broken(f"truncated, its head needs more than the {len(self._data)} bytes that it holds")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _text(self) -> str:
        raw = self._take(self._number("<Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._broken("holds a text that is not UTF-8") from error

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            return [self._text() for _ in range(count)] if inner == _STRING else self._scalars(inner, count)
        return self._scalars(kind, 1)[0]

    def _scalars(self, kind: int, count: int) -> list[Any]:
        form = _SCALARS[kind] if kind < len(_SCALARS) else None
        if form is None:
            raise self._broken(f"holds a value of the unknown type {kind}")
        values: list[Any] = np.frombuffer(self._take(np.dtype(form).itemsize * count), form).tolist()
        return values

    def _tensors(self, count: int, values: Mapping[str, Any]) -> dict[str, GgufTensor]:
        alignment = values.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._broken(f"general.alignment is {shown(str(alignment))}")
        infos = [self._tensor_info() for _ in range(count)]
        start = end = -(-self._at // alignment) * alignment
        found: dict[str, GgufTensor] = {}
        for name, shape, number, offset in infos:
            if start + offset != -(-end // alignment) * alignment:
                raise self._broken(f"{shown(name)} does not begin where the tensor before it ends")
            if name in found:
                raise self._broken(f"has the tensor {shown(name)} twice")
            found[name] = self._tensor(name, shape, number, start + offset)
            end = found[name].end
        if end > len(self._data):
            raise self._broken(f"truncated, its tensors need {end} bytes and it holds {len(self._data)}")
        return found

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._text(), self._number("<I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise self._broken(f"{shown(name)} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        return name, shape[::-1], self._number("<I"), self._number("<Q")

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, begin: int) -> GgufTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            kind = GGMLQuantizationType(number)
        except ValueError as error:
            raise InputError(
                f"{self._path}: {shown(name)} has the unknown tensor type {number}; give a file in another quantization, "
                "such as Q8_0"
            ) from error
        values_a_block, bytes_a_block = GGML_QUANT_SIZES[kind]
        if not math.prod(shape) or shape[-1] % values_a_block:
            raise self._broken(f"{shown(name)} has rows of {shape[-1]}, no multiple of {kind.name}'s {values_a_block}")
        return GgufTensor(
            name=name,
            kind=kind,
            shape=shape,
            begin=begin,
            end=begin + math.prod(shape) // values_a_block * bytes_a_block,
        )


def _require_whole_model(file: GgufFile) -> None:
    """Refuse a file that holds something else than one whole model.

    Raises:
        InputError: the file is a part of a split model, an adapter, a projector of images, or has no tensors.
    """
    kind = file.values.get("general.type", "model")
    if file.values.get("split.count", 0) > 1:
        number = file.values.get("split.no", 0) + 1
        raise InputError(
            f"{file.path}: part {number} of {file.values['split.count']} of a split model; join the parts with "
            "llama-gguf-split --merge"
        )
    if kind == "mmproj" or file.architecture == "clip":
        raise InputError(f"{file.path}: projects images for another model; give the file of the language model")
    if kind != "model":
        raise InputError(f"{file.path}: holds {shown(str(kind))}, not a model; give the file of the model")
    if not file.tensors:
        raise InputError(f"{file.path}: holds no tensors; give the file of the model")
