from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from qexport.quantization.numerics import fp8

E4M3 = ml_dtypes.float8_e4m3fn


def by_ml_dtypes(values):
    return np.clip(values, -448, 448).astype(E4M3).view(np.uint8)


def test_every_code_has_the_value_of_ml_dtypes():
    np.testing.assert_array_equal(fp8.VALUES, np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 100.0, 1e6])
def test_rounding_is_that_of_ml_dtypes_bit_for_bit(scale):
    values = (np.random.default_rng(1).standard_normal(200_000) * scale).astype(np.float32)
    np.testing.assert_array_equal(fp8.encode(values), by_ml_dtypes(values))


def test_values_halfway_and_beside_them_go_to_the_even_code():
    finite = np.sort(fp8.VALUES[np.isfinite(fp8.VALUES)])
    halfway = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    for values in (halfway, np.nextafter(halfway, np.float32(1e9)), np.nextafter(halfway, np.float32(-1e9)), finite):
        np.testing.assert_array_equal(fp8.encode(values), by_ml_dtypes(values))
    assert not np.any(fp8.encode(halfway[np.abs(halfway) > 0.1]) & 1)


@pytest.mark.parametrize("value", [449.0, 464.0, 465.0, 1e30, np.inf])
def test_values_beyond_the_range_saturate(value):
    codes = fp8.encode(np.array([value, -value], np.float32))
    np.testing.assert_array_equal(fp8.VALUES[codes], [448, -448])


def test_every_code_comes_back():
    codes = np.array([code for code in range(256) if code not in (127, 255)], np.uint8)
    np.testing.assert_array_equal(fp8.encode(fp8.VALUES[codes]), codes)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_weight_is_within_a_sixteenth(axis):
    weight = np.random.default_rng(2).standard_normal((33, 47)).astype(np.float32)
    codes, scale = fp8.quantize(weight, axis)
    assert scale.shape == {0: (33,), 1: (47,), None: ()}[axis]
    step = scale[:, None] if axis == 0 else scale
    off = np.abs(fp8.VALUES[codes] * step - weight)
    assert np.all(off <= np.maximum(np.abs(weight) / 16, step * 2.0**-10) * (1 + 1e-5))
    assert np.max(off / np.abs(weight)) > 1 / 20
    peaks = np.abs(fp8.VALUES[codes]).max(axis=None if axis is None else 1 - axis)
    np.testing.assert_array_equal(peaks, np.full_like(scale, 448))


@pytest.mark.parametrize("axis", [0, 1, None])
def test_zeros_have_the_scale_one(axis):
    codes, scale = fp8.quantize(np.zeros((3, 4), np.float32), axis)
    assert not codes.any()
    assert np.all(scale == 1)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_blocks_change_nothing(axis, monkeypatch):
    weight = np.random.default_rng(3).standard_normal((20, 16)).astype(np.float32)
    whole = fp8.quantize(weight, axis)
    monkeypatch.setattr("qexport.quantization.numerics.grid.BLOCK_ELEMENTS", 48)
    for one, other in zip(whole, fp8.quantize(weight, axis), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_scale_of_a_range():
    assert fp8.tensor_scale(896.0) == 2
    assert fp8.tensor_scale(0.0) == 1
