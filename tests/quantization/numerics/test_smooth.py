from __future__ import annotations

import numpy as np
import pytest

from qexport.quantization.numerics.smooth import round_asymmetric, round_symmetric, smoothing_scale


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
