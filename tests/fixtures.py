"""Tiny models of every architecture and their exports, made once for each state of the code that makes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from qexport.core.artifact import Artifact, Manifest, ModelInfo, load_artifact, new_artifact
from tests import exports
from tests.architectures import save_tiny
from tests.kept import kept


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
def tiny() -> Callable[[str], Path]:
    """``tiny("gpt2")`` is the folder of that tiny model, which must not be written to."""

    @cache
    def save(name: str) -> Path:
        return kept(f"model-{name}", lambda folder: save_tiny(name, folder / name), ("tests.architectures",)) / name

    return save


@pytest.fixture(scope="session")
def exported(tiny) -> Callable[..., Exported]:
    """``exported("gpt2", "fused")`` is that tiny model exported, which must not be written to."""

    @cache
    def export(name: str, exporter: str) -> Exported:
        from qexport.inputs.models import locate_model

        made = exports.kept_export(locate_model(tiny(name)), exporter)
        return Exported(path=made.path, source=tiny(name), report=made.report)

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


@pytest.fixture(scope="session")
def outlier_twin(tiny, tmp_path_factory) -> Artifact:
    """A tiny llama with activation outliers as an fp32 artifact, which must not be written to."""
    from qexport import exporting
    from qexport.inputs.models import locate_model
    from tests.outliers import save_outlier_twin

    folder = tmp_path_factory.mktemp("twin")
    source = save_outlier_twin(tiny("llama"), folder / "source")
    return exporting.export_source(locate_model(source), folder / "fp32", "fused")


@pytest.fixture(scope="session")
def per_token_twin(outlier_twin, tmp_path_factory) -> Callable[..., Artifact]:
    """``per_token_twin(channels=True)`` is that model in INT8 with ranges per token; ``channels`` keeps its outliers in
    float. The artifacts are in folders of one name, and must not be written to."""

    @cache
    def made(*, channels: bool) -> Artifact:
        from qexport import quantization

        # Smoothing would take the outliers away, and no channel would stay.
        options = {"engine": "ort", "per_token": True, "smooth": False, "outlier_channels": channels}
        folder = tmp_path_factory.mktemp("per-token") / "int8"
        return quantization.quantize(str(outlier_twin.path), folder, recipe_name="int8-dynamic", options=options)

    return made
