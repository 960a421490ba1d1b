"""Finds the model that a user names: a hub id, a local folder, or the bundled model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from qexport.core import shown
from qexport.inputs.bundle import find_bundled
from qexport.inputs.models import locate_model
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
    bundled_model = find_bundled(f"models/{REFERENCE}") if spec == REFERENCE and not Path(spec).exists() else None
    found = locate_model(
        bundled_model or spec, revision=revision, allow_pickle=trust.allow_pickle, trust_remote_code=trust.remote_code
    )
    return replace(found, name=shown(found.name))
