"""Exports that are made once for each model and each state of the code that makes them; see :mod:`tests.kept`."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qexport.exporting import pipeline
from qexport.exporting.exporter import export_model as export_anew
from qexport.inputs.source import ModelSource
from tests.kept import is_of_this_run, kept

MODULES = ("qexport.exporting.exporter", "qexport.inputs.models")


@dataclass(frozen=True)
class KeptExport:
    """A folder that must not be written to, and the exporter's report."""

    path: Path
    report: Any
    is_of_this_run: bool


def kept_export(source: ModelSource, exporter: str) -> KeptExport:
    def make(folder: Path) -> None:
        (folder / "export").mkdir()
        report = export_anew(source, folder / "export", exporter=exporter)
        (folder / "report.pickle").write_bytes(pickle.dumps(report))

    made = kept(f"{exporter}-{source.model_type}", make, MODULES, source.path)
    report = pickle.loads((made / "report.pickle").read_bytes())
    return KeptExport(path=made / "export", report=report, is_of_this_run=is_of_this_run(made))


@contextmanager
def keeping() -> Iterator[None]:
    """Commands and experiments take exports that are there already."""

    def export_model(source: ModelSource, folder: Path, *, exporter: str) -> Any:
        made = kept_export(source, exporter)
        shutil.copytree(made.path, folder, dirs_exist_ok=True)
        return made.report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "export_model", export_model)
        yield
