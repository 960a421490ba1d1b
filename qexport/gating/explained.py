"""The drift that kernels of two CPUs explain, by the arithmetic of an artifact.

The figures are of docs/results/cpus.md, which `make test-cpus` measures: the largest of all pairs of CPUs and models
there, rounded up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qexport.inputs.budgets import DRIFT
from qexport.verdict import Bounds

if TYPE_CHECKING:
    from qexport.artifact import Manifest

EXPLAINED_NATS = {
    "float": 0.00002,
    "8-bit activations": 0.00002,
    "float8": 0.00002,
    "blocks": 0.00005,
    "blocks, int8 compute": 0.0005,
    "torch": 0.00005,
    "torch, 8-bit activations": 0.001,
}
"""Nats per token, as :func:`qexport.stats.drift` counts them."""


def arithmetic(manifest: Manifest) -> str:
    """The key of :data:`EXPLAINED_NATS` that an artifact's products belong to."""
    rounded = any(node.activation != "none" for node in manifest.quantized)
    if manifest.kind == "torch":
        return "torch, 8-bit activations" if rounded else "torch"
    if any(node.weight_dtype.startswith("float8") for node in manifest.quantized):
        return "float8"
    if rounded:
        return "8-bit activations"
    if not manifest.quantized:
        return "float"
    return "blocks, int8 compute" if manifest.settings.get("compute") == "int8" else "blocks"


def explained_nats(manifest: Manifest) -> float:
    """The drift of the same artifact between two CPUs, in nats per token."""
    return EXPLAINED_NATS[arithmetic(manifest)]


def widened(metric: str, bounds: Bounds, nats: float) -> Bounds:
    """Bounds for a figure of one CPU against a baseline of another, whose kernels explain so many nats per token.

    Two independent drifts add up as the root of their squares. A perplexity changes by at most the drift's exponential.
    """
    if metric == DRIFT:
        assert bounds.at_most is not None
        return Bounds(at_most=math.hypot(bounds.at_most, nats))
    return Bounds(
        at_least=None if bounds.at_least is None else bounds.at_least * math.exp(-nats),
        at_most=None if bounds.at_most is None else bounds.at_most * math.exp(nats),
    )
