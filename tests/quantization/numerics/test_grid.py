from __future__ import annotations

import numpy as np
import pytest

from qexport.quantization.numerics.grid import pair_peaks, quantize_channels


def weights(rows, columns=37):
    return np.random.default_rng(4).standard_t(4, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 65])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_peak_of_pairs_is_that_of_weights_and_of_sums_of_neighbours(rows, axis):
    weight = weights(rows)
    sums = [np.abs(weight[at] + weight[at + 1]) for at in range(0, rows - 1, 2)]
    expected = np.max([*np.abs(weight), *sums], axis=0)
    np.testing.assert_array_equal(pair_peaks(weight if axis == 1 else weight.T, axis=axis), expected)


@pytest.mark.parametrize("rows", [2, 7, 64, 257])
def test_no_neighbours_of_the_paired_grid_add_up_to_more_than_128(rows):
    integers, scale = quantize_channels(weights(rows), axis=1, levels=127, paired=True)
    even = integers[: rows // 2 * 2].astype(int)
    assert np.abs(even[::2] + even[1::2]).max() <= 128
    assert np.abs(integers.astype(int)).max() <= 127
    assert (np.abs(integers * scale - weights(rows)) <= scale * 0.5001).all()


def test_neighbours_that_just_fit_are_not_rounded_beyond():
    # 63.5 and 63.5 steps round to even, 64 and 64: the most that 255 times the sum of two may be.
    weight = np.array([[63.5], [63.5], [-63.5], [-63.5]], np.float32)
    integers, scale = quantize_channels(weight, axis=1, levels=127, paired=True)
    assert scale == [1.0]
    assert integers.ravel().tolist() == [64, 64, -64, -64]


def test_a_channel_without_large_neighbours_keeps_the_full_grid():
    weight = np.array([[1.0], [-1.0], [0.25], [0.5]], np.float32)
    paired, plain = (quantize_channels(weight, axis=1, levels=127, paired=each) for each in (True, False))
    for one, other in zip(paired, plain, strict=True):
        np.testing.assert_array_equal(one, other)
