"""Optimum: ``ORTModelForCausalLM.from_pretrained(DIR)`` and ``pipeline("text-generation")``."""

from __future__ import annotations

from pathlib import Path

from qexport.artifact import ONNX_NAME, Artifact
from qexport.layouts import Laid, Layout, Request
from qexport.layouts.files import copy_model, copy_side_files
from qexport.layouts.padding import require_left


def check(artifact: Artifact) -> None:
    """See :class:`qexport.layouts.Layout`."""
    require_left(artifact, LAYOUT.runtime)


def write(request: Request, folder: Path) -> Laid:
    """The artifact's own files: it has Optimum's form already."""
    (artifact,) = request.artifacts
    copy_side_files(artifact, folder)
    copy_model(artifact, folder / ONNX_NAME)
    return Laid(models=(ONNX_NAME,), changes={})


LAYOUT = Layout(runtime="Optimum", check=check, write=write, proved={"optimum-onnx": "0.1.0", "transformers": "4.57.6"})
