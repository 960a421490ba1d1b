"""The table of probes: the figures that one fresh process yields together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from qexport.core import CATALOGUE, DISTANCES, Artifact
from qexport.measurement.metrics import footprint, generation, latency, perplexity, session
from qexport.measurement.metrics.trial import Run, once
from qexport.runtime import Observe

NO_DEVICE = "runs on the CPU, which has no device memory"
NO_BASELINE = "no row in floating point was scored in this run to compare with; add fp32"


ON_DEVICE = frozenset({"loaded_device_bytes", "peak_device_bytes", "device_context_bytes", "device_increase_bytes"})
"""Metrics without a figure on the CPU."""


WITHOUT_FIGURE = {
    **dict.fromkeys(ON_DEVICE, NO_DEVICE),
    **dict.fromkeys(DISTANCES, NO_BASELINE),
    "response_correct": "no answer is expected; name one under [session] in the experiment",
}
"""The reason why a probe that ran may have no figure for a metric."""


Kind = Literal["windows", "sentences", "prompts"]
"""The kind of a token set."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Figures of an artifact that need no run."""

    read: Mapping[str, Callable[[Artifact], int]]
    """The readers by metric; each returns bytes."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.read)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Figures of a running artifact that one fresh process yields together."""

    metrics: tuple[str, ...]
    tokens: Kind
    """The kind of the input token set."""
    run: Run
    observe: Observe = "nothing"
    replay: bool = False
    """True if steps may be replayed as a CUDA graph: only a decoder runs."""
    rounds: bool = False
    """True if the probe is timed: in several rounds of fresh processes, with the artifacts in turn."""


PROBES: Mapping[str, Stored | Probe] = {
    "files": Stored(read={"disk_bytes": footprint.disk_bytes, "weight_bytes": footprint.weight_bytes}),
    "resident memory": Probe(
        metrics=("loaded_rss_bytes", "peak_rss_bytes", "final_private_bytes", "final_shared_bytes"),
        tokens="sentences",
        run=footprint.resident,
    ),
    "device memory": Probe(
        metrics=("loaded_device_bytes", "peak_device_bytes"),
        tokens="sentences",
        run=footprint.on_device,
        observe="device memory",
    ),
    "sentences": Probe(
        metrics=("latency_s",), tokens="sentences", run=once("latency_s", latency.time_sentences), rounds=True
    ),
    "generation": Probe(
        metrics=("first_token_s", "token_latency_s", "generation_s", "sequential_s", "tokens_per_s"),
        tokens="prompts",
        run=generation.one_by_one,
        replay=True,
        rounds=True,
    ),
    "batched generation": Probe(
        metrics=("batch_s", "batch_tokens_per_s"), tokens="prompts", run=generation.as_batch, replay=True, rounds=True
    ),
    "perplexity": Probe(
        metrics=("perplexity", *DISTANCES), tokens="windows", run=perplexity.score_windows, observe="kernels"
    ),
    "sentence perplexity": Probe(
        metrics=("sentence_perplexity",),
        tokens="sentences",
        run=once("sentence_perplexity", perplexity.score),
        observe="kernels",
    ),
    "session": Probe(
        metrics=tuple(metric.name for metric in CATALOGUE.values() if metric.group == "session"),
        tokens="prompts",
        run=session.profile,
        observe="warnings",
        rounds=True,
    ),
}
"""The probes by name, in the order in which they run."""


def probe_of(metric: str) -> str:
    """The name of the probe that yields a metric; empty for metrics of tasks."""
    return next((name for name, probe in PROBES.items() if metric in probe.metrics), "")


def is_timed(name: str) -> bool:
    """True if a probe is timed: in several rounds of fresh processes, the artifacts in turn."""
    probe = PROBES[name]
    return isinstance(probe, Probe) and probe.rounds


def kind_of_tokens(metric: str) -> Kind | None:
    """The kind of token set of a metric; None for metrics without a run and metrics of tasks."""
    probe = PROBES.get(probe_of(metric))
    return probe.tokens if isinstance(probe, Probe) else None
