from __future__ import annotations

import numpy as np
import pytest

from qexport.quantization.numerics.awq import EXPONENTS, awq_scale
from qexport.quantization.numerics.blocks import Grid, rtn

GRIDS = [Grid(bits=4, block_size=32, symmetric=symmetric) for symmetric in (True, False)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def salient(rows=2000, columns=128, times=20.0, seed=1):
    """Activations of which three channels are so many times larger than the others."""
    x = noise((rows, columns), seed)
    x[:, [5, 40, 77]] *= np.float32(times)
    return x


def learned(weights, grid, x):
    return awq_scale(weights, grid, x.T @ x / len(x), np.abs(x).mean(axis=0))


def outputs_off(weight, x, scale, grid):
    rounded = rtn(weight * scale, grid).dequantize() / scale
    return float(np.square(x @ (rounded - weight).T).mean())


@pytest.mark.parametrize("grid", GRIDS)
def test_flat_magnitudes_are_plain_rounding(grid):
    x = noise((500, 96))
    scale = awq_scale([noise((16, 96), 2)], grid, x.T @ x / len(x), np.full(96, 0.8))
    np.testing.assert_array_equal(scale, np.ones(96, np.float32))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("times", [10.0, 20.0, 200.0])
def test_salient_channels_are_rounded_more_finely(grid, times):
    weight, x = noise((48, 128)), salient(times=times)
    scale = learned([weight], grid, x[:1000])
    assert scale[[5, 40, 77]].min() > 1.5 * np.delete(scale, [5, 40, 77]).max()
    assert outputs_off(weight, x[1000:], scale, grid) < 0.6 * outputs_off(
        weight, x[1000:], np.ones(128, np.float32), grid
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("times", [50.0, 200.0])
def test_channels_that_were_blown_up_and_weights_that_were_shrunk_cost_nothing_more(grid, times):
    """The same function before and after: large factors in a norm, made up for in the weights that follow."""
    factor = np.ones(128, np.float32)
    factor[[3, 64, 100]] = times
    weight, x = noise((48, 128)), noise((1000, 128), 1)
    blown = learned([weight / factor], grid, x * factor)
    plain = outputs_off(weight, x, np.ones(128, np.float32), grid)
    assert outputs_off(weight / factor, x * factor, blown, grid) < 1.15 * plain
    assert outputs_off(weight / factor, x * factor, np.ones(128, np.float32), grid) > 1.5 * plain


@pytest.mark.parametrize("grid", GRIDS)
def test_never_worse_than_plain_rounding_over_all_weights_that_share_the_input(grid):
    weights = [noise((16, 100), 3), 0.1 * noise((40, 100), 4)]
    x = np.exp(2 * noise(100, 5)) * noise((1000, 100), 6)
    scale = learned(weights, grid, x)
    plain, scaled = (
        sum(outputs_off(w, x, s, grid) * len(w) for w in weights) for s in (np.ones(100, np.float32), scale)
    )
    assert scaled < plain


def test_one_scale_far_off_shows_in_the_outputs():
    weight, x = noise((48, 128)), salient()
    scale = learned([weight], GRIDS[0], x)
    perturbed = scale.copy()
    perturbed[5] /= 20
    assert outputs_off(weight, x, perturbed, GRIDS[0]) > 1.5 * outputs_off(weight, x, scale, GRIDS[0])


def test_channels_that_were_never_seen_have_a_finite_scale():
    x = salient()
    x[:, :10] = 0
    scale = learned([noise((8, 128))], GRIDS[0], x)
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    nothing = learned([noise((8, 128))], GRIDS[0], np.zeros((10, 128), np.float32))
    np.testing.assert_array_equal(nothing, np.ones(128, np.float32))


def test_the_search_finds_nearly_the_best_of_all_exponents():
    weight, x = noise((600, 128), 3), np.exp(noise(128, 5)) * noise((1000, 128), 6)
    grid, magnitude = GRIDS[0], np.abs(x).mean(axis=0)
    scales = (magnitude ** (step / EXPONENTS) for step in range(EXPONENTS + 1))
    best = min(outputs_off(weight, x, scale.astype(np.float32), grid) for scale in scales)
    assert outputs_off(weight, x, learned([weight], grid, x), grid) < 1.02 * best
