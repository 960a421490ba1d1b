"""Regressions to plant into an artifact, each as a faulty tool would leave it: the manifest agrees with the files.

Used by the tests, and by benchmarks/gate.py, which counts how many of each kind the gate catches.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from qexport.core.artifact import (
    MANIFEST_NAME,
    ONNX_DATA_NAME,
    ONNX_NAME,
    Artifact,
    Manifest,
    load_artifact,
    new_artifact,
)

SCALE = 1.02
"""Two percent: 2.5 of 127 steps at the largest weight."""


def planted(
    artifact: Artifact,
    folder: Path,
    *,
    files: Callable[[Path], None] = lambda _: None,
    manifest: Callable[[Manifest], Manifest] = lambda own: own,
) -> Artifact:
    """A copy with a change in its files or its manifest, and digests that agree with it."""
    with new_artifact(folder) as draft:
        copy(artifact.path, draft.path)
        (draft.path / MANIFEST_NAME).unlink()
        files(draft.path)
        draft.finish(manifest(artifact.manifest))
    return load_artifact(folder)


def copy(folder: Path, place: Path) -> Path:
    """A copy that may be written to, whatever the original allows."""
    return shutil.copytree(folder, place, copy_function=shutil.copyfile, dirs_exist_ok=True)


def fewer_merges(folder: Path) -> None:
    """Another tokenizer: words are cut into smaller tokens."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["merges"] = values["model"]["merges"][:5]
    path.write_text(json.dumps(values))


def scaled(name: str) -> Callable[[Path], None]:
    """The scale of that name off by :data:`SCALE`."""
    return lambda folder: _edit(folder, name, lambda values: (values.astype(np.float64) * SCALE).astype(values.dtype))


def shifted(name: str) -> Callable[[Path], None]:
    """The zero point of that name off by one."""
    return lambda folder: _edit(folder, name, lambda values: (values.astype(np.int64) + 1).astype(values.dtype))


def scales(folder: Path) -> list[str]:
    """The names of all weights' scales."""
    return _ending(folder, ("weight_scale", "weight_rows_scale", "weight_absmax"))


def zero_points(folder: Path) -> list[str]:
    """The names of all weights' zero points."""
    return _ending(folder, ("weight_zero_point", "weight_rows_zero_point"))


def _ending(folder: Path, ends: tuple[str, ...]) -> list[str]:
    graph = onnx.load(folder / ONNX_NAME, load_external_data=False).graph
    return [tensor.name for tensor in graph.initializer if tensor.name.endswith(ends)]


def _edit(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a tensor where it lies: saved anew, a table that two tensors share would be there twice."""
    model = onnx.load(folder / ONNX_NAME, load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    before = numpy_helper.to_array(tensor, base_dir=os.fspath(folder))
    after = numpy_helper.from_array(change(before), name)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        (offset,) = (int(entry.value) for entry in tensor.external_data if entry.key == "offset")
        with (folder / ONNX_DATA_NAME).open("r+b") as data:
            data.seek(offset)
            data.write(after.raw_data)
    else:
        tensor.CopyFrom(after)
        onnx.save(model, folder / ONNX_NAME)
