"""Which side a graph takes padding on, and a client gives it on."""

from __future__ import annotations

from qexport.artifact import Artifact
from qexport.errors import UnsupportedHere


def require_left(artifact: Artifact, runtime: str) -> None:
    """Make sure that a batch padded on the left comes out right.

    Raises:
        UnsupportedHere: the graph takes padding on the right only, and would write other tokens without a word.
    """
    if artifact.manifest.exporter == "fused-cuda":
        raise UnsupportedHere(
            f"{artifact.path}: {runtime} pads batches on the left, and graphs of --exporter fused-cuda take padding on the "
            "right only; export with --exporter optimum, or fused for CPUs, or deploy --to genai, which pads on the right"
        )
