from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from qexport.quantization.numerics import histogram
from qexport.quantization.numerics.histogram import BINS, Histogram

WIDE = st.one_of(st.just(0.0), st.floats(2.0**-20, 2.0**20, width=32), st.floats(-(2.0**20), -(2.0**-20), width=32))
BATCH = hnp.arrays(np.float32, st.integers(1, 40), elements=WIDE)
RANGES = {
    "min_max": histogram.min_max,
    "percentile": lambda seen: histogram.percentile(seen, 99.9),
    "entropy": histogram.entropy,
    "mse": histogram.mean_squared_error,
}


def filled(*batches: np.ndarray) -> Histogram:
    seen = Histogram()
    for batch in batches:
        seen.add(np.asarray(batch, np.float32))
    return seen


def bell_with_outlier(outlier: float) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[0] = outlier
    return values


def grid_error(seen: Histogram, span: histogram.Range) -> float:
    """Mean squared error of the histogram's values on the 256 levels over a range."""
    low, high = span
    scale = (high - low) / 255
    levels = np.clip(np.rint(seen.centers / scale), np.rint(low / scale), np.rint(high / scale))
    return float(seen.counts @ np.square(seen.centers - levels * scale) / seen.counts.sum())


@given(st.lists(BATCH, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_batches_does_not_matter(batches, random):
    shuffled = list(batches)
    random.shuffle(shuffled)
    one, other = filled(*batches), filled(*shuffled)
    assert (one.radius, one.low, one.high) == (other.radius, other.low, other.high)
    np.testing.assert_array_equal(one.counts, other.counts)


@given(BATCH, st.integers(1, 20))
@settings(deadline=None)
def test_doubling_the_radius_merges_exactly(batch, doublings):
    late = filled(batch)
    beyond = np.float32(late.radius * 2.0**doublings)
    early = filled([beyond])
    early.add(batch)
    late.add(np.array([beyond]))
    assert early.radius == late.radius > beyond
    np.testing.assert_array_equal(early.counts, late.counts)


@pytest.mark.parametrize("power", [2.0**-30, 0.5, 1.0, 2.0, 1024.0])
def test_a_power_of_two_falls_into_the_same_bin_before_and_after_a_doubling(power):
    before, after = filled([power], [4 * power]), filled([4 * power], [power])
    np.testing.assert_array_equal(before.counts, after.counts)


def test_zeros_leave_the_resolution_to_what_comes_after_them():
    small = np.linspace(-1e-3, 1e-3, 1000, dtype=np.float32)
    assert filled(np.zeros(10), small).radius == filled(small, np.zeros(10)).radius < 2e-3


@pytest.mark.parametrize("extreme", [1e-45, 1e-30, 3.4e38])
def test_the_ends_of_float32_are_counted(extreme):
    seen = filled([extreme, -extreme, 0.0])
    assert seen.counts.sum() == 3
    assert histogram.min_max(seen) == (-np.float32(extreme), np.float32(extreme))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        filled([1.0, bad])


@given(BATCH)
@settings(deadline=None)
def test_all_values_of_a_batch_are_counted_once_where_they_are(batch):
    seen = filled(batch)
    assert seen.counts.sum() == batch.size
    width = 2 * seen.radius / BINS
    for value in batch:
        bins = np.flatnonzero(seen.counts)
        assert np.min(np.abs(seen.centers[bins] - float(value))) <= width / 2


@given(BATCH)
@settings(deadline=None)
def test_a_hundred_percent_hold_every_value(batch):
    low, high = histogram.percentile(filled(batch), 100.0)
    assert low <= batch.min()
    assert batch.max() <= high


@pytest.mark.parametrize("method", RANGES)
@given(batch=BATCH)
@settings(deadline=None, max_examples=15)
def test_every_range_holds_zero_and_lies_in_what_was_seen(method, batch):
    low, high = RANGES[method](filled(batch))
    assert min(float(batch.min()), 0.0) <= low <= 0.0 <= high <= max(float(batch.max()), 0.0)


@given(BATCH)
@settings(deadline=None, max_examples=20)
def test_mse_is_never_worse_than_min_max(batch):
    seen = filled(batch)
    if not batch.any():
        assert histogram.mean_squared_error(seen) == (0.0, 0.0)
        return
    best = grid_error(seen, histogram.mean_squared_error(seen))
    assert best <= grid_error(seen, histogram.min_max(seen)) * (1 + 1e-12)


def test_percentile_by_hand():
    # 1..1000: one percent off, shared by both ends. The low end is zero anyway.
    seen = filled(np.arange(1, 1001, dtype=np.float32))
    low, high = histogram.percentile(seen, 99.0)
    assert low == 0.0
    assert 995.0 <= high <= 995.0 + 2 * seen.radius / BINS
    mirrored = histogram.percentile(filled(-np.arange(1, 1001, dtype=np.float32)), 99.0)
    assert mirrored == (pytest.approx(-high, abs=2 * seen.radius / BINS), 0.0)


def test_bins_by_hand():
    seen = filled([-1.0, 0.0, 0.5, 1.0])
    assert seen.radius == 2.0  # 1.0 lies in [-2, 2) and not in [-1, 1)
    assert np.flatnonzero(seen.counts).tolist() == [BINS // 4, BINS // 2, BINS // 8 * 5, BINS // 4 * 3]


@pytest.mark.parametrize("method", ["percentile", "entropy"])
@pytest.mark.parametrize("outlier", [40.0, -40.0])
def test_one_outlier_in_a_hundred_thousand_is_clipped(method, outlier):
    low, high = RANGES[method](filled(bell_with_outlier(outlier)))
    assert max(-low, high) < 12.0
    assert min(-low, high) > 2.0  # the body of the bell stays


def test_mse_weighs_an_outlier_against_the_rest():
    seen = filled(bell_with_outlier(40.0))
    _, high = histogram.mean_squared_error(seen)
    assert 4.0 < high < 40.0  # cut a little: cutting it off altogether costs the square of what is cut
    assert grid_error(seen, histogram.mean_squared_error(seen)) < grid_error(seen, histogram.min_max(seen))


def test_entropy_keeps_a_range_that_is_used_evenly():
    even = np.linspace(-1.0, 1.0, 200_000, dtype=np.float32)
    low, high = histogram.entropy(filled(even))
    assert (low, high) == (pytest.approx(-1.0, abs=0.02), pytest.approx(1.0, abs=0.02))


def test_memory_does_not_grow_with_the_values():
    seen = Histogram()
    for exponent in range(-20, 20):
        seen.add(np.full(10_000, 2.0**exponent, np.float32))
        assert seen.counts.shape == (BINS,)
    assert seen.counts.sum() == 400_000
