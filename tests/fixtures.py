"""Tiny models of every architecture, saved and exported once a session."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from qexport.artifact import Artifact, Manifest, ModelInfo, load_artifact, new_artifact
from tests.architectures import save_tiny


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder with ``model.onnx`` and side files, the model it was made from, and the exporter's report."""

    path: Path
    source: Path
    report: object

    @property
    def onnx_path(self) -> Path:
        return self.path / "model.onnx"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], Path]:
    """``tiny("gpt2")`` is the folder of that tiny model, which must not be written to."""

    @cache
    def save(name: str) -> Path:
        return save_tiny(name, tmp_path_factory.mktemp("models") / name)

    return save


@pytest.fixture(scope="session")
def exported(tiny, tmp_path_factory) -> Callable[..., Exported]:
    """``exported("gpt2", "fused")`` is that tiny model exported, which must not be written to.

    An export takes seconds, so all workers of a run share them.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"

    @cache
    def export(name: str, exporter: str) -> Exported:
        from qexport.export import export_model
        from qexport.inputs.models import locate_model

        folder = shared / exporter / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = folder.with_suffix(".report")
        with FileLock(folder.with_suffix(".lock")):
            if not done.exists():
                folder.mkdir()
                done.write_bytes(pickle.dumps(export_model(locate_model(tiny(name)), folder, exporter=exporter)))
        return Exported(path=folder, source=tiny(name), report=pickle.loads(done.read_bytes()))

    return lambda name, exporter="fused": export(name, exporter)


@pytest.fixture(scope="session")
def fp32(exported, tmp_path_factory) -> Callable[..., Artifact]:
    """``fp32("gpt2")`` is that tiny model as an fp32 artifact, which must not be written to."""

    @cache
    def wrap(name: str, exporter: str = "fused") -> Artifact:
        made = exported(name, exporter)
        info = ModelInfo(name=name, weights_sha256="0" * 64, architecture=name, parameters=made.report.parameters)
        folder = tmp_path_factory.mktemp("artifacts") / f"{name}-{exporter}"
        with new_artifact(folder) as draft:
            shutil.copytree(made.path, draft.path, dirs_exist_ok=True)
            draft.finish(
                Manifest(
                    kind="onnx",
                    model=info,
                    exporter=exporter,
                    recipe="fp32",
                    weight_bytes=made.report.weight_bytes,
                )
            )
        return load_artifact(folder)

    return wrap
