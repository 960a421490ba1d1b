"""Deployments: folders in the layout of another runtime, with a manifest that tells which files are the artifact's.

Manifest format history:

1: first version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qexport.core import (
    DEPLOYMENT,
    MANIFEST_NAME,
    Artifact,
    FileInfo,
    InputError,
    Manifest,
    RuntimeName,
    file_sha256,
    files_sha256,
    kind_of,
    parse_manifest,
    require_own_data,
)
from qexport.report import Evidence


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LaidFile(FileInfo):
    """A file of a deployment, and its relation to the artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str = ""
    """The artifact's file with the same bytes, ``int8:model.onnx``; empty if none has these bytes."""
    change: str = ""
    """The change to the artifact's file, or the purpose of an added file; empty if the bytes are the artifact's."""


class DeployedArtifact(_Value):
    """One artifact of a deployment."""

    name: str
    """The name of the artifact's folder."""
    sha256: str
    """The artifact's digest."""
    model: str
    """The place of the artifact's ONNX file in the deployment."""
    manifest: Manifest
    """The artifact's own manifest, unchanged."""
    evidence: Evidence | None = None
    """The artifact's measured figures, if records were given."""


class Deployment(_Value):
    """The manifest of a deployment, ``qexport.json`` in its folder."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["deployment"] = DEPLOYMENT
    target: RuntimeName
    artifacts: tuple[DeployedArtifact, ...]
    files: tuple[LaidFile, ...]
    versions: dict[str, str] = Field(default_factory=dict)
    """The versions of qexport and of the client that the layout was tested with."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Deployment:
        """Check that artifacts' files have the digests of the manifests, and that these have the artifacts' digests."""
        if not self.artifacts:
            raise ValueError("it has no artifact")
        digests: dict[str, str] = {}
        for each in self.artifacts:
            if files_sha256(each.manifest.files) != each.sha256:
                raise ValueError(f"the files of {each.name} are not those of its digest")
            digests |= {f"{each.name}:{info.path}": info.sha256 for info in each.manifest.files}
        for info in self.files:
            if bool(info.of) == bool(info.change):
                raise ValueError(f"{info.path} is an artifact's file or was changed, one of the two")
            if info.of and digests.get(info.of) != info.sha256:
                raise ValueError(f"{info.path} is not {info.of}, whose digest is another")
        paths = [info.path for info in self.files]
        if len(set(paths)) < len(paths):
            raise ValueError("a file is named twice")
        if missing := {each.model for each in self.artifacts} - set(paths):
            raise ValueError(f"the graph {min(missing)} is not among the files")
        return self


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The state of one file, compared with the manifest."""

    path: str
    state: Literal["as written", "altered", "missing", "added"]
    of: str = ""
    """The artifact's file with the same bytes."""
    change: str = ""
    """The change by deploying, see :class:`LaidFile`."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Every file of an artifact or a deployment, hashed again."""

    folder: Path
    what: str
    """The name of the folder's content: ``artifact int8-static``, ``deployment for genai of int8-static``."""
    findings: tuple[Finding, ...]

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The files that differ. Added files are reported but do no harm: a clone of a hub repository has some."""
        return tuple(finding for finding in self.findings if finding.state in ("altered", "missing"))


def write_deployment(
    folder: Path,
    target: RuntimeName,
    artifacts: Sequence[Artifact],
    models: Sequence[str],
    changes: Mapping[str, str],
    *,
    evidence: Sequence[Evidence | None],
    versions: Mapping[str, str],
) -> None:
    """Write the manifest of an otherwise complete folder. Its files are hashed; digests identify artifacts' files.

    Args:
        folder: the folder of the deployment.
        target: the runtime of the layout.
        artifacts: the artifacts in the deployment.
        models: for each artifact, the place of its ONNX file in ``folder``.
        changes: by path, the change or purpose of every file that is not an artifact's.
        evidence: for each artifact, its measured figures.
        versions: see :class:`Deployment`.
    """
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, digest = path.relative_to(folder).as_posix(), file_sha256(path)
        of = _origin(name, digest, artifacts)
        change = "" if of else changes[name]
        files.append(LaidFile(path=name, size_bytes=path.stat().st_size, sha256=digest, of=of, change=change))
    deployed = tuple(
        DeployedArtifact(name=each.path.name, sha256=each.sha256, model=model, manifest=each.manifest, evidence=seen)
        for each, model, seen in zip(artifacts, models, evidence, strict=True)
    )
    manifest = Deployment(target=target, artifacts=deployed, files=tuple(files), versions=dict(versions))
    text = manifest.model_dump_json(by_alias=True, indent=1) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def _origin(name: str, digest: str, artifacts: Sequence[Artifact]) -> str:
    """The artifact's file with these bytes; if several have them, the one with the same name, if any."""
    same = [(each.path.name, info.path) for each in artifacts for info in each.manifest.files if info.sha256 == digest]
    same.sort(key=lambda found: found[1] != name)
    return ":".join(same[0]) if same else ""


def read_deployment(folder: Path) -> Deployment:
    """Read a deployment's manifest.

    Raises:
        InputError: the manifest is missing, cannot be read, or is of an artifact.
    """
    manifest = _read(folder)
    if isinstance(manifest, Manifest):
        raise InputError(f"{folder}: is an artifact; `qexport deploy` makes folders for other runtimes from it")
    return manifest


def verify(folder: Path) -> Verification:
    """Hash every file of an artifact or a deployment again and compare with its manifest.

    Raises:
        InputError: the manifest is missing, cannot be read, or contradicts itself.
        ContractError: all files are as written, but the graph reads other files.
    """
    manifest = _read(folder)
    if isinstance(manifest, Deployment):
        names = ", ".join(each.name for each in manifest.artifacts)
        what = f"deployment for {manifest.target} of {names}"
    else:
        what = f"artifact {manifest.recipe}"
    findings = [_finding(folder, info) for info in manifest.files]
    named = {info.path for info in manifest.files} | {MANIFEST_NAME}
    there = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    findings += [Finding(path=path, state="added") for path in there if path not in named]
    if not any(finding.state in ("altered", "missing") for finding in findings):
        require_own_data(folder, [info.path for info in manifest.files])
    return Verification(folder=folder, what=what, findings=tuple(findings))


def _finding(folder: Path, info: FileInfo) -> Finding:
    of, change = (info.of, info.change) if isinstance(info, LaidFile) else ("", "")
    path = folder / info.path
    if not path.is_file():
        return Finding(path=info.path, state="missing", of=of, change=change)
    same = path.stat().st_size == info.size_bytes and file_sha256(path) == info.sha256
    return Finding(path=info.path, state="as written" if same else "altered", of=of, change=change)


def _read(folder: Path) -> Manifest | Deployment:
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; give an artifact, or what `qexport deploy` made of one")
    if not path.is_file():
        raise InputError(f"{folder}: has no {MANIFEST_NAME}; give an artifact, or what `qexport deploy` made of one")
    try:
        text = path.read_text(encoding="utf-8")
        if kind_of(text) == DEPLOYMENT:
            return Deployment.model_validate_json(text)
        return parse_manifest(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: corrupt manifest ({reason}); make it again") from error
    except ValueError as error:  # also for bytes that are not UTF-8
        raise InputError(f"{path}: corrupt manifest ({error}); make it again") from error
