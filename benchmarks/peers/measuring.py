"""The quality of a model against the baseline's, window by window, and times of all models in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.runner import Runner
from benchmarks.peers.texts import Windows
from benchmarks.peers.workshop import Skipped
from qexport.core import progress
from qexport.measurement.cpu_load import Meter
from qexport.measurement.distributions import DRAWN_LOGITS, TOP_LOGITS, Kept, Scored, distances

ROUNDS, WARM_UPS = 11, 1
SENTENCE_TOKENS, PAST_TOKENS, STEPS = 32, 64, 8


class Quality:
    """Scores models; the first is the baseline."""

    def __init__(self, texts: list[Windows], folder: Path) -> None:
        self._texts = texts
        self._folder = folder
        self._kept: dict[str, list[Kept]] = {}

    def score(self, runner: Runner) -> dict[str, dict[str, list[float]]]:
        """For each text the likelihood of each window, and its divergence from the baseline.

        Raises:
            Skipped: the process ended, or its logits are not of the baseline's form.
        """
        return {text.name: self._score(runner, text) for text in self._texts}

    def _score(self, runner: Runner, text: Windows) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"nll_nats": [], "kl_nats": [], "tokens": []}
        kept = self._kept.get(text.name, [])
        baseline = not kept
        logits = runner.logits(text.file, len(text.sequences), self._folder)
        for number, (ids, values) in enumerate(zip(text.sequences, logits, strict=True)):
            scored = Scored.of(values, ids)
            if not np.isfinite(scored.target_log_p.sum()):
                raise Skipped(f"window {number} of {text.name} has a likelihood that is not finite")
            if baseline:
                kept.append(Kept.of(scored, TOP_LOGITS, DRAWN_LOGITS))
            found["nll_nats"].append(round(-float(scored.target_log_p.sum()), 4))
            found["kl_nats"].append(float(f"{distances(kept[number], scored).kl_nats.sum():.6g}"))
            found["tokens"].append(len(scored.targets))
        self._kept[text.name] = kept
        return found


def time_all(runners: Mapping[str, Runner], ids: np.ndarray) -> Iterator[tuple[str, dict[str, Any]]]:
    """The times of each model, round by round in turn; a model that fails drops out with the reason.

    Args:
        runners: loaded models by label.
        ids: a window whose tokens are fed.
    """
    times: dict[str, dict[str, list[float]]] = {label: {"sentence_s": [], "token_s": []} for label in runners}
    failed: dict[str, str] = {}
    meter = Meter(lambda: [runner.pid for runner in runners.values()])
    with progress.task("timing", total=WARM_UPS + ROUNDS) as advance:
        for number in range(-WARM_UPS, ROUNDS):
            for label in [each for each in runners if each not in failed]:
                try:
                    sentence, token = _times(runners[label], ids)
                except Skipped as error:
                    failed[label] = str(error)
                    continue
                if number >= 0:
                    times[label]["sentence_s"].append(sentence)
                    times[label]["token_s"].append(token)
            advance()
    share = round(meter.share_of_others(), 3)
    for label, found in times.items():
        yield label, {"skipped": failed[label]} if label in failed else {**found, "share_of_others": share}


def _times(runner: Runner, ids: np.ndarray) -> tuple[float, float]:
    sentence = runner.sentence_s(ids[:SENTENCE_TOKENS])
    token = runner.token_s(ids[:PAST_TOKENS], ids[PAST_TOKENS : PAST_TOKENS + STEPS + 1])
    return round(sentence, 6), round(token, 6)
