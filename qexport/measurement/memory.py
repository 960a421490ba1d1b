"""Estimates if a model fits into memory before it is loaded, so that the system need not kill a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qexport.core import ONNX_DATA_NAME, UnsupportedHere, cuda, ram

if TYPE_CHECKING:
    from qexport.core import Artifact, Provider

_RUNTIME_BYTES = {"onnx": 100_000_000, "torch": 400_000_000}
"""Memory of a process before it loads an artifact: 83 MB and 390 MB were measured."""
_EXPORT_BYTES, _EXPORT_BYTES_A_WEIGHT = 600_000_000, 12
"""The torch model, the graph and the file's bytes are in memory at once. Measured: 0.64 GB for 0.8 million weights, and
2.59 GB for GPT-2, whose 124 million weights are 163 million in the graph, which holds the tied table twice."""
_WAY_OUT = "free some, take a machine with more, or a smaller model"


def require_fit(artifact: Artifact, provider: Provider) -> None:
    """Make sure that an artifact fits into free memory.

    Raises:
        UnsupportedHere: it does not fit; the message has the estimate and the free memory.
    """
    _require("loading it", _needed_bytes(artifact), ram.available_bytes(), "memory")
    free = cuda.free_bytes() if provider == "cuda" else None
    if free is not None:
        _require("loading it", artifact.manifest.weight_bytes, free, "memory on the device")


def killed(artifact: Artifact, cause: str) -> UnsupportedHere:
    """The error for a process that was killed while it ran an artifact, with the estimate for loading the artifact."""
    needed = f"loading it takes about {_needed_bytes(artifact) / 1e9:.1f} GB, and running it more"
    return UnsupportedHere(f"{cause}: {needed}; {_WAY_OUT}")


def _needed_bytes(artifact: Artifact) -> int:
    manifest = artifact.manifest
    # A graph that holds its weights is read as a whole, and then the weights are copied out.
    inside = manifest.kind == "onnx" and not (artifact.path / ONNX_DATA_NAME).is_file()
    return _RUNTIME_BYTES[manifest.kind] + manifest.weight_bytes * (2 if inside else 1)


def require_export_fit(parameters: int, what: str) -> None:
    """Make sure that a model with this number of weights can be exported in free memory.

    Raises:
        UnsupportedHere: it cannot; the message has the estimate and the free memory.
    """
    needed = _EXPORT_BYTES + _EXPORT_BYTES_A_WEIGHT * parameters
    _require(f"{what}: exporting {parameters / 1e6:,.0f} million weights", needed, ram.available_bytes(), "memory")


def _require(what: str, needed: int, free: int, kind: str) -> None:
    if needed > free:
        raise UnsupportedHere(
            f"{what} takes about {needed / 1e9:.1f} GB of {kind} and {free / 1e9:.1f} GB are free; {_WAY_OUT}"
        )
