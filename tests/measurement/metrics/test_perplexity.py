from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from qexport.core import stats
from qexport.core.errors import ContractError
from qexport.measurement import distributions
from qexport.measurement.metrics import perplexity
from qexport.measurement.metrics.trial import Trial
from qexport.runtime.opening import open_session
from tests import decoders


def trial(*sequences: list[int]) -> Trial:
    ids = tuple(np.array(sequence) for sequence in sequences)
    return Trial(sequences=ids, warmups=0, round=0, baseline_rss_bytes=0)


@pytest.fixture
def bigram(tmp_path):
    """A session whose next-token probabilities are the rows of a table."""

    def make(probabilities):
        with np.errstate(divide="ignore"):
            return open_session(decoders.save(tmp_path / "a", decoders.bigram(np.log(np.array(probabilities)))))

    return make


def test_hand_arithmetic(bigram):
    session = bigram([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]])
    samples = perplexity.score(session, trial([0, 1, 2], [0, 0]))
    assert samples.columns == ("nll_nats", "tokens")
    (first, tokens), (second, one) = samples.rows
    assert (tokens, one) == (2, 1)
    assert first == pytest.approx(-math.log(0.25 * 0.8), abs=1e-6)  # float32 logits
    assert second == pytest.approx(math.log(2), abs=1e-6)
    corpus = stats.perplexity([first, second], [tokens, one]).value
    assert corpus == pytest.approx((1 / (0.25 * 0.8 * 0.5)) ** (1 / 3), rel=1e-6)
    sentence = stats.sentence_perplexity([first, second], [tokens, one]).value
    assert sentence == pytest.approx((math.sqrt(5) + 2) / 2, rel=1e-6)


def test_another_table_gives_another_figure(bigram):
    session = bigram([[0.5, 0.25, 0.25], [0.1, 0.1001, 0.7999], [1 / 3, 1 / 3, 1 / 3]])
    ((nll, _),) = perplexity.score(session, trial([0, 1, 2])).rows
    assert nll != pytest.approx(-math.log(0.25 * 0.8), abs=1e-5)


def test_large_logits_neither_overflow_nor_vanish():
    logits = np.array([[1e4, 1e4 - 1.0], [-1e4, -1e4 + 2.0], [0, 0]], np.float32)
    expected = math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0))
    assert perplexity.sequence_nll(logits, np.array([1, 0, 1])) == pytest.approx(expected, abs=1e-12)


def test_chunks_do_not_change_the_sum(monkeypatch):
    rng = np.random.default_rng(0)
    logits, ids = rng.standard_normal((50, 11)).astype(np.float32), rng.integers(0, 11, 50)
    whole = perplexity.sequence_nll(logits, ids)
    for values in (1, 11, 44, 11 * 49):
        monkeypatch.setattr(distributions, "_CHUNK_VALUES", values)
        assert perplexity.sequence_nll(logits, ids) == pytest.approx(whole, rel=1e-14)


def test_memory_stays_bounded_for_a_large_vocabulary():
    logits = np.zeros((512, 50257), np.float32)
    ids = np.zeros(512, np.int64)
    tracemalloc.start()
    nll = perplexity.sequence_nll(logits, ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert nll == pytest.approx(511 * math.log(50257), rel=1e-12)
    assert peak < 64 * 2**20  # the logits are 103 MB, all of them in float64 206 MB


def test_a_likelihood_that_is_not_finite_is_an_error(bigram):
    session = bigram([[1.0, 0.0], [0.5, 0.5]])
    with pytest.raises(ContractError, match="sequence 1 "):
        perplexity.score(session, trial([1, 1], [0, 1]))
