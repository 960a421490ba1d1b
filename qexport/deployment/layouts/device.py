"""The device that an artifact was made for."""

from __future__ import annotations

from qexport.core import Artifact

_GPU_TARGETS = ("cuda", "tensorrt")


def runs_on_gpu(artifact: Artifact) -> bool:
    """True if an artifact was made for a GPU."""
    return artifact.manifest.settings.get("target") in _GPU_TARGETS
