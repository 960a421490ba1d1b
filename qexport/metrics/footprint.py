"""Memory as figures that are never mixed: on disk, of the weights, loaded, of the whole process, on the device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qexport.metrics import Samples, Trial

if TYPE_CHECKING:
    from qexport.artifact import Artifact
    from qexport.runtime import Session

_SENTENCES = 5
_STATUS = Path("/proc/self/status")
_KIB = 1024


def disk_bytes(artifact: Artifact) -> int:
    """Bytes of all files of the artifact."""
    return artifact.disk_bytes


def weight_bytes(artifact: Artifact) -> int:
    """Bytes of the weights as stored, tied ones once."""
    return artifact.manifest.weight_bytes


def peak_rss(session: Session, trial: Trial) -> Samples:
    """Most memory this process ever held resident: libraries, loading, and a few sentences.

    The fact ``baseline_rss_bytes`` is what the libraries alone took.
    """
    _run_some(session, trial)
    facts: dict[str, float | int | str] = {"baseline_rss_bytes": trial.baseline_rss_bytes}
    return Samples(columns=("peak_rss_bytes",), rows=((float(peak_rss_bytes()),),), facts=facts)


def loaded_rss(session: Session, trial: Trial) -> Samples:
    """Resident memory that loading the artifact added, weights and what the runtime made of them: nothing has run yet.

    The fact ``baseline_rss_bytes`` is what the libraries alone took; it is not in the figure.
    """
    del session  # it is held by the caller
    added = rss_bytes() - trial.baseline_rss_bytes
    facts: dict[str, float | int | str] = {"baseline_rss_bytes": trial.baseline_rss_bytes}
    return Samples(columns=("loaded_rss_bytes",), rows=((float(max(0, added)),),), facts=facts)


def peak_device(session: Session, trial: Trial) -> Samples:
    """Most bytes of tensors held on the device at once while a few sentences ran, the weights included."""
    _run_some(session, trial)
    return Samples(columns=("peak_device_bytes",), rows=((float(session.peak_device_bytes()),),))


def _run_some(session: Session, trial: Trial) -> None:
    for ids in trial.sequences[:_SENTENCES]:
        session.logits(ids[np.newaxis])


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory.

    On Linux VmHWM, which starts anew with the program: ``ru_maxrss`` goes on from the parent's.
    """
    if _STATUS.is_file():
        return _status_bytes("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB


def rss_bytes() -> int:
    """Memory of this process that is resident now; on other systems than Linux its high-water mark so far."""
    return _status_bytes("VmRSS") if _STATUS.is_file() else peak_rss_bytes()


def _status_bytes(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * _KIB
