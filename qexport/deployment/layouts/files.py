"""Copies an artifact's files into a layout."""

from __future__ import annotations

import shutil
from pathlib import Path

from qexport.core import ONNX_DATA_NAME, ONNX_NAME, Artifact

_GRAPH = (ONNX_NAME, ONNX_DATA_NAME)


def side_files(artifact: Artifact) -> set[tuple[str, str]]:
    """Paths and digests of the configuration and tokenizer files: all but the graph and its weights."""
    return {(info.path, info.sha256) for info in artifact.manifest.files if info.path not in _GRAPH}


def copy_side_files(artifact: Artifact, folder: Path) -> None:
    """Copy configuration and tokenizer."""
    for path, _ in side_files(artifact):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / path, folder / path)


def has_data(artifact: Artifact) -> bool:
    """True if the weights are in a separate file next to the graph."""
    return any(info.path == ONNX_DATA_NAME for info in artifact.manifest.files)


def copy_model(artifact: Artifact, path: Path, *, data: str = ONNX_DATA_NAME) -> str:
    """Copy the graph to ``path``, and its data file, if any, to the same folder with the name ``data``.

    Returns:
        The change to the graph; empty if its bytes are the artifact's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not has_data(artifact):
        shutil.copyfile(artifact.onnx_path, path)
        return ""
    shutil.copyfile(artifact.path / ONNX_DATA_NAME, path.parent / data)
    if data == ONNX_DATA_NAME:
        shutil.copyfile(artifact.onnx_path, path)
        return ""
    _point_to(artifact.onnx_path, path, data)
    return f"reads its weights from {data}, where this runtime looks for them"


def _point_to(source: Path, path: Path, data: str) -> None:
    """Write the graph again so that it reads its weights from the file ``data``."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data
    path.write_bytes(model.SerializeToString(deterministic=True))
