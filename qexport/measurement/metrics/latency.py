"""Seconds per sentence: one forward pass over all its tokens, without a past."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import numpy as np

from qexport.measurement.metrics.trial import Samples, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qexport.runtime import Session

COLUMNS = ("latency_s", "tokens", "round")


def time_sentences(session: Session, trial: Trial) -> Samples:
    """Time every sentence, after ``trial.warmups`` sentences that are kept apart.

    With several passes, the shortest time of each sentence counts: a disturbance only adds time.
    """

    def timed(ids: NDArray[np.int64]) -> tuple[float, ...]:
        batch = ids[np.newaxis]
        start = time.perf_counter()
        session.logits(batch)
        return (time.perf_counter() - start, float(len(ids)), float(trial.round))

    warmups = tuple(timed(ids) for ids in itertools.islice(itertools.cycle(trial.sequences), trial.warmups))
    passes = [[timed(ids) for ids in trial.sequences] for _ in range(trial.repeats)]
    return Samples(
        columns=COLUMNS, rows=tuple(map(min, *passes)) if len(passes) > 1 else tuple(passes[0]), warmups=warmups
    )
