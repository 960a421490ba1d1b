"""Artifacts: folders whose manifest ``qexport.json`` is written last, so that no manifest means no artifact.

Manifest format history:

1: first version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qexport.core.errors import ContractError, InputError
from qexport.core.folders import check_replaceable, whole_folder

MANIFEST_NAME = "qexport.json"
ONNX_NAME = "model.onnx"
ONNX_DATA_NAME = "model.onnx.data"
DEPLOYMENT: Final = "deployment"
"""The kind that the manifest of a deployment gives; see :mod:`qexport.deployment.manifest`."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelInfo(_Value):
    """The origin of the weights."""

    name: str
    """Hub id, or the folder's name; never a path of the machine."""
    revision: str = ""
    """Pinned commit of a hub model; empty for a local folder."""
    weights_sha256: str
    """Digest over the source's weight files."""
    architecture: str
    """``model_type`` of the configuration: ``gpt2``, ``llama``."""
    parameters: int
    """Number of weights; tied weights count once."""


class NodeInfo(_Value):
    """One weight that a selection names, with its place in the graph."""

    name: str
    role: str
    weight: str
    """Name of the weight, which is its module path: ``transformer.h.0.attn.c_attn.weight``."""
    shape: tuple[int, ...]


class SelectionInfo(_Value):
    """The requested selection: the rules, and the nodes that they chose."""

    rules: str
    """The rules in the form of command-line options: ``--nodes attention --exclude '.*c_proj'``."""
    nodes: tuple[NodeInfo, ...]


class QuantizedNode(_Value):
    """One node found quantized when the emitted file was opened again."""

    name: str
    weight: str
    weight_dtype: str
    """``int8``, ``uint8``, ``int4``, ``uint4``, ``float8e4m3fn``, ``fp4``, ``nf4``."""
    per_channel: bool
    activation: Literal["none", "static", "dynamic", "per-token"]
    float_channels: tuple[int, ...] = ()
    """Channels of the activation that are multiplied in float, beside the integers."""
    block_size: int | None = None
    """Number of weights that share a scale if that is a block; None if it is a channel or the whole weight."""

    @property
    def grain(self) -> str:
        """The weights that share a scale, in words."""
        if self.block_size:
            return f"blocks of {self.block_size}"
        return "per channel" if self.per_channel else "per tensor"


class CalibrationInfo(_Value):
    """The source of the activation ranges."""

    method: str
    text: str
    tokens_sha256: str
    windows: int
    tokens: int


class FileInfo(_Value):
    path: str
    """Path below the folder, with ``/`` between its parts."""
    size_bytes: int
    sha256: str

    @field_validator("path")
    @classmethod
    def _below(cls, path: str) -> str:
        """Refuse paths outside the folder: files are read and copied by these names."""
        if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
            raise ValueError(f"{path!r} is no file of the folder")
        return path


class Manifest(_Value):
    """All facts of an artifact that a reader may want without loading it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["onnx", "torch"]
    """``onnx``: the folder holds ``model.onnx``. ``torch``: it holds bitsandbytes weights that transformers loads."""
    model: ModelInfo
    exporter: str = ""
    recipe: str
    engine: str = ""
    parent_sha256: str = ""
    """Digest of the fp32 artifact from which this one was made."""
    selection: SelectionInfo | None = None
    quantized: tuple[QuantizedNode, ...] = ()
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """The scheme's settings, including those that the machine chose (``weight_dtype``)."""
    calibration: CalibrationInfo | None = None
    cpu_dependent: str = ""
    """The contents that may differ if another CPU makes the artifact, in words; empty if none do."""
    weight_bytes: int = Field(ge=0)
    """Bytes of all weights as stored, tied weights once; not the bytes of the file."""
    files: tuple[FileInfo, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def int8_compute(self) -> bool:
        """A kernel of weights in blocks rounds activations to int8."""
        return "int8" in {self.settings.get("compute"), self.settings.get("head_compute")}


class Artifact(BaseModel):
    """A folder whose manifest was read and has the right form."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    path: Path
    manifest: Manifest

    @property
    def onnx_path(self) -> Path:
        return self.path / ONNX_NAME

    @property
    def sha256(self) -> str:
        """Digest of the artifact, see :func:`files_sha256`."""
        return files_sha256(self.manifest.files)

    @property
    def disk_bytes(self) -> int:
        """Bytes of all files of the artifact, the manifest included."""
        return sum(info.size_bytes for info in self.manifest.files) + (self.path / MANIFEST_NAME).stat().st_size


def files_sha256(files: Iterable[FileInfo]) -> str:
    """Digest over names and digests of files."""
    text = "".join(f"{info.path}\0{info.sha256}\n" for info in files)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def load_artifact(path: Path, *, verify: bool = False) -> Artifact:
    """Read an artifact's manifest.

    Args:
        path: the folder of the artifact.
        verify: hash every file again and compare.

    Raises:
        InputError: no folder, no manifest, or a manifest that cannot be read.
        ContractError: a file is missing, has another size, or (with ``verify``) another digest.
    """
    manifest_path = path / MANIFEST_NAME
    if not manifest_path.is_file():
        raise InputError(f"{path}: not an artifact, it has no {MANIFEST_NAME}; make one with `qexport export`")
    try:
        text = manifest_path.read_text(encoding="utf-8")
        if kind_of(text) == DEPLOYMENT:
            raise InputError(f"{path}: is a deployment, which other runtimes load; give the artifact it was made of")
        manifest = parse_manifest(text)
    except ValueError as error:  # covers bytes that are not UTF-8, and pydantic's errors
        raise InputError(
            f"{manifest_path}: corrupt manifest ({_first_reason(error)}); make the artifact again"
        ) from error
    for info in manifest.files:
        file = path / info.path
        if not file.is_file():
            raise ContractError(f"{file}: named in the manifest but missing; make the artifact again")
        if file.stat().st_size != info.size_bytes or (verify and file_sha256(file) != info.sha256):
            raise ContractError(f"{file}: altered since its manifest was written; make the artifact again")
    return Artifact(path=path, manifest=manifest)


_KEYS = frozenset({"schema_", "kind", "model", "recipe", "quantized", "settings", "weight_bytes", "files"})
"""Keys that every manifest has, although a reader could do without some of them."""


def parse_manifest(text: str) -> Manifest:
    """Read a manifest from its JSON.

    Raises:
        ValueError: the text is no manifest, lacks a key or names no graph. If a key with a default were missing, the
            artifact would seem to lack a property that it may have.
    """
    manifest = Manifest.model_validate_json(text)
    if missing := sorted(_KEYS - manifest.model_fields_set):
        raise ValueError(f"no {missing[0].removesuffix('_')}")
    if manifest.kind == "onnx" and ONNX_NAME not in (info.path for info in manifest.files):
        raise ValueError(f"{ONNX_NAME} is none of its files")
    return manifest


def require_named(artifact: Artifact, names: Iterable[str]) -> None:
    """Make sure that every file to be read, if it lies in the artifact's folder, is in the manifest.

    Raises:
        ContractError: a file is not in the manifest, so no digest covers it.
    """
    named = {info.path for info in artifact.manifest.files}
    for name in names:
        if name not in named and (artifact.path / name).exists():
            raise ContractError(
                f"{artifact.path / name}: lies there and is not in the manifest; remove it, or put it beside the model and "
                "export again"
            )


def manifest_kind(folder: Path) -> str | None:
    """The kind in the manifest of a folder; empty if the manifest cannot be read, None if there is no manifest."""
    path = folder / MANIFEST_NAME
    return kind_of(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def kind_of(manifest: str) -> str:
    """The kind in the text of a manifest; empty if the text is no manifest."""
    try:
        kind = json.loads(manifest).get("kind", "")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return str(kind)


def _first_reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return str(error)


class Draft:
    """A folder being filled. :meth:`finish` writes the manifest; leaving the ``with`` block renames it into place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished = False

    def finish(self, manifest: Manifest) -> None:
        """Hash the files, write the manifest last and flush everything to disk."""
        files = []
        for file in sorted(p for p in self.path.rglob("*") if p.is_file()):
            files.append(
                FileInfo(
                    path=file.relative_to(self.path).as_posix(),
                    size_bytes=file.stat().st_size,
                    sha256=file_sha256(file),
                )
            )
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        complete = manifest.model_copy(update={"files": tuple(files)})
        text = json.dumps(complete.model_dump(mode="json", by_alias=True), indent=1) + "\n"
        with (self.path / MANIFEST_NAME).open("w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        self.finished = True


@contextlib.contextmanager
def new_artifact(path: Path, *, overwrite: bool = False) -> Iterator[Draft]:
    """Make an artifact folder. Whatever stops this, ``path`` holds the old artifact or none.

    Raises:
        InputError: ``path`` exists and ``overwrite`` is not set, is not an artifact, or cannot be made.
        UnsupportedHere: the disk is full.
    """
    with whole_folder(path, lambda place: check_output(place, overwrite=overwrite)) as beside:
        draft = Draft(beside)
        yield draft
        if not draft.finished:
            raise ContractError(f"{path}: the artifact was left without a manifest")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that must not be replaced; called before long work starts.

    Raises:
        InputError: see :func:`new_artifact`.
    """
    kind = manifest_kind(path)
    is_artifact = kind not in {None, DEPLOYMENT}
    check_replaceable(path, "an artifact of qexport", is_ours=is_artifact, overwrite=overwrite)
