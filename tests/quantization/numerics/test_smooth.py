from __future__ import annotations

import numpy as np
import pytest

from qexport.quantization.numerics import smooth
from qexport.quantization.numerics.grid import quantize_channels
from qexport.quantization.numerics.smooth import round_asymmetric, round_symmetric, search, smoothing_scale

LEVELS = 127


def rows_and_weights(*, outliers=True, seed=0):
    """Rows of an activation whose channels differ, some a hundred times as large, and two weights that multiply them."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((256, 64)).astype(np.float32)
    weights = [rng.standard_normal((64, width)).astype(np.float32) for width in (48, 32)]
    if outliers:
        for channel in (3, 17, 40):
            rows[:, channel] *= 100
            for weight in weights:
                weight[channel] /= 100
    return rows, weights


def by_tensor(rows):
    return round_asymmetric(rows, min(rows.min(), 0), max(rows.max(), 0))


def by_token(rows):
    return round_symmetric(rows, np.abs(rows).max(axis=1, keepdims=True))


def error(rows, weights, scale, rounded):
    """Squared error of the quantized product, written out once more."""
    total = 0.0
    for weight in weights:
        integers, step = quantize_channels(weight * scale[:, None], axis=1, levels=LEVELS)
        total += np.square(rounded(rows / scale) @ (integers * step) - rows @ weight).sum()
    return total


def found(rows, weights, rounded):
    peaks = np.abs(rows).max(axis=0)
    return search(rows, peaks, weights, rounded=lambda given, _others: rounded(given), levels=LEVELS, fixed=False)


@pytest.mark.parametrize("rounded", [by_tensor, by_token])
def test_outliers_cost_hundreds_of_times_less_once_smoothed(rounded):
    rows, weights = rows_and_weights()
    scale = found(rows, weights, rounded)
    naive = error(rows, weights, np.ones(64, np.float32), rounded)
    assert error(rows, weights, scale, rounded) < naive / 100


def test_no_strength_does_better_than_the_one_found():
    rows, weights = rows_and_weights()
    least = error(rows, weights, found(rows, weights, by_tensor), by_tensor)
    peaks = np.abs(rows).max(axis=0)
    row_peaks = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    others = [error(rows, weights, smoothing_scale(peaks, row_peaks, at), by_tensor) for at in (0.0, 0.25, 0.5, 1.0)]
    assert least <= min(others)
    assert least < 0.8 * max(others)


def test_nothing_is_smoothed_where_nothing_is_gained():
    rows, weights = rows_and_weights(outliers=False)
    assert found(rows, weights, lambda given: given / given.max() * 0) is None


def test_injected_outliers_change_nothing_but_the_scale():
    rows, weights = rows_and_weights(outliers=False)
    with_outliers, their_weights = rows_and_weights()
    peaks, their_peaks = (np.abs(each).max(axis=0) for each in (rows, with_outliers))
    row_peaks, their_row_peaks = (np.abs(each[0]).max(axis=1) for each in (weights, their_weights))
    for strength in (0.0, 0.3, 1.0):
        one = rows / smoothing_scale(peaks, row_peaks, strength)
        other = with_outliers / smoothing_scale(their_peaks, their_row_peaks, strength)
        ratio = one / other
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_the_scale_is_equation_four():
    activation, weight = np.array([4.0, 1.0], np.float32), np.array([0.25, 1.0], np.float32)
    scale = smoothing_scale(activation, weight, 0.5)
    assert scale[0] / scale[1] == pytest.approx(4.0**0.5 / 0.25**0.5)
    assert np.prod(scale) == pytest.approx(1.0)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_channels_that_are_never_used_get_a_finite_scale(strength):
    for activation, weight in (([0.0, 1.0], [1.0, 1.0]), ([1.0, 1.0], [0.0, 1.0]), ([0.0, 0.0], [0.0, 0.0])):
        scale = smoothing_scale(np.array(activation, np.float32), np.array(weight, np.float32), strength)
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


def test_a_fixed_range_is_tried_on_rows_that_it_was_not_taken_from():
    rows, weights = rows_and_weights()
    halves = []

    def rounded(given, others):
        halves.append((len(given), len(others), np.array_equal(given[0], others[0])))
        return by_tensor(given)

    search(rows, np.abs(rows).max(axis=0), weights, rounded=rounded, levels=LEVELS, fixed=True)
    assert set(halves) == {(128, 128, False)}


def test_wide_weights_are_searched_on_some_columns(monkeypatch):
    rows, weights = rows_and_weights()
    seen = []
    monkeypatch.setattr(smooth, "COLUMNS", 20)
    real = smooth.quantize_channels
    monkeypatch.setattr(smooth, "quantize_channels", lambda w, **given: seen.append(w.shape[1]) or real(w, **given))
    assert found(rows, weights, by_tensor) is not None
    assert set(seen) == {12 + 11}  # every fourth of 48, every third of 32


def test_rounding_errs_by_half_a_step_at_most_and_keeps_zero():
    rows, _ = rows_and_weights(outliers=False)
    low, high = float(rows.min()), float(rows.max())
    assert np.abs(round_asymmetric(rows, low, high) - rows).max() <= 1.01 * (high - low) / 255
    inside = np.abs(rows) < 0.9 * min(-low, high)
    assert np.abs(round_asymmetric(rows, low, high) - rows)[inside].max() <= 0.501 * (high - low) / 255
    peak = np.abs(rows).max(axis=1, keepdims=True)
    assert (np.abs(round_symmetric(rows, peak) - rows) <= 0.501 * peak / 127).all()
    zeros = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(round_asymmetric(zeros, 0.0, 0.0), zeros)
    np.testing.assert_array_equal(round_symmetric(zeros, np.zeros((2, 1), np.float32)), zeros)
    assert round_asymmetric(np.array([[9.0, -9.0]], np.float32), -1.0, 2.0).tolist() == [
        [pytest.approx(2.0, abs=0.01), pytest.approx(-1.0, abs=0.01)]
    ]
