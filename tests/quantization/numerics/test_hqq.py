from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qexport.quantization.numerics.blocks import Grid, rtn, split
from qexport.quantization.numerics.hqq import hqq, objective

GRIDS = [Grid(bits=4, block_size=32, symmetric=symmetric) for symmetric in (True, False)]


def loss(weight, blocks):
    """The objective of each block."""
    return objective(np.moveaxis(split(blocks.dequantize() - weight, blocks.grid), -1, 0))


def heavy_tailed(shape, seed=0):
    return np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 100)),
    grid=st.builds(
        Grid,
        bits=st.sampled_from([4, 8]),
        block_size=st.just(32),
        symmetric=st.booleans(),
        scale_dtype=st.sampled_from(["float16", "float32"]),
    ),
    size=st.sampled_from([0.0, 1e-30, 1e-5, 1.0, 1e4]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_no_block_is_worse_than_with_rtn(shape, grid, size, seed):
    weight = heavy_tailed(shape, seed) * np.float32(size)
    plain, fitted = loss(weight, rtn(weight, grid)), loss(weight, hqq(weight, grid))
    assert (fitted <= plain * (1 + 1e-3) + 1e-6 * size).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_better_on_heavy_tailed_weights(grid):
    weight = heavy_tailed((64, 172))
    plain, fitted = loss(weight, rtn(weight, grid)).sum(), loss(weight, hqq(weight, grid)).sum()
    assert fitted < 0.985 * plain


@pytest.mark.parametrize("grid", GRIDS)
def test_one_integer_changed_shows_in_the_objective(grid):
    weight = heavy_tailed((64, 160))
    blocks = hqq(weight, grid)
    least = loss(weight, blocks)
    inside = (blocks.integers > 0) & (blocks.integers < grid.top)
    row, column = np.argwhere(inside)[100]
    blocks.integers[row, column] += 2
    after = loss(weight, blocks)
    assert np.argwhere(after != least).tolist() == [[row, column // 32]]
    assert after[row, column // 32] > least[row, column // 32]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_row_does_not_depend_on_the_rows_beside_it(grid):
    weight = heavy_tailed((3000, 160))  # two parts, which two threads work on
    whole, half = hqq(weight, grid), hqq(weight[1500:], grid)
    np.testing.assert_array_equal(whole.integers[1500:], half.integers)
    np.testing.assert_array_equal(whole.scale[1500:], half.scale)
