"""Distances from the baseline against a plain computation in float64 from all logits."""

from __future__ import annotations

import numpy as np
import pytest

from qexport.core.errors import NotComparable
from qexport.measurement import distributions
from qexport.measurement.distributions import Kept, Scored, distances, keeping, kept_in

POSITIONS = 40


def logits(vocab, *, seed=0, spread=3.0):
    """Logits of a model that is sure of a few tokens: a long tail under them."""
    rng = np.random.default_rng(seed)
    return (spread * rng.standard_normal((POSITIONS + 1, vocab))).astype(np.float32)


def near(base, *, noise, seed=1):
    return (base + noise * np.random.default_rng(seed).standard_normal(base.shape)).astype(np.float32)


def scored(logits, *, seed=2):
    return Scored.of(logits, np.random.default_rng(seed).integers(0, logits.shape[1], len(logits)))


def softmax(logits):
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def plain(base, other):
    p, q = softmax(base[:-1]), softmax(other[:-1])
    return (p * np.log(p / q)).sum(axis=1)


def test_a_vocabulary_that_is_kept_whole_is_exact():
    base = logits(300)
    other = near(base, noise=0.3)
    found = distances(Kept.of(scored(base), 300, 64), scored(other))
    assert found.kl_nats == pytest.approx(plain(base, other), rel=1e-10)
    assert not found.rest.any()
    assert not found.rest_nats.any()
    right = scored(base).targets
    at = np.arange(POSITIONS), right
    assert found.probability_change == pytest.approx(softmax(other[:-1])[at] - softmax(base[:-1])[at], abs=1e-12)
    assert found.same_top.tolist() == (base[:-1].argmax(axis=1) == other[:-1].argmax(axis=1)).tolist()
    assert 0 < found.same_top.mean() < 1


@pytest.mark.parametrize("noise", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("top", [1, 16, 256])
def test_without_the_drawn_tokens_it_is_a_lower_bound_and_with_them_nearly_exact(noise, top):
    base = logits(5000)
    other = near(base, noise=noise)
    exact = plain(base, other)
    found = distances(Kept.of(scored(base), top, 256), scored(other))
    assert (found.kl_nats - found.rest_nats <= exact + 1e-12).all()
    assert (found.rest_nats >= 0).all()
    assert found.kl_nats.mean() == pytest.approx(exact.mean(), rel=0.05)


def test_the_more_is_kept_the_less_is_estimated():
    base = logits(5000)
    other = near(base, noise=0.3)
    bounds = [distances(Kept.of(scored(base), top, 64), scored(other)).rest_nats.mean() for top in (4, 64, 1024, 5000)]
    assert sorted(bounds, reverse=True) == bounds
    assert bounds[0] > 10 * bounds[2] > 0
    assert bounds[-1] == 0


def test_a_row_has_no_distance_from_itself():
    one = scored(logits(5000))
    found = distances(Kept.of(one, 16, 16), one)
    assert not found.kl_nats.any()
    assert not found.probability_change.any()
    assert found.same_top.all()


def test_a_token_that_the_baseline_rules_out_adds_nothing():
    base, other = logits(40), near(logits(40), noise=0.3)
    base[:, 7] = -np.inf
    p, q = softmax(base[:-1]), softmax(other[:-1])
    allowed = np.delete(np.arange(40), 7)
    exact = (p[:, allowed] * np.log(p[:, allowed] / q[:, allowed])).sum(axis=1)
    assert distances(Kept.of(scored(base), 40, 8), scored(other)).kl_nats == pytest.approx(exact, rel=1e-10)


def test_a_rest_that_is_rounding_stays_finite():
    base = np.full((POSITIONS + 1, 600), -80.0, np.float32)
    base[:, 3] = 0.0
    other = near(base, noise=0.3)
    found = distances(Kept.of(scored(base), 8, 8), scored(other))
    assert np.isfinite(found.kl_nats).all()
    assert found.kl_nats.max() < 1e-9


@pytest.mark.parametrize(("vocab", "count"), [(10, 10), (50, 7), (4096, 64), (4096, 256), (5000, 300), (5003, 16)])
def test_the_highest_logits_are_those_of_a_sort(vocab, count):
    values = np.round(logits(vocab), 1)  # with ties
    found = distributions._highest(values, count)
    ranked = np.argsort(-values, axis=1, kind="stable")[:, :count]
    assert np.take_along_axis(values, found, axis=1).tolist() == np.take_along_axis(values, ranked, axis=1).tolist()
    assert found[:, 0].tolist() == values.argmax(axis=1).tolist()
    assert all(len(set(row)) == count for row in found.tolist())


def test_drawn_tokens_are_of_the_rest_and_as_frequent_as_they_are_likely():
    base = scored(logits(5000))
    kept = Kept.of(base, 16, 4096)
    p = softmax(base.logits)
    for top, drawn, own in zip(kept.top_ids, kept.rest_ids, p, strict=True):
        assert not set(top) & set(drawn)
        own[top] = 0.0
        share = np.bincount(drawn, minlength=5000) / 4096
        assert np.abs(share - own / own.sum()).max() <= 1 / 4096 + 1e-12


def test_a_file_holds_what_was_kept(tmp_path):
    sequences = [scored(logits(700, seed=seed), seed=seed) for seed in range(3)]
    path = tmp_path / "distributions"
    with keeping(path) as keep:
        kept = [keep(one) for one in sequences]
        assert not path.exists(), "half a file"
    for before, after in zip(kept, kept_in(path), strict=True):
        for part in distributions._PARTS:
            assert np.array_equal(getattr(before, part), getattr(after, part))
            assert getattr(before, part).dtype == getattr(after, part).dtype
    assert path.stat().st_size < 1.3 * 3 * POSITIONS * 8 * 512


def test_other_tokens_are_not_compared():
    base = logits(40)
    with pytest.raises(NotComparable, match="other tokens"):
        distances(Kept.of(scored(base, seed=2), 8, 8), scored(base, seed=3))
