"""Artifacts: folders whose manifest ``qexport.json`` is written last, so that no manifest means no artifact.

Manifest format history:

1: first version.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qexport.errors import ContractError, InputError, QExportError, UnsupportedHere
from qexport.files import is_alive
from qexport.scratch import claimed, sweep_scratch

MANIFEST_NAME = "qexport.json"
ONNX_NAME = "model.onnx"
ONNX_DATA_NAME = "model.onnx.data"
DEPLOYMENT: Final = "deployment"
"""What the manifest of a deployment gives as its kind; see :mod:`qexport.deployment`."""


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelInfo(_Value):
    """Where the weights came from."""

    name: str
    """Hub id, or the folder's name: never a path of the machine."""
    revision: str = ""
    """Pinned commit of a hub model; empty for a local folder."""
    weights_sha256: str
    """Digest over the source's weight files."""
    architecture: str
    """``model_type`` of the configuration: ``gpt2``, ``llama``."""
    parameters: int
    """Number of weights, tied ones counted once."""


class NodeInfo(_Value):
    """One weight that a selection names, as it is in the graph."""

    name: str
    role: str
    weight: str
    """Name of the weight, which is its module path: ``transformer.h.0.attn.c_attn.weight``."""
    shape: tuple[int, ...]


class SelectionInfo(_Value):
    """The selection asked for: the rules, and the nodes they chose."""

    rules: str
    """The rules as one would type them: ``--nodes attention --exclude '.*c_proj'``."""
    nodes: tuple[NodeInfo, ...]


class QuantizedNode(_Value):
    """One node found quantized when the emitted file was opened again."""

    name: str
    weight: str
    weight_dtype: str
    """``int8``, ``uint8``, ``int4``, ``uint4``, ``float8e4m3fn``, ``fp4``, ``nf4``."""
    per_channel: bool
    activation: Literal["none", "static", "dynamic", "per-token"]
    block_size: int | None = None
    """Weights that share a scale, where that is a block and neither a channel nor the whole weight."""


class CalibrationInfo(_Value):
    """What the activation ranges were taken from."""

    method: str
    text: str
    tokens_sha256: str
    windows: int
    tokens: int


class FileInfo(_Value):
    path: str
    """Below the folder, with ``/`` between its parts."""
    size_bytes: int
    sha256: str

    @field_validator("path")
    @classmethod
    def _below(cls, path: str) -> str:
        """What is read and copied by these names must not lie elsewhere."""
        if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
            raise ValueError(f"{path!r} is no file of the folder")
        return path


class Manifest(_Value):
    """Everything one may want to know of an artifact without loading it."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["onnx", "torch"]
    """``onnx``: ``model.onnx`` is here. ``torch``: bitsandbytes weights that transformers loads."""
    model: ModelInfo
    exporter: str = ""
    recipe: str
    engine: str = ""
    parent_sha256: str = ""
    """Digest of the fp32 artifact this one was made from."""
    selection: SelectionInfo | None = None
    quantized: tuple[QuantizedNode, ...] = ()
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """The scheme's settings, those chosen by the machine included (``weight_dtype``)."""
    calibration: CalibrationInfo | None = None
    cpu_dependent: str = ""
    """The contents that may differ where another CPU makes the artifact, in words; empty where none do."""
    weight_bytes: int = Field(ge=0)
    """Bytes of all weights as stored, tied ones once; not the bytes of the file."""
    files: tuple[FileInfo, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)


class Artifact(BaseModel):
    """A folder with a manifest that was read and checked for form."""

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
        path: the folder.
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
    except ValueError as error:  # of bytes that are not UTF-8 and of pydantic as well
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
"""Keys that every manifest has, though a reader could do without some of them."""


def parse_manifest(text: str) -> Manifest:
    """A manifest from its JSON.

    Raises:
        ValueError: the text is no manifest, lacks a key or names no graph. Without one of the keys that have a default an
            artifact would seem not to have what the key says.
    """
    manifest = Manifest.model_validate_json(text)
    if missing := sorted(_KEYS - manifest.model_fields_set):
        raise ValueError(f"no {missing[0].removesuffix('_')}")
    if manifest.kind == "onnx" and ONNX_NAME not in (info.path for info in manifest.files):
        raise ValueError(f"{ONNX_NAME} is none of its files")
    return manifest


def require_named(artifact: Artifact, names: Iterable[str]) -> None:
    """Make sure that none of the files that would be read lies beside the artifact without being of it.

    Raises:
        ContractError: one does, and no digest covers it.
    """
    named = {info.path for info in artifact.manifest.files}
    for name in names:
        if name not in named and (artifact.path / name).exists():
            raise ContractError(
                f"{artifact.path / name}: lies there and is not in the manifest; remove it, or put it beside the model and "
                "export again"
            )


def manifest_kind(folder: Path) -> str | None:
    """What the manifest of a folder gives as its kind: empty where it cannot be read, None where there is none."""
    path = folder / MANIFEST_NAME
    return kind_of(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None


def kind_of(manifest: str) -> str:
    """What the text of a manifest gives as its kind; empty where it is no manifest."""
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
    """Make an artifact folder so that, whatever stops it, ``path`` holds the old artifact or none.

    Raises:
        InputError: ``path`` exists and ``overwrite`` is not set, is something else than an artifact, or cannot be made.
        UnsupportedHere: the disk is full.
    """
    with whole_folder(path, lambda place: check_output(place, overwrite=overwrite)) as beside:
        draft = Draft(beside)
        yield draft
        if not draft.finished:
            raise ContractError(f"{path}: the artifact was left without a manifest")


@contextlib.contextmanager
def whole_folder(path: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Make a folder that appears whole: whatever stops it, ``path`` holds what it held before.

    The files go to a hidden folder beside ``path``, which one rename puts in place at the end. Hidden folders of
    processes that were killed are removed here.

    Args:
        path: the folder to make or replace.
        check: raises where ``path`` must not be replaced; called at the beginning and again before the rename.

    Raises:
        InputError: ``path`` cannot be made.
        UnsupportedHere: the disk is full.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow a link that the check must see)
    check(path)
    beside = path.parent / f".{path.name}.new-{os.getpid()}"
    old = path.parent / f".{path.name}.old-{os.getpid()}"
    with contextlib.ExitStack() as claim:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            claim.enter_context(claimed(path))
            sweep(path)
            sweep_scratch()
            beside.mkdir()
        except OSError as error:
            raise InputError(f"{path}: cannot be made there ({error.strerror}); choose another output") from error
        try:
            yield beside
            check(path)  # again: another process may have put something there meanwhile
            if not (path.exists() and exchanged(beside, path)):
                if path.exists():
                    path.rename(old)
                beside.rename(path)
        except Exception as error:
            if place := _full_disk(error, path.parent):
                raise UnsupportedHere(f"{place}; make room there, or choose another place") from error
            raise
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(beside, ignore_errors=True)


_NEARLY_FULL_BYTES = 1 << 20
"""A disk that a write was refused on may have some room left."""


def _full_disk(error: BaseException, folder: Path) -> str:
    """The place that an error says is full, in words; empty where the error came of something else."""
    if not _disk_full(error, folder):
        return ""
    temporary = Path(tempfile.gettempdir())
    named = Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else None
    in_temporary = named is not None and named.is_relative_to(temporary) and not named.is_relative_to(folder)
    if in_temporary or shutil.disk_usage(temporary).free < _NEARLY_FULL_BYTES <= shutil.disk_usage(folder).free:
        return f"{temporary}: the temporary folder is full (TMPDIR names another)"
    return f"{folder}: the disk is full"


def _disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error came of a full disk; libraries of their own languages hand the system's words on as text."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if isinstance(error, QExportError):
        return False
    signs = (os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG), f"os error {errno.ENOSPC}")
    return any(sign in str(error) for sign in signs) or shutil.disk_usage(folder).free == 0


def exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, where the system can: then no reader ever finds neither.

    Linux: renameat2(2) with RENAME_EXCHANGE. False where it is not to be had, and nothing has changed.
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    failed: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return not failed


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that must not be replaced; called before long work starts.

    Raises:
        InputError: see :func:`new_artifact`.
    """
    kind = manifest_kind(path)
    is_artifact = kind not in {None, DEPLOYMENT}
    check_replaceable(path, "an artifact of qexport", is_ours=is_artifact, overwrite=overwrite)


def check_replaceable(path: Path, what: str, *, is_ours: bool, overwrite: bool) -> None:
    """Refuse a folder to be written whose content must not be lost.

    Args:
        path: the folder.
        what: may be replaced, for the message.
        is_ours: whether that is what is there.
        overwrite: such may be replaced.

    Raises:
        InputError: there is something else than a folder, or a folder of others, or one of ours and ``overwrite`` is not set.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise InputError(f"{path}: exists and is not a folder; choose another output")
    if not any(path.iterdir()):
        return
    if not is_ours:
        raise InputError(f"{path}: exists and is not {what}; choose another output")
    if not overwrite:
        raise InputError(f"{path}: exists; pass --overwrite to replace it")


def sweep(path: Path) -> None:
    """Clear what killed processes left beside ``path``, folders ``.NAME.new-PID`` and ``.NAME.old-PID``; an old artifact on its way out goes back if none replaced it."""
    for kind in ("old", "new"):
        for left in path.parent.glob(f".{glob.escape(path.name)}.{kind}-*"):
            pid = left.name.rsplit("-", 1)[1]
            # A folder of this process's own number is another's, who is gone: in a container the numbers come again.
            if not pid.isdigit() or (int(pid) != os.getpid() and is_alive(int(pid))):
                continue
            if kind == "old" and not path.exists():
                left.rename(path)
            else:
                shutil.rmtree(left, ignore_errors=True)
