"""Finds the model that a user names: a hub id, a local folder, a GGUF file, or the name of a bundled experiment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from qexport.core import shown
from qexport.inputs.bundle import find_experiment
from qexport.inputs.experiment import load_experiment
from qexport.inputs.models import locate_model
from qexport.inputs.packages import is_packaged, packaged
from qexport.inputs.source import ModelSource

REFERENCE = "reference"
"""The name of the bundled model, which is really trained."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The kinds of code in a model's files that the user allows to run."""

    allow_pickle: bool = False
    remote_code: bool = False


NO_TRUST = Trust()


def locate(spec: str, revision: str | None, trust: Trust) -> ModelSource:
    place = _offline_model(spec) or spec
    found = locate_model(
        packaged(place) if is_packaged(place) else place,
        revision=revision,
        allow_pickle=trust.allow_pickle,
        trust_remote_code=trust.remote_code,
    )
    return replace(found, name=shown(found.name))


def _offline_model(name: str) -> str | None:
    """The model of a bundled experiment, if the hub is not needed for it."""
    experiment = find_experiment(name)
    model = load_experiment(experiment).model if experiment is not None else ""
    return model if is_packaged(model) or Path(model).is_dir() else None
