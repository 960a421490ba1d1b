"""Whether a model fits before it is loaded: an estimate, so that the system need not kill anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qexport import cuda, ram
from qexport.artifact import ONNX_DATA_NAME
from qexport.errors import UnsupportedHere

if TYPE_CHECKING:
    from qexport.artifact import Artifact
    from qexport.runtime import Provider

_RUNTIME_BYTES = {"onnx": 100_000_000, "torch": 400_000_000}
"""What a process takes before it loads anything: 83 MB and 390 MB were measured."""
_EXPORT_BYTES, _EXPORT_BYTES_A_WEIGHT = 600_000_000, 12
"""The torch model, the graph and the file's bytes are there at once: 0.64 GB were measured for 0.8 million weights, and
2.59 GB for GPT-2, whose 124 million are 163 million in the graph, where the tied table is there twice."""
_WAY_OUT = "free some, take a machine with more, or a smaller model"


def require_fit(artifact: Artifact, provider: Provider) -> None:
    """Make sure that there is memory to load an artifact.

    Raises:
        UnsupportedHere: there is not; the message has the estimate and what is free.
    """
    _require("loading it", _needed_bytes(artifact), ram.available_bytes(), "memory")
    free = cuda.free_bytes() if provider == "cuda" else None
    if free is not None:
        _require("loading it", artifact.manifest.weight_bytes, free, "memory on the device")


def killed(artifact: Artifact, cause: str) -> UnsupportedHere:
    """The error of a process that was killed at work on an artifact, with the memory that loading the artifact takes."""
    needed = f"loading it takes about {_needed_bytes(artifact) / 1e9:.1f} GB, and running it more"
    return UnsupportedHere(f"{cause}: {needed}; {_WAY_OUT}")


def _needed_bytes(artifact: Artifact) -> int:
    manifest = artifact.manifest
    # A graph with its weights inside is read as a whole, and the weights copied out of it.
    inside = manifest.kind == "onnx" and not (artifact.path / ONNX_DATA_NAME).is_file()
    return _RUNTIME_BYTES[manifest.kind] + manifest.weight_bytes * (2 if inside else 1)


def require_export_fit(parameters: int, what: str) -> None:
    """Make sure that there is memory to export a model of so many weights.

    Raises:
        UnsupportedHere: there is not; the message has the estimate and what is free.
    """
    needed = _EXPORT_BYTES + _EXPORT_BYTES_A_WEIGHT * parameters
    _require(f"{what}: exporting {parameters / 1e6:,.0f} million weights", needed, ram.available_bytes(), "memory")


def _require(what: str, needed: int, free: int, kind: str) -> None:
    if needed > free:
        raise UnsupportedHere(
            f"{what} takes about {needed / 1e9:.1f} GB of {kind} and {free / 1e9:.1f} GB are free; {_WAY_OUT}"
        )
