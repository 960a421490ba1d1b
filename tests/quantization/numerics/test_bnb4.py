from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from qexport.quantization.numerics import bnb4

kinds = pytest.mark.parametrize("kind", ["nf4", "fp4"])
SHAPES = [(64, 64), (3, 64), (48, 100), (1, 1), (7, 9), (5, 13), (2, 32), (65, 1), (1, 63), (17, 130), (300, 1000)]


def by_bitsandbytes(weight, kind):
    """Codes, peaks and weights of bitsandbytes itself, on the CPU.

    The weight is handed over as one row: where a row is no multiple of the block, the AVX512 kernel of bitsandbytes 0.50.2
    that dequantizes takes the scales of other blocks.
    """
    import torch
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type=kind)
    row = torch.ops.bitsandbytes.dequantize_4bit.default(
        packed, state.absmax, 64, kind, (1, weight.size), torch.float32
    )
    return packed.numpy().reshape(-1), state.absmax.numpy(), row.numpy().reshape(weight.shape)


def halves(packed):
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)


def assert_same(weight, kind):
    packed, peaks = bnb4.quantize(weight, kind)
    theirs, their_peaks, their_weight = by_bitsandbytes(weight, kind)
    np.testing.assert_array_equal(peaks.view(np.uint32), their_peaks.view(np.uint32))
    # FP4 has two zeros, and bitsandbytes takes one by the order of a sort that is not stable.
    np.testing.assert_array_equal(bnb4.CODE_BOOKS[kind][halves(packed)], bnb4.CODE_BOOKS[kind][halves(theirs)])
    ours = bnb4.dequantize(packed, peaks, weight.shape, kind)
    # Adding zero makes all zeros positive: theirs depend on which kernel the shape takes.
    np.testing.assert_array_equal(
        (ours + np.float32(0)).view(np.uint32), (their_weight + np.float32(0)).view(np.uint32)
    )


@kinds
def test_the_code_book_is_that_of_bitsandbytes(kind):
    from bitsandbytes import functional

    theirs = functional.get_4bit_type(kind, device="cpu").numpy()
    np.testing.assert_array_equal(bnb4.CODE_BOOKS[kind].view(np.uint32), theirs.view(np.uint32))


@kinds
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.02, 1.0, 1e-30, 1e30])
def test_every_bit_is_that_of_bitsandbytes(kind, shape, scale):
    weight = (np.random.default_rng(5).standard_normal(shape) * scale).astype(np.float32)
    assert_same(weight, kind)


@kinds
@pytest.mark.parametrize("peak", [1.0, 0.37, 3.0])
def test_values_on_midpoints_and_beside_them(kind, peak):
    book = np.sort(bnb4.CODE_BOOKS[kind])
    middles = ((book[1:] + book[:-1]) / np.float32(2) * np.float32(peak)).astype(np.float32)
    near = [np.nextafter(middles, np.float32(side), dtype=np.float32) for side in (-9, 9)]
    values = np.concatenate([middles, *near, book * np.float32(peak), [np.float32(peak)]]).astype(np.float32)
    for size in (64, 62):  # a whole block, and one that is divided by its peak instead
        weight = np.full(size, peak, np.float32)
        weight[: min(size, values.size)] = values[:size]
        assert_same(weight[None, :], kind)


@kinds
@pytest.mark.parametrize("columns", [64, 37, 128])
def test_blocks_of_zeros_and_of_the_tiniest_numbers(kind, columns):
    weight = np.zeros((4, columns), np.float32)
    weight[1] = np.finfo(np.float32).smallest_subnormal
    weight[2, ::3] = -1e-38
    weight[3, 0] = -0.0
    assert_same(weight, kind)
    back = bnb4.dequantize(*bnb4.quantize(np.zeros((4, columns), np.float32), kind), (4, columns), kind)
    assert not back.any()


@kinds
@settings(max_examples=60, deadline=None)
@given(
    weight=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_any_weight(kind, weight):
    assert_same(weight, kind)


@kinds
def test_parts_change_nothing(kind, monkeypatch):
    weight = np.random.default_rng(6).standard_normal((37, 45)).astype(np.float32)
    whole = bnb4.quantize(weight, kind)
    monkeypatch.setattr(bnb4, "PART_ELEMENTS", 128)
    for one, other in zip(whole, bnb4.quantize(weight, kind), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        bnb4.dequantize(*whole, weight.shape, kind), by_bitsandbytes(weight, kind)[2].reshape(weight.shape)
    )


@kinds
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes(kind, shape):
    packed, peaks = bnb4.quantize(np.ones(shape, np.float32), kind)
    assert (packed.size, peaks.size) == bnb4.packed_sizes(shape[0] * shape[1])


@kinds
def test_no_weight_is_further_off_than_half_the_widest_gap(kind):
    weight = np.random.default_rng(7).standard_normal((40, 64)).astype(np.float32)
    packed, peaks = bnb4.quantize(weight, kind)
    off = np.abs(bnb4.dequantize(packed, peaks, weight.shape, kind) - weight)
    widest = np.diff(np.sort(bnb4.CODE_BOOKS[kind])).max()
    assert np.all(off <= 0.5 * widest * peaks[:, None] * (1 + 1e-6))
    assert np.max(off / peaks[:, None]) > 0.4 * widest
