"""The part of a measurement that describes its artifact, and the conditions that only the running process knows."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qexport.core import VERSION, Conditions, UnsupportedHere, cpu

if TYPE_CHECKING:
    from qexport.core import Artifact, Manifest
    from qexport.runtime import Session

_PACKAGES = {"onnx": ("numpy", "onnxruntime"), "torch": ("numpy", "torch", "transformers")}
"""The only packages that may run an artifact of each kind; quantized ones in torch also take bitsandbytes."""


def identity(artifact: Artifact) -> dict[str, Any]:
    """The fields of a measurement that describe its artifact, by field of :class:`qexport.core.record.Measurement`."""
    manifest = artifact.manifest
    return {
        "model": manifest.model.name,
        "recipe": manifest.recipe,
        "selector": manifest.selection.rules if manifest.selection else "",
        "engine": manifest.engine,
        "artifact_sha256": artifact.sha256,
        "settings": manifest.settings,
    }


def here() -> Conditions:
    """The conditions that hold for every process on this machine."""
    return Conditions(machine=cpu.cpu_name(), isa=cpu.isa(), cores=cpu.cores(), commit=VERSION)


def of_session(session: Session, versions: dict[str, str]) -> Conditions:
    """The conditions of an opened artifact."""
    return here().model_copy(
        update={
            "threads": session.threads,
            "runtime": session.runtime,
            "provider": session.provider,
            "device": session.device,
            "kernel_class": session.kernel_class,
            "versions": versions,
        }
    )


def import_runtime(manifest: Manifest) -> dict[str, str]:
    """Import all that an artifact needs, so that it counts in the baseline, and return the versions.

    Raises:
        UnsupportedHere: a package is not installed.
    """
    packages = _PACKAGES[manifest.kind]
    if manifest.kind == "torch" and manifest.quantized:
        packages += ("bitsandbytes",)
    versions = {}
    for package in packages:
        try:
            versions[package] = str(importlib.import_module(package).__version__)
        except ImportError as error:
            raise UnsupportedHere(
                f"{package} cannot be imported ({error}); install qexport[cpu] or qexport[gpu]"
            ) from error
    return versions
