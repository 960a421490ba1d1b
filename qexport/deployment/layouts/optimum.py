"""Optimum: ``ORTModelForCausalLM.from_pretrained(DIR)`` and ``pipeline("text-generation")``."""

from __future__ import annotations

from pathlib import Path

from qexport.core import ONNX_NAME, Artifact
from qexport.deployment.layouts.files import copy_model, copy_side_files
from qexport.deployment.layouts.layout import Laid, Layout, Request
from qexport.deployment.layouts.padding import require_left


def check(artifact: Artifact) -> None:
    """See :class:`qexport.deployment.layouts.layout.Layout`."""
    require_left(artifact, LAYOUT.runtime)


def write(request: Request, folder: Path) -> Laid:
    """Copy the artifact's own files, which already have Optimum's form."""
    (artifact,) = request.artifacts
    copy_side_files(artifact, folder)
    copy_model(artifact, folder / ONNX_NAME)
    return Laid(models=(ONNX_NAME,), changes={})


LAYOUT = Layout(runtime="Optimum", check=check, write=write, proved={"optimum-onnx": "0.1.0", "transformers": "4.57.6"})
