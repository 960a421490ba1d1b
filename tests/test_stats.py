from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qexport import stats

NLL = st.floats(0.01, 500.0)
TOKENS = st.integers(1, 100)
RUN = st.lists(st.tuples(NLL, TOKENS), min_size=1, max_size=20)
TIMES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20)
quick = settings(max_examples=40, deadline=None)


def columns(run):
    nll, tokens = zip(*run, strict=True)
    return np.array(nll), np.array(tokens)


def test_corpus_perplexity_by_hand():
    # (ln 2 * 3 + ln 8 * 1) / 4 tokens = 6 ln 2 / 4: not the mean of 2 and 8, nor that of the two means.
    assert stats.perplexity([3 * math.log(2), math.log(8)], [3, 1]).value == pytest.approx(2**1.5, rel=1e-14)


def test_sentence_perplexity_by_hand():
    # Sentences of perplexity 2 (three tokens) and 8 (one token): their mean is 5, whatever their lengths.
    assert stats.sentence_perplexity([3 * math.log(2), math.log(8)], [3, 1]).value == pytest.approx(5.0, rel=1e-14)


def test_the_ratio_by_hand():
    # 6 ln 2 over 4 tokens against 4 ln 2 over 4 tokens: 2 ** 1.5 / 2.
    ratio = stats.perplexity_ratio([3 * math.log(2), math.log(8)], [3 * math.log(2), math.log(2)], [3, 1])
    assert ratio.value == pytest.approx(math.sqrt(2), rel=1e-14)
    # Drawn are both windows (sqrt 2), the first twice (1), or the second twice (4).
    assert (ratio.low, ratio.high) == pytest.approx((1.0, 4.0), rel=1e-14)


def test_means_by_hand():
    assert stats.mean([1.0, 2.0, 6.0]).value == 3.0
    assert stats.mean_ratio([2.0, 4.0], [1.0, 3.0]).value == 1.5
    assert stats.median_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]).value == 2.0
    assert stats.percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5


@quick
@given(RUN)
def test_a_run_against_itself_is_exactly_one(run):
    nll, tokens = columns(run)
    one = stats.Interval(value=1.0, low=1.0, high=1.0)
    assert stats.perplexity_ratio(nll, nll, tokens) == one
    assert stats.mean_ratio(nll, nll) == one
    assert stats.median_ratio(nll, nll) == one


@quick
@given(RUN, st.floats(1.001, 3.0))
def test_a_run_worse_on_every_token_by_one_factor_has_no_uncertainty(run, factor):
    """The text's difficulty cancels: only what differs between the two runs is left."""
    nll, tokens = columns(run)
    ratio = stats.perplexity_ratio(nll + tokens * math.log(factor), nll, tokens)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((factor, factor, factor), rel=1e-9)


@quick
@given(RUN)
def test_the_ratio_is_that_of_the_perplexities(run):
    nll, tokens = columns(run)
    worse = nll * 1.01 + 0.1
    ratio = stats.perplexity(worse, tokens).value / stats.perplexity(nll, tokens).value
    assert stats.perplexity_ratio(worse, nll, tokens).value == pytest.approx(ratio, rel=1e-9)
    back = stats.perplexity_ratio(nll, worse, tokens)
    there = stats.perplexity_ratio(worse, nll, tokens)
    assert back.value == pytest.approx(1 / there.value, rel=1e-9)


@quick
@given(RUN)
def test_intervals_are_ordered_and_within_the_samples(run):
    nll, tokens = columns(run)
    each = np.exp(nll / tokens)
    for interval in (stats.perplexity(nll, tokens), stats.sentence_perplexity(nll, tokens)):
        assert interval.low <= interval.high
        assert each.min() * (1 - 1e-9) <= interval.low
        assert interval.high <= each.max() * (1 + 1e-9)
        assert each.min() * (1 - 1e-9) <= interval.value <= each.max() * (1 + 1e-9)


@quick
@given(RUN)
def test_the_mean_of_sentences_is_not_below_the_corpus_when_lengths_are_equal(run):
    nll, tokens = columns([(value, 7) for value, _ in run])
    corpus, sentences = stats.perplexity(nll, tokens).value, stats.sentence_perplexity(nll, tokens).value
    assert sentences >= corpus * (1 - 1e-12)  # Jensen


@quick
@given(TIMES, st.floats(0.1, 10.0))
def test_ratios_of_times_scale(times, factor):
    scaled = [factor * value for value in times]
    assert stats.mean_ratio(scaled, times).value == pytest.approx(factor, rel=1e-9)
    assert stats.median_ratio(scaled, times).value == pytest.approx(factor, rel=1e-9)


@quick
@given(RUN, st.integers(0, 3))
def test_the_same_seed_gives_the_same_interval(run, seed):
    nll, tokens = columns(run)
    assert stats.perplexity(nll, tokens, seed=seed) == stats.perplexity(nll, tokens, seed=seed)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = stats.mean(rng.normal(3.0, 1.0, size=60), seed=trial)
        hits += interval.low <= 3.0 <= interval.high
    assert 180 <= hits <= 198  # 95 percent of 200, within three standard errors


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(1)
    nll = rng.gamma(20.0, 5.0, size=100)
    tokens = np.full(100, 50)
    worse = nll + rng.normal(0.5, 0.1, size=100)
    paired = stats.perplexity_ratio(worse, nll, tokens)
    alone = stats.perplexity(worse, tokens)
    assert (paired.high - paired.low) / paired.value < (alone.high - alone.low) / alone.value / 20


@quick
@given(RUN)
def test_one_window_that_lost_a_hundredth_of_a_nat_shows(run):
    nll, tokens = columns(run)
    worse = nll.copy()
    worse[0] += 0.01
    assert stats.perplexity_ratio(worse, nll, tokens).value > 1.0
