"""The drift that different kernels of two CPUs explain, by the arithmetic of an artifact.

The figures are at least 1.4 times the largest of each arithmetic in docs/results/cpus.md; `make test-cpus` checks them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qexport.gating.budgets import DRIFT
from qexport.gating.verdict import Bounds

if TYPE_CHECKING:
    from qexport.core import Manifest

EXPLAINED_NATS = {
    "float": (0.00002, 0.0001),
    "8-bit activations": (0.0005, 0.002),
    "float8": (0.0005, 0.002),
    "blocks": (0.00005, 0.0001),
    "blocks, int8 compute": (0.001, 0.02),
    "torch": (0.002, 0.002),
    "torch, 8-bit activations": (0.002, 0.002),
}
"""Nats per token, as in :func:`qexport.core.stats.drift`: between two x86-64 CPUs with FMA, and between any others.

The order of sums is the same on all CPUs with FMA, except in a softmax. Without FMA every product rounds differently,
and a last bit makes a whole step if an activation lies midway between two of its 8-bit levels.
"""


def arithmetic(manifest: Manifest) -> str:
    """The key of :data:`EXPLAINED_NATS` for an artifact's products."""
    rounded = any(node.activation != "none" for node in manifest.quantized)
    if manifest.kind == "torch":
        return "torch, 8-bit activations" if rounded else "torch"
    if any(node.weight_dtype.startswith("float8") for node in manifest.quantized):
        return "float8"
    if rounded:
        return "8-bit activations"
    if not manifest.quantized:
        return "float"
    return "blocks, int8 compute" if manifest.int8_compute else "blocks"


def explained_nats(manifest: Manifest, *, fma: bool) -> float:
    """The drift of the same artifact between two CPUs, in nats per token; ``fma`` if both have FMA."""
    near, far = EXPLAINED_NATS[arithmetic(manifest)]
    return near if fma else far


def widened(metric: str, bounds: Bounds, nats: float) -> Bounds:
    """Bounds for a figure of one CPU against a baseline of another CPU; different kernels explain ``nats`` per token.

    Two independent drifts add up as the root of their squares. A perplexity changes by at most the drift's exponential.
    """
    if metric == DRIFT:
        assert bounds.at_most is not None
        return Bounds(at_most=math.hypot(bounds.at_most, nats))
    return Bounds(
        at_least=None if bounds.at_least is None else bounds.at_least * math.exp(-nats),
        at_most=None if bounds.at_most is None else bounds.at_most * math.exp(nats),
    )
