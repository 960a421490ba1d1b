"""Finds the files that hold a graph's weights, from protobuf's wire format alone.

Neither onnx nor protobuf's classes are needed: an image that serves has no onnx, and a graph of two gigabytes is mapped
and not read. The field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), and
the encoding is https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
import posixpath
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from qexport.core.artifact import load_artifact
from qexport.core.errors import ContractError

if TYPE_CHECKING:
    from pathlib import Path

    from qexport.core.artifact import Artifact

_PARTS: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
"""The messages on the way to an entry of external data: each field's number, and the message in the field."""
_KEY, _VALUE = 1, 2
"""Field numbers of an entry."""
_LOCATION = b"location"
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types."""
_DEEPEST = 100
"""Protobuf's own limit of nested messages."""


def load_verified(path: Path) -> Artifact:
    """Read an artifact that somebody else may have made, and check it down to its graph.

    Raises:
        InputError: see :func:`qexport.core.artifact.load_artifact`.
        ContractError: a file was altered; or see :func:`require_own_data`.
    """
    artifact = load_artifact(path, verify=True)
    require_own_data(path, [info.path for info in artifact.manifest.files])
    return artifact


def require_own_data(folder: Path, named: Collection[str]) -> None:
    """Refuse graphs whose weights lie outside their folder's manifest, whatever digests say.

    Args:
        folder: the folder of an artifact or a deployment.
        named: the files of the manifest, relative to the folder.

    Raises:
        ContractError: a graph among the files cannot be read, or its weights lie in files that the manifest does not
            name.
    """
    for name in (name for name in named if name.endswith(".onnx")):
        file = folder / name
        try:
            locations = sorted(set(data_files(file)))
        except ValueError as error:
            raise ContractError(f"{file}: cannot be read as ONNX ({error}); make it again") from error
        for location in locations:
            if posixpath.normpath(posixpath.join(posixpath.dirname(name), location)) not in named:
                raise ContractError(
                    f"{file}: weights lie in {location[:80]}, which is no file of the manifest; make it again"
                )


def data_files(path: Path) -> Iterator[str]:
    """The locations that the tensors of a graph name, subgraphs and functions included.

    Raises:
        ValueError: the file is not in protobuf's wire format.
    """
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        waiting = [("Model", 0, len(content), 0)]
        while waiting:
            kind, begin, end, depth = waiting.pop()
            if depth > _DEEPEST:
                raise ValueError("its graphs are nested too deep")
            if kind == "Entry":
                yield from _location(content, begin, end)
                continue
            parts = _PARTS[kind]
            for field, first, last in _fields(content, begin, end):
                if field in parts:
                    waiting.append((parts[field], first, last, depth + 1))


def _location(content: mmap.mmap, begin: int, end: int) -> Iterator[str]:
    """The values of an entry whose key marks them as locations; both values if a field is there twice."""
    fields = [(field, content[first:last]) for field, first, last in _fields(content, begin, end)]
    if (_KEY, _LOCATION) in fields:
        yield from (value.decode(errors="replace") for field, value in fields if field == _VALUE)


def _fields(content: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message that have a length: the number of each field, and the beginning and end of its bytes."""
    place = begin
    while place < end:
        tag, place = _varint(content, place)
        field, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            size, place = _varint(content, place)
            yield field, place, place + size
            place += size
        elif wire == _VARINT:
            _, place = _varint(content, place)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"byte {place} begins no field")
        if place > end:
            raise ValueError(f"it is truncated at byte {end}")


def _varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    """A number of variable length, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError(f"it is truncated at byte {place}")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place
    raise ValueError(f"byte {place} ends no number")
