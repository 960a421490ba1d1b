"""Memory in separate figures: on disk, of the weights, loaded, of the whole process, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ram
from qexport.measurement.metrics.trial import Open, Samples, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qexport.core import Artifact
    from qexport.runtime import Session

_SENTENCES = 5


def disk_bytes(artifact: Artifact) -> int:
    """Bytes of all files of the artifact."""
    return artifact.disk_bytes


def weight_bytes(artifact: Artifact) -> int:
    """Bytes of the weights as stored. A tied weight counts once."""
    return artifact.manifest.weight_bytes


def resident(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
    """Resident memory of this process: the increase by loading, the peak, and the private and shared parts at the end.

    The fact ``baseline_rss_bytes`` is the memory of the libraries alone. The peak includes it; the increase does not.
    """
    session = open_session()
    loaded = max(0, ram.rss_bytes() - trial.baseline_rss_bytes)
    _run_some(session, trial)
    private, shared = ram.private_and_shared_bytes()
    figures = {
        "loaded_rss_bytes": loaded,
        "peak_rss_bytes": ram.peak_rss_bytes(),
        "final_private_bytes": private,
        "final_shared_bytes": shared,
    }
    facts: dict[str, float | int | str] = {"baseline_rss_bytes": trial.baseline_rss_bytes}
    return {name: Samples(columns=(name,), rows=((float(value),),), facts=facts) for name, value in figures.items()}


def on_device(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
    """Bytes of tensors on the device: after loading, and at the peak while a few sentences run."""
    session = open_session()
    loaded = session.device_bytes()
    _run_some(session, trial)
    figures = {"loaded_device_bytes": loaded, "peak_device_bytes": session.peak_device_bytes()}
    return {name: Samples(columns=(name,), rows=((float(value),),)) for name, value in figures.items()}


def _run_some(session: Session, trial: Trial) -> None:
    for ids in trial.sequences[:_SENTENCES]:
        session.logits(ids[np.newaxis])
