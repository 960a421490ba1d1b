"""Which side a graph takes padding on, and a client gives it on."""

from __future__ import annotations

from qexport.artifact import Artifact
from qexport.errors import UnsupportedHere


def right_only(artifact: Artifact) -> bool:
    """Whether a graph takes its lengths by row: padding must stand on the right, and is not seen there."""
    return artifact.manifest.exporter == "fused-cuda"


def require_left(artifact: Artifact, runtime: str) -> None:
    """Make sure that a batch padded on the left comes out right.

    Raises:
        UnsupportedHere: the graph takes padding on the right only, and would write other tokens without a word.
    """
    if right_only(artifact):
        raise UnsupportedHere(
            f"{artifact.path}: {runtime} pads batches on the left, and graphs of --exporter fused-cuda take padding on the "
            "right only; export with --exporter optimum, or fused for CPUs, or deploy --to genai, which pads on the right"
        )
