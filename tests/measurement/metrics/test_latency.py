from __future__ import annotations

import time

import numpy as np

from qexport.measurement.metrics import latency
from qexport.measurement.metrics.trial import Trial


class Sleeper:
    """Takes a millisecond a token, and the first time much longer."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def logits(self, input_ids):
        time.sleep(0.001 * input_ids.shape[1] + (0.05 if not self.calls else 0))
        self.calls.append(input_ids.shape[1])


def test_every_sentence_is_timed_once_and_warm_ups_are_apart():
    session = Sleeper()
    sequences = tuple(np.zeros(length, np.int64) for length in (3, 9, 5))
    samples = latency.time_sentences(session, Trial(sequences=sequences, warmups=4, round=2, baseline_rss_bytes=0))
    assert samples.columns == ("latency_s", "tokens", "round")
    assert session.calls == [3, 9, 5, 3, 3, 9, 5]
    assert [row[1:] for row in samples.rows] == [(3, 2), (9, 2), (5, 2)]
    assert [row[1] for row in samples.warmups] == [3, 9, 5, 3]
    assert samples.warmups[0][0] >= 0.053
    for seconds, tokens, _ in samples.rows:
        assert 0.001 * tokens <= seconds < 0.05
