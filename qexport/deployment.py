"""Deployments: folders in the layout of somebody else's runtime, with a manifest that says what in them is the artifact's.

Manifest format history:

1: first version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qexport.artifact import (
    DEPLOYMENT,
    MANIFEST_NAME,
    Artifact,
    FileInfo,
    Manifest,
    file_sha256,
    files_sha256,
    kind_of,
    parse_manifest,
)
from qexport.errors import InputError
from qexport.evidence import Evidence
from qexport.own_data import require_own_data

Target = Literal["optimum", "genai", "transformersjs", "triton", "kserve"]
"""Whose layout: Optimum, onnxruntime-genai, Transformers.js, Triton Inference Server, KServe."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LaidFile(FileInfo):
    """A file of a deployment, and what it has to do with the artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str = ""
    """The artifact's file whose bytes these are, ``int8:model.onnx``; empty where they are no artifact's."""
    change: str = ""
    """What was changed of the artifact's, or what was written beside it; empty where the bytes are the artifact's."""


class DeployedArtifact(_Value):
    """One artifact of a deployment."""

    name: str
    """The name of the artifact's folder."""
    sha256: str
    """The artifact's digest."""
    model: str
    """Where its ONNX file lies in the deployment."""
    manifest: Manifest
    """The artifact's own, as it was."""
    evidence: Evidence | None = None
    """What was measured of it, if records were given."""


class Deployment(_Value):
    """The manifest of a deployment, ``qexport.json`` in its folder."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["deployment"] = DEPLOYMENT
    target: Target
    artifacts: tuple[DeployedArtifact, ...]
    files: tuple[LaidFile, ...]
    versions: dict[str, str] = Field(default_factory=dict)
    """Of qexport, and of the client that the layout was proved with."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Deployment:
        """What is said to be an artifact's has the digest that the artifact's own manifest gives, and that has the artifact's."""
        if not self.artifacts:
            raise ValueError("it is made of no artifact")
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
            raise ValueError(f"the graph {min(missing)} is none of the files")
        return self


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one file since the manifest was written."""

    path: str
    state: Literal["as written", "altered", "missing", "added"]
    of: str = ""
    """The artifact's file whose bytes these are."""
    change: str = ""
    """What deploying changed, see :class:`LaidFile`."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Every file of an artifact or a deployment, hashed again."""

    folder: Path
    what: str
    """``artifact int8-static``, ``deployment for genai of int8-static``."""
    findings: tuple[Finding, ...]

    @property
    def damage(self) -> tuple[Finding, ...]:
        """What is not as it was written. Files that were added are told and do no harm: a clone of a hub's repository has some."""
        return tuple(finding for finding in self.findings if finding.state in ("altered", "missing"))


def write_deployment(
    folder: Path,
    target: Target,
    artifacts: Sequence[Artifact],
    models: Sequence[str],
    changes: Mapping[str, str],
    *,
    evidence: Sequence[Evidence | None],
    versions: Mapping[str, str],
) -> None:
    """Write the manifest of a folder that is complete otherwise: its files are hashed, and the artifacts' known by their digests.

    Args:
        folder: the deployment.
        target: whose layout it has.
        artifacts: what it was made of.
        models: for each, where its ONNX file lies in ``folder``.
        changes: what was changed or written, by path, of every file that is no artifact's.
        evidence: for each, what was measured.
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
    """The artifact's file with these bytes; of several that with the same name, if there is one."""
    same = [(each.path.name, info.path) for each in artifacts for info in each.manifest.files if info.sha256 == digest]
    same.sort(key=lambda found: found[1] != name)
    return ":".join(same[0]) if same else ""


def read_deployment(folder: Path) -> Deployment:
    """Read a deployment's manifest.

    Raises:
        InputError: no manifest, one that cannot be read, or one of an artifact.
    """
    manifest = _read(folder)
    if isinstance(manifest, Manifest):
        raise InputError(f"{folder}: is an artifact; `qexport deploy` makes of it what other runtimes load")
    return manifest


def verify(folder: Path) -> Verification:
    """Hash every file of an artifact or a deployment again and compare with its manifest.

    Raises:
        InputError: no manifest, or one that cannot be read or contradicts itself.
        ContractError: all files are as written, and the graph reads others.
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
    except ValueError as error:  # of bytes that are not UTF-8 as well
        raise InputError(f"{path}: corrupt manifest ({error}); make it again") from error
