from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qexport.quantization.numerics.blocks import Grid, pack as packed, rtn, unpack
from qexport.quantization.numerics.gptq import follow_float, gptq

GRIDS = [Grid(bits=4, block_size=32, symmetric=symmetric) for symmetric in (True, False)]
ORDERS = [True, False]


def correlated(rows, columns, seed=0):
    """Activations that share a few directions, as those of language models do."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((rows, columns // 8)) @ rng.standard_normal((columns // 8, columns))
    return (shared + rng.standard_normal((rows, columns))).astype(np.float32)


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def moments(x):
    return x.T @ x / len(x)


def outputs_off(weight, blocks, x):
    return float(np.square(x @ (blocks.dequantize() - weight).T).mean())


def weights_off(weight, blocks):
    return float(np.square(blocks.dequantize() - weight).mean())


@pytest.mark.parametrize("act_order", ORDERS)
@pytest.mark.parametrize("grid", GRIDS)
def test_worse_on_the_weights_and_better_on_the_outputs(grid, act_order):
    weight, x = noise((48, 172)), correlated(2000, 172)
    learned = gptq(weight, grid, moments(x[:1000]), act_order=act_order)
    plain = rtn(weight, grid)
    assert weights_off(weight, learned) > weights_off(weight, plain)
    assert outputs_off(weight, learned, x[:1000]) < 0.4 * outputs_off(weight, plain, x[:1000])
    assert outputs_off(weight, learned, x[1000:]) < 0.5 * outputs_off(weight, plain, x[1000:])


@pytest.mark.parametrize("act_order", ORDERS)
@pytest.mark.parametrize("grid", GRIDS)
def test_one_integer_changed_is_seen_in_the_outputs(grid, act_order):
    """What comes back is at a minimum: no single step anywhere improves it by more than rounding noise."""
    weight, hessian = noise((3, 64)), moments(correlated(500, 64)).astype(np.float64)
    blocks = gptq(weight, grid, hessian, damping=1e-6, act_order=act_order)
    error = blocks.dequantize().astype(np.float64) - weight
    least = np.einsum("oi,ij,oj->o", error, hessian, error)
    for column in range(64):
        for step in (1, -1):
            levels = blocks.integers.astype(np.int16)
            levels[:, column] = np.clip(levels[:, column] + step, 0, grid.top)
            moved = dataclasses.replace(blocks, integers=levels.astype(np.uint8)).dequantize() - weight
            assert (np.einsum("oi,ij,oj->o", moved, hessian, moved) >= 0.98 * least).all()


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 100)),
    grid=st.builds(
        Grid,
        bits=st.just(4),
        block_size=st.just(32),
        symmetric=st.booleans(),
        scale_dtype=st.sampled_from(["float16", "float32"]),
    ),
    act_order=st.booleans(),
    size=st.sampled_from([1e-20, 1e-6, 1.0, 1e4]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_never_worse_than_rtn_where_it_counts(shape, grid, act_order, size, seed):
    rows, columns = shape
    weight = noise((rows, columns), seed) * np.float32(size)
    weight[0] = 0
    x = correlated(20, columns, seed) if columns >= 8 else noise((20, columns), seed)
    x[:, seed % columns] = 0
    blocks = gptq(weight, grid, moments(x), damping=0.01, act_order=act_order)
    assert not blocks.dequantize()[0].any()
    damped = moments(x.astype(np.float64)) + 0.01 * np.mean(np.square(x)) * np.eye(columns)
    for row in range(rows):
        learned, plain = (
            chosen.dequantize()[row] - weight[row].astype(np.float64) for chosen in (blocks, rtn(weight, grid))
        )
        assert learned @ damped @ learned <= (1 + 1e-4) * (plain @ damped @ plain)


@pytest.mark.parametrize("grid", GRIDS)
def test_it_survives_packing(grid):
    blocks = gptq(noise((8, 100)), grid, moments(correlated(300, 100)))
    np.testing.assert_array_equal(unpack(*packed(blocks), grid=grid, columns=100).dequantize(), blocks.dequantize())
    assert (blocks.scale != 0).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_without_activations_it_rounds_each_weight_by_itself(grid):
    weight = noise((8, 96))
    blocks = gptq(weight, grid, np.zeros((96, 96), np.float32))
    scale = np.repeat(np.abs(blocks.scale), 32, axis=1)
    inside = (blocks.integers > 0) & (blocks.integers < grid.top)
    assert (np.abs(blocks.dequantize() - weight) <= scale / 2 + 1e-6)[inside].all()
    assert weights_off(weight, blocks) <= weights_off(weight, rtn(weight, grid))


def test_eight_bits_are_all_but_exact():
    weight, x = noise((16, 96)), correlated(500, 96)
    blocks = gptq(weight, Grid(bits=8, block_size=32, symmetric=True), moments(x))
    assert outputs_off(weight, blocks, x) < 1e-4 * np.square(x @ weight.T).mean()


def test_the_order_of_the_columns_changes_the_result():
    weight, hessian = noise((8, 96)), moments(correlated(500, 96))
    ordered, plain = (gptq(weight, GRIDS[0], hessian, act_order=act_order) for act_order in ORDERS)
    assert (ordered.integers != plain.integers).any()


def test_following_the_float_model_gives_its_outputs_from_changed_inputs():
    weight, x = noise((16, 64)), correlated(4000, 64)
    y = x + 0.3 * x @ noise((64, 64), 1) / 8 + 0.1 * noise(x.shape, 2)
    drift, hessian = (x - y).T @ y / len(y), moments(y)
    followed = follow_float(weight, hessian, drift, damping=1e-3)
    wanted = x @ weight.T
    before, after = (np.square(y @ candidate.T - wanted).mean() for candidate in (weight, followed))
    assert after < 0.3 * before
    reference = np.linalg.lstsq(y, wanted, rcond=None)[0].T
    np.testing.assert_allclose(followed, reference, atol=0.05)


def test_without_drift_there_is_nothing_to_follow():
    weight = noise((16, 64))
    followed = follow_float(weight, moments(correlated(500, 64)), np.zeros((64, 64), np.float32))
    np.testing.assert_array_equal(followed, weight)


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_that_share_an_input_can_be_rounded_as_one(grid):
    weight, hessian = noise((48, 96)), moments(correlated(500, 96))
    together = gptq(weight, grid, hessian)
    for part in (slice(0, 16), slice(16, 48)):
        alone = gptq(weight[part], grid, hessian)
        np.testing.assert_array_equal(together.rows(part).integers, alone.integers)
        np.testing.assert_array_equal(together.rows(part).dequantize(), alone.dequantize())
