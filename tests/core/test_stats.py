from __future__ import annotations

import itertools
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qexport.core import stats
from qexport.core.errors import NotComparable

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


def test_drift_by_hand():
    # A window of 3 tokens that lost 6 nats and one of 2 that gained 2: 2 and -1 nats a token.
    found = stats.drift([10.0, 3.0], [4.0, 5.0], [3, 2])
    assert found.value == pytest.approx(math.sqrt((4 + 1) / 2), rel=1e-14)
    # Drawn are both windows, the first twice, or the second twice.
    assert (found.low, found.high) == pytest.approx((1.0, 2.0), rel=1e-14)


@quick
@given(RUN)
def test_no_drift_from_itself(run):
    nll, tokens = columns(run)
    assert stats.drift(nll, nll, tokens) == stats.Interval(value=0.0, low=0.0, high=0.0)


@quick
@given(RUN)
def test_drift_is_the_same_both_ways(run):
    nll, tokens = columns(run)
    other = nll * 0.9 + 0.1
    assert stats.drift(nll, other, tokens) == stats.drift(other, nll, tokens)


def test_what_cancels_in_a_ratio_does_not_in_drift():
    nll, tokens = np.full(8, 10.0), np.full(8, 5)
    swapped = nll + np.tile([1.0, -1.0], 4)
    assert stats.perplexity_ratio(swapped, nll, tokens).value == 1.0
    drift = stats.drift(swapped, nll, tokens)
    assert (drift.low, drift.value, drift.high) == pytest.approx((0.2, 0.2, 0.2), rel=1e-12)


@quick
@given(RUN, st.floats(0.01, 1.0))
def test_drift_of_windows_that_lost_alike_on_each_token_has_no_uncertainty(run, nats):
    nll, tokens = columns(run)
    drift = stats.drift(nll + nats * tokens, nll, tokens)
    assert (drift.low, drift.value, drift.high) == pytest.approx((nats, nats, nats), rel=1e-6)


@pytest.mark.parametrize(
    "interval",
    [
        lambda one, _, tokens, confidence: stats.perplexity(one, tokens, confidence=confidence),
        lambda one, other, tokens, confidence: stats.perplexity_ratio(one, other, tokens, confidence=confidence),
        lambda one, other, tokens, confidence: stats.drift(one, other, tokens, confidence=confidence),
        lambda one, other, _, confidence: stats.mean_ratio(one, other, confidence=confidence),
    ],
    ids=["perplexity", "perplexity_ratio", "drift", "mean_ratio"],
)
def test_more_confidence_is_a_wider_interval(interval):
    rng = np.random.default_rng(3)
    other, tokens = rng.gamma(20.0, 5.0, size=40), rng.integers(20, 60, size=40)
    one = other + rng.normal(0.5, 1.0, size=40)
    found = [interval(one, other, tokens, confidence) for confidence in (0.5, 0.8, 0.95, 0.99, 0.995)]
    for narrow, wide in itertools.pairwise(found):
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
        assert wide.value == narrow.value


def test_95_percent_is_what_is_meant_where_nothing_is_said():
    one, other, tokens = [5.0, 6.0, 9.0], [4.0, 7.0, 8.0], [2, 3, 4]
    assert stats.CONFIDENCE == 0.95
    for function in (stats.perplexity_ratio, stats.drift):
        assert function(one, other, tokens) == function(one, other, tokens, confidence=0.95)


def test_the_interval_of_drift_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = {0.8: 0, 0.95: 0}
    tokens = np.full(80, 50)
    for trial in range(200):
        nll = rng.gamma(20.0, 5.0, size=80)
        changed = nll + rng.normal(0.0, 0.5, size=80)  # a hundredth of a nat a token
        for confidence in hits:
            found = stats.drift(changed, nll, tokens, confidence=confidence, seed=trial)
            hits[confidence] += found.low <= 0.01 <= found.high
    assert 140 <= hits[0.8] <= 177
    assert 180 <= hits[0.95] <= 199


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


def answers(*, both=0, lost=0, gained=0, neither=0):
    """Two runs' answers to the same questions, so many of each kind: ``correct``, ``base_correct``."""
    kinds = ((1, 1),) * both + ((0, 1),) * lost + ((1, 0),) * gained + ((0, 0),) * neither
    return [ours for ours, _ in kinds], [base for _, base in kinds]


def test_accuracy_by_hand():
    assert stats.accuracy([1, 1, 0, 1]).value == 0.75
    assert stats.accuracy([1, 1]) == stats.Interval(value=1.0, low=1.0, high=1.0)
    assert stats.accuracy([0.0, 0.0]) == stats.Interval(value=0.0, low=0.0, high=0.0)
    assert stats.accuracy_ratio(*answers(both=6, lost=4, gained=3, neither=7)).value == 0.9


def test_accuracy_has_the_interval_of_a_mean():
    ours, base = answers(both=200, lost=30, gained=10, neither=160)
    accuracy, mean = stats.accuracy(ours), stats.mean(ours)
    assert (accuracy.low, accuracy.high) == pytest.approx((mean.low, mean.high), abs=0.005)
    assert 0.09 < accuracy.high - accuracy.low < 0.11  # 2 * 1.96 * sqrt(0.525 * 0.475 / 400)
    ratio, of_means = stats.accuracy_ratio(ours, base), stats.mean_ratio(ours, base)
    assert ratio.value == pytest.approx(of_means.value)
    assert (ratio.low, ratio.high) == pytest.approx((of_means.low, of_means.high), abs=0.005)


@quick
@given(st.integers(0, 50), st.integers(0, 50))
def test_accuracy_against_itself_is_exactly_one_where_there_is_a_ratio(right, wrong):
    correct = [1] * right + [0] * wrong
    if not correct:
        return
    ratio = stats.accuracy_ratio(correct, correct)
    assert ratio == (stats.Interval(value=1.0, low=1.0, high=1.0) if right else None)


@pytest.mark.parametrize("ours", [0, 1], ids=["wrong", "right"])
def test_there_is_no_ratio_to_nothing(ours):
    assert stats.accuracy_ratio([ours] * 20, [0] * 20) is None
    # 0.95 ** 20: a third of the resamples have no right answer of the baseline.
    assert stats.accuracy_ratio([ours] * 19 + [1], [1] + [0] * 19) is None


def test_a_few_resamples_without_a_right_answer_leave_the_ratio():
    ours, base = answers(lost=5, gained=10, neither=385)
    draws = np.random.default_rng(0).multinomial(400, [5 / 400, 395 / 400], size=stats.RESAMPLES)
    assert (draws[:, 0] == 0).any()  # exp(-5) of them
    ratio = stats.accuracy_ratio(ours, base)
    assert ratio.value == 2.0
    assert 0 < ratio.low < 2.0 < ratio.high < math.inf


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (5, 0, 2 / 32),
        (3, 1, 2 * (1 + 4) / 16),
        (1, 0, 1.0),
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_by_hand(lost, gained, p):
    found = stats.mcnemar(*answers(both=7, lost=lost, gained=gained, neither=5))
    assert found == stats.McNemar(lost=lost, gained=gained, p=p)


@quick
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9))
def test_mcnemar_counts_the_splits_at_least_as_uneven(lost, gained, alike):
    tosses = list(product((-1, 1), repeat=lost + gained))
    uneven = sum(abs(sum(toss)) >= abs(lost - gained) for toss in tosses)
    assert stats.mcnemar(*answers(both=alike, lost=lost, gained=gained)).p == pytest.approx(uneven / len(tosses))


def test_mcnemar_holds_for_thousands_of_pairs():
    z = (2600 - 2400 - 1) / math.sqrt(5000)  # the normal distribution, with the correction for whole numbers
    assert stats.mcnemar(*answers(lost=2600, gained=2400)).p == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.005)
    assert stats.mcnemar(*answers(lost=7000, both=7000)).p == 0.0  # 2 ** -6999, less than any float
    assert stats.mcnemar(*answers(lost=7000, gained=7000)).p == 1.0


@pytest.mark.parametrize("compare", [stats.mcnemar, stats.accuracy_ratio])
def test_other_questions_are_not_compared(compare):
    with pytest.raises(NotComparable, match="3 questions and 1 are not the same ones"):
        compare([1, 0, 1], [1])


# Distances from the baseline


def test_token_means_weigh_windows_by_their_tokens():
    sums, tokens = [1.0, 6.0, 2.0], [10.0, 20.0, 10.0]
    assert stats.token_mean(sums, tokens).value == pytest.approx(9 / 40)
    assert stats.token_rms(sums, tokens).value == pytest.approx(math.sqrt(9 / 40))
    mean, root = stats.token_mean(sums, tokens), stats.token_rms(sums, tokens)
    assert (root.low, root.high) == (math.sqrt(mean.low), math.sqrt(mean.high))
    assert mean.low < mean.value < mean.high
    wider = stats.token_mean(sums, tokens, confidence=0.99)
    assert wider.high - wider.low >= mean.high - mean.low


def test_a_quantile_is_of_tokens_and_its_interval_of_windows():
    rng = np.random.default_rng(0)
    windows = np.repeat(np.arange(20), 50)
    values = rng.exponential(size=1000) * (1 + windows / 10)
    for quantile in (0.5, 0.999):
        found = stats.token_quantile(values, windows, quantile)
        assert found.value == np.quantile(values, quantile, method="inverted_cdf")
        assert found.low <= found.value <= found.high
    scattered = stats.token_quantile(values, np.arange(1000), 0.5)
    together = stats.token_quantile(values, windows, 0.5)
    assert together.high - together.low > scattered.high - scattered.low
