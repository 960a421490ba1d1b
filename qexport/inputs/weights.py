"""Checks the form of weight files, and that their values are finite, before a library reads them.

The safetensors layout (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length of the header,
the header as JSON (tensor name -> ``dtype``, ``shape``, ``data_offsets`` into the data), then the tensors without gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qexport.core import InputError, progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch

CHUNK_BYTES = 1 << 24
MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
_EXPONENT = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000), "F64": ("<u8", 0x7FF0 << 48)}
"""Unsigned view and exponent bits of each floating type: in NaN and infinity all of these bits are set."""

_BUFFER = re.compile(
    r"(.*\.)?((attn|attention)\.(bias|masked_bias)|position_ids|num_batches_tracked|rotary_emb\.inv_freq)"
)
"""Constants that old checkpoints store with the weights (causal masks, positions); transformers ignores them."""

_WAY_OUT = "download or save the model again"


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of a safetensors header; ``begin`` and ``end`` are byte offsets from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> tuple[int, tuple[TensorEntry, ...]]:
    """Read and check a safetensors header.

    Returns:
        The offset of the first tensor's bytes, and the tensors in the order of their bytes.

    Raises:
        InputError: the file is not safetensors, is truncated, or has tensors that are not plain floating-point weights.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        prefix = handle.read(8)
        length = int.from_bytes(prefix, "little")
        if size < 8 or prefix[:4] == b"PK\x03\x04" or length > MAX_HEADER_BYTES:
            raise InputError(f"{path}: not a safetensors file; {_WAY_OUT}")
        if 8 + length > size:
            raise InputError(f"{path}: truncated, the header alone needs {8 + length} bytes of {size}; {_WAY_OUT}")
        raw = handle.read(length)
    try:
        header = json.loads(raw)
        entries = tuple(sorted(_entries(header), key=lambda entry: (entry.begin, entry.end)))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not a safetensors file, its header cannot be read; {_WAY_OUT}") from error
    _check_entries(path, entries, data_bytes=size - 8 - length)
    return 8 + length, entries


def _entries(header: Mapping[str, Any]) -> Iterator[TensorEntry]:
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (int(offset) for offset in entry["data_offsets"])
        shape = tuple(int(size) for size in entry["shape"])
        yield TensorEntry(name=name, dtype=str(entry["dtype"]), shape=shape, begin=begin, end=end)


def _check_entries(path: Path, entries: Sequence[TensorEntry], *, data_bytes: int) -> None:
    if not entries:
        raise InputError(f"{path}: holds no tensors; {_WAY_OUT}")
    expected = 0
    for entry in entries:
        item_bytes = _ITEM_BYTES.get(entry.dtype)
        if item_bytes is None or (entry.dtype not in _EXPONENT and not is_buffer(entry.name)):
            raise InputError(
                f"{path}: {entry.name} has type {entry.dtype}, not a floating-point weight of 16, 32 or 64 bits; "
                "give the original model, before any quantization"
            )
        if entry.begin != expected or entry.end - entry.begin != math.prod(entry.shape) * item_bytes:
            raise InputError(f"{path}: the byte range of {entry.name} does not fit its shape; {_WAY_OUT}")
        expected = entry.end
    if expected != data_bytes:
        state = "truncated" if expected > data_bytes else "too long"
        raise InputError(f"{path}: {state}, its tensors take {expected} bytes and it holds {data_bytes}; {_WAY_OUT}")


def check_shards(index_path: Path) -> tuple[Path, ...]:
    """Check that the weight files of an index hold the tensors that it names, and return the files.

    Raises:
        InputError: the index cannot be read, a shard is missing, or a shard lacks a tensor of the index.
    """
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        weight_map = index["weight_map"]
        tensors_of: dict[str, set[str]] = {}
        for tensor, file_name in weight_map.items():
            tensors_of.setdefault(str(file_name), set()).add(tensor)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index_path}: not an index of weight files (no weight_map); {_WAY_OUT}") from error
    if not tensors_of:
        raise InputError(f"{index_path}: names no weight files; {_WAY_OUT}")
    files: list[Path] = []
    places: dict[str, str] = {}
    for file_name, tensors in sorted(tensors_of.items()):
        file = index_path.parent / file_name
        if file_name != file.name:
            raise InputError(f"{index_path}: names {file_name}, a file outside its folder; {_WAY_OUT}")
        if not file.is_file():
            raise InputError(f"{file}: missing, though {index_path.name} names it; {_WAY_OUT}")
        if file.suffix == ".safetensors":
            held = {entry.name for entry in read_header(file)[1]}
            if missing := tensors - held:
                raise InputError(f"{file}: has no {min(missing)}, though {index_path.name} places it there; {_WAY_OUT}")
            if twice := held & places.keys():
                raise InputError(f"{file}: holds {min(twice)}, which {places[min(twice)]} holds too; {_WAY_OUT}")
            places |= dict.fromkeys(held, file_name)
        files.append(file)
    stray = sorted(
        path.name for path in index_path.parent.glob("model-*-of-*.safetensors") if path.name not in tensors_of
    )
    if stray:
        raise InputError(
            f"{index_path.parent / stray[0]}: a shard that {index_path.name} does not name; remove it, or {_WAY_OUT}"
        )
    if "metadata" not in index:
        raise InputError(f'{index_path}: has no metadata, which transformers reads; add "metadata": {{}}')
    return tuple(files)


def stored_shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in checked weight files, by name."""
    if any(file.suffix != ".safetensors" for file in files):
        return {name: tuple(tensor.shape) for file in files for name, tensor in _unpickled(file, device="meta").items()}
    return {entry.name: entry.shape for file in files for entry in read_header(file)[1]}


def is_same_tensor(files: Sequence[Path], first: str, second: str) -> bool:
    """True if two tensors of weight files hold the same numbers."""
    import torch

    one, other = (_stored(files, name) for name in (first, second))
    return one.dtype == other.dtype and torch.equal(one, other)


def _stored(files: Sequence[Path], name: str) -> torch.Tensor:
    from safetensors import safe_open

    for file in files:
        if file.suffix != ".safetensors":
            found: torch.Tensor | None = _unpickled(file).get(name)
            if found is not None:
                return found
            continue
        with safe_open(file, framework="pt") as opened:
            if name in opened.keys():  # noqa: SIM118 (it is not a mapping)
                tensor: torch.Tensor = opened.get_tensor(name)
                return tensor
    raise KeyError(name)


def is_buffer(name: str) -> bool:
    """True if a tensor of a checkpoint is a constant that transformers recomputes, not a weight."""
    return _BUFFER.fullmatch(name) is not None


def digest_weights(files: Sequence[Path]) -> str:
    """SHA-256 over names and bytes of the weight files. The files are read once, in blocks, and checked meanwhile.

    Raises:
        InputError: a file is malformed, or a weight is NaN or infinite.
    """
    digest = hashlib.sha256()
    with progress.task("checking weights", total=len(files)) as advance:
        for file in files:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            if file.suffix == ".safetensors":
                _scan_safetensors(file, digest)
            else:
                _scan_pickled(file, digest)
            advance()
    return digest.hexdigest()


def _scan_safetensors(path: Path, digest: _Hash) -> None:
    start, entries = read_header(path)
    with path.open("rb") as handle:
        digest.update(handle.read(start))
        for entry in entries:
            left = entry.end - entry.begin
            while left:
                block = handle.read(min(left, CHUNK_BYTES))
                if not block:
                    raise InputError(f"{path}: became shorter while it was read; {_WAY_OUT}")
                left -= len(block)
                digest.update(block)
                if not is_buffer(entry.name) and not _finite(block, entry.dtype):
                    raise _not_finite(path, entry.name)


def _finite(block: bytes, dtype: str) -> bool:
    view, exponent = _EXPONENT[dtype]
    return not block or int((np.frombuffer(block, view) & exponent).max()) != exponent


def _not_finite(path: Path, name: str) -> InputError:
    return InputError(f"{path}: {name} holds NaN or infinite values; use a checkpoint whose weights are finite")


def _scan_pickled(path: Path, digest: _Hash) -> None:
    import torch

    with path.open("rb") as handle:
        while block := handle.read(CHUNK_BYTES):
            digest.update(block)
    for name, tensor in _unpickled(path).items():
        if is_buffer(name):
            continue
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in _torch_floats():
            raise InputError(f"{path}: {name} is not a floating-point weight; give the original model")
        if not bool(torch.isfinite(tensor).all()):
            raise _not_finite(path, name)


def _unpickled(path: Path, *, device: str = "cpu") -> dict[str, Any]:
    import pickle

    import torch

    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: cannot be read as a state dict of plain tensors; {_WAY_OUT}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict; {_WAY_OUT}")
    return state


def _torch_floats() -> tuple[object, ...]:
    import torch

    return (torch.float16, torch.bfloat16, torch.float32, torch.float64)
