"""Regressions to plant into an artifact, each as a faulty tool would leave it: the manifest agrees with the files.

Used by the tests, and by benchmarks/gate.py, which counts how many of each kind the gate catches.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from qexport.artifact import MANIFEST_NAME, Artifact, Manifest, load_artifact, new_artifact

SCALE = 1.02
"""Two percent: 2.5 of 127 steps at the largest weight."""


def planted(
    artifact: Artifact,
    folder: Path,
    *,
    graph: Callable[[onnx.ModelProto], None] | None = None,
    files: Callable[[Path], None] | None = None,
    manifest: Callable[[Manifest], Manifest] | None = None,
) -> Artifact:
    """A copy with a change in its graph, its files or its manifest, and digests that agree with it."""
    with new_artifact(folder) as draft:
        shutil.copytree(artifact.path, draft.path, dirs_exist_ok=True)
        (draft.path / MANIFEST_NAME).unlink()
        if graph is not None:
            model = onnx.load(draft.path / "model.onnx")
            graph(model)
            (draft.path / "model.onnx.data").unlink(missing_ok=True)
            onnx.save(model, draft.path / "model.onnx")
        if files is not None:
            files(draft.path)
        draft.finish(artifact.manifest if manifest is None else manifest(artifact.manifest))
    return load_artifact(folder)


def scaled(name: str) -> Callable[[onnx.ModelProto], None]:
    """The scale of that name off by :data:`SCALE`."""

    def change(model: onnx.ModelProto) -> None:
        _edit(model, name, lambda values: (values.astype(np.float64) * SCALE).astype(values.dtype))

    return change


def shifted(name: str) -> Callable[[onnx.ModelProto], None]:
    """The zero point of that name off by one."""

    def change(model: onnx.ModelProto) -> None:
        _edit(model, name, lambda values: (values.astype(np.int64) + 1).astype(values.dtype))

    return change


def scales(model: onnx.ModelProto) -> list[str]:
    """The names of all weights' scales."""
    ends = ("weight_scale", "weight_rows_scale", "weight_absmax")
    return [tensor.name for tensor in model.graph.initializer if tensor.name.endswith(ends)]


def zero_points(model: onnx.ModelProto) -> list[str]:
    """The names of all weights' zero points."""
    ends = ("weight_zero_point", "weight_rows_zero_point")
    return [tensor.name for tensor in model.graph.initializer if tensor.name.endswith(ends)]


def _edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
