"""Clients installed by `make test-deploy`, apart from qexport; without them these tests are skipped with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from qexport.exporting.pipeline import export
from qexport.quantization.pipeline import quantize
from tests.deploy.clients.install import CLIENTS, NOTE
from tests.deploy.proof import Case, case_of

BUILDS = {
    "fp32": {},
    "int8": {"recipe_name": "int8-static", "options": {"engine": "ort"}},
    "int8-plain": {"recipe_name": "int8-static", "options": {"engine": "ort", "outlier_channels": False}},
    "w4": {"recipe_name": "w4a16-rtn"},
    "w4-web": {"recipe_name": "w4a16-rtn", "options": {"target": "web"}},
    "fp16": {"recipe_name": "fp16"},
}
"""What the artifacts of :func:`case` are made by."""


@pytest.fixture(scope="session")
def client() -> Callable[[str], Path]:
    """The folder that a client was installed into."""

    def find(name: str) -> Path:
        note = CLIENTS / name / NOTE
        if not note.is_file():
            pytest.skip(f"client {name} is not installed; run `make test-deploy`")
        if reason := json.loads(note.read_text())["reason"]:
            pytest.skip(f"client {name} could not be installed: {reason}")
        return CLIENTS / name

    return find


@pytest.fixture(scope="session")
def artifact(data_dir, tmp_path_factory) -> Callable[[str, str], Path]:
    """``artifact("reference", "int8")`` is that model in one of :data:`BUILDS`, which must not be written to."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "deployed"

    @cache
    def build(model: str, name: str) -> Path:
        folder = shared / model / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        source = str(data_dir / "models" / model) if model != "reference" else model
        if name != "fp32":
            source = str(build(model, "fp32"))
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                make = export if name == "fp32" else quantize
                make(source, folder, **BUILDS[name])
        return folder

    return build


@pytest.fixture(scope="session")
def case(artifact, data_dir) -> Callable[[str, str], Case]:
    """``case("reference", "int8")`` is that artifact with prompts and the tokens that must come."""

    @cache
    def make(model: str, name: str) -> Case:
        source = str(data_dir / "models" / model) if model != "reference" else model
        return case_of(source, artifact(model, name))

    return make
