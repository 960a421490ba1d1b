"""The side on which a graph accepts padding, and on which a client pads."""

from __future__ import annotations

from qexport.core import Artifact, UnsupportedHere


def right_only(artifact: Artifact) -> bool:
    """True if a graph takes its lengths by row: padding must be on the right, where the graph ignores it."""
    return artifact.manifest.exporter == "fused-cuda"


def require_left(artifact: Artifact, runtime: str) -> None:
    """Make sure that a graph computes a batch with padding on the left correctly.

    Raises:
        UnsupportedHere: the graph accepts padding on the right only, and would silently generate other tokens.
    """
    if right_only(artifact):
        raise UnsupportedHere(
            f"{artifact.path}: {runtime} pads batches on the left, and graphs of --exporter fused-cuda take padding on the "
            "right only; export with --exporter optimum, or fused for CPUs, or deploy --to genai, which pads on the right"
        )
