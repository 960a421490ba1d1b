"""Deployments: folders in the layout of somebody else's runtime, with a manifest that says what in them is the artifact's.

Manifest format history:

1: first version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qexport.artifact import DEPLOYMENT, MANIFEST_NAME, Artifact, FileInfo, Manifest, file_sha256, kind_of
from qexport.errors import InputError
from qexport.evidence import Evidence

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
    known = {
        info.sha256: f"{each.path.name}:{info.path}" for each in reversed(artifacts) for info in each.manifest.files
    }
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, digest = path.relative_to(folder).as_posix(), file_sha256(path)
        change = "" if digest in known else changes[name]
        files.append(
            LaidFile(path=name, size_bytes=path.stat().st_size, sha256=digest, of=known.get(digest, ""), change=change)
        )
    deployed = tuple(
        DeployedArtifact(name=each.path.name, sha256=each.sha256, model=model, manifest=each.manifest, evidence=seen)
        for each, model, seen in zip(artifacts, models, evidence, strict=True)
    )
    manifest = Deployment(target=target, artifacts=deployed, files=tuple(files), versions=dict(versions))
    text = json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=1) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


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
    if not path.is_file():
        raise InputError(f"{folder}: has no {MANIFEST_NAME}; give an artifact, or what `qexport deploy` made of one")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if kind_of(text) != DEPLOYMENT:
            return Manifest.model_validate_json(text)
        deployment = Deployment.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: corrupt manifest ({error.errors()[0]['msg']}); make it again") from error
    _check_origins(path, deployment)
    return deployment


def _check_origins(path: Path, deployment: Deployment) -> None:
    """What is said to be an artifact's must have the digest that the artifact's own manifest gives."""
    digests = {f"{each.name}:{info.path}": info.sha256 for each in deployment.artifacts for info in each.manifest.files}
    for info in deployment.files:
        if info.of and digests.get(info.of) != info.sha256:
            raise InputError(f"{path}: says that {info.path} is {info.of}, whose digest is another; deploy again")
