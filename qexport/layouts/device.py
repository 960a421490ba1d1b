"""The device that an artifact was made for."""

from __future__ import annotations

from qexport.artifact import Artifact

_GPU_TARGETS = ("cuda", "tensorrt")


def runs_on_gpu(artifact: Artifact) -> bool:
    """Whether an artifact was made for a GPU."""
    return artifact.manifest.settings.get("target") in _GPU_TARGETS
