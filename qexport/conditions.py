"""What a measurement says of its artifact, and of the conditions that only the process knows that runs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qexport import __version__, cpu
from qexport.errors import UnsupportedHere
from qexport.record import Conditions

if TYPE_CHECKING:
    from qexport.artifact import Artifact, Manifest
    from qexport.runtime import Session

_PACKAGES = {"onnx": ("numpy", "onnxruntime"), "torch": ("numpy", "torch", "transformers")}
"""What running an artifact of each kind takes, and all it may take; quantized ones in torch take bitsandbytes too."""


def identity(artifact: Artifact) -> dict[str, Any]:
    """What a measurement says of its artifact, by field of :class:`qexport.record.Measurement`."""
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
    """Those that hold for every process on this machine."""
    return Conditions(machine=cpu.cpu_name(), isa=cpu.isa(), cores=cpu.cores(), commit=__version__)


def of_session(session: Session, versions: dict[str, str]) -> Conditions:
    """Those of an opened artifact."""
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
    """Import all that an artifact needs, so that the baseline holds it, and tell the versions.

    Raises:
        UnsupportedHere: something is not installed.
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
