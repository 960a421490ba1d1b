from __future__ import annotations

import numpy as np
import pytest

from qexport.quantization.numerics import activation_error
from qexport.quantization.numerics.grid import quantize_channels
from qexport.quantization.numerics.smooth import round_asymmetric, round_symmetric


def product(*, outlier=1.0, rows=200, channels=64, columns=48):
    rng = np.random.default_rng(5)
    values = rng.standard_normal((rows, channels)).astype(np.float32)
    values[:, 7] *= outlier
    return activation_error.Product(
        rows=values,
        shares=np.full(rows, 1 / rows),
        lows=values.min(axis=0),
        highs=values.max(axis=0),
        weight=rng.standard_normal((channels, columns)).astype(np.float32),
    )


def measured(product, rounded):
    """The relative error of the product itself, a plain second implementation."""
    integers, steps = quantize_channels(product.weight, axis=1, levels=127, paired=False)
    exact = product.rows.astype(np.float64) @ product.weight
    lost = np.square(rounded(product.rows) @ (integers * steps).astype(np.float64) - exact).sum(axis=1)
    energy = np.square(exact).sum(axis=1)
    return float((lost / np.maximum(energy, np.median(energy))).mean())


@pytest.mark.parametrize("outlier", [1.0, 20.0, 300.0])
@pytest.mark.parametrize("per_token", [True, False])
def test_the_estimate_is_close_to_the_measured_product(outlier, per_token):
    given = product(outlier=outlier)

    def rounded(rows):
        if per_token:
            return round_symmetric(rows, np.abs(rows).max(axis=1, keepdims=True))
        return round_asymmetric(rows, float(rows.min()), float(rows.max()))

    weights = activation_error.weight_error(given.weight, levels=127, paired=False)
    whole = None if per_token else round_asymmetric
    estimate = activation_error.relative_error(given, weights, given.token_energy(), rounded=whole)
    assert estimate == pytest.approx(measured(given, rounded), rel=0.35)


def test_a_product_without_its_outlier_has_less_error():
    given = product(outlier=300.0)
    rest = given.without(np.array([7]))
    assert rest.peaks[7] == 0.0
    errors = [
        activation_error.relative_error(
            each,
            activation_error.weight_error(each.weight, levels=127, paired=True),
            given.token_energy(),
            rounded=round_asymmetric,
        )
        for each in (given, rest)
    ]
    assert errors[1] < errors[0] / 20


def test_a_scaled_product_is_the_same_product():
    given = product()
    scale = np.linspace(0.5, 3, 64, dtype=np.float32)
    scaled = given.scaled(scale)
    np.testing.assert_allclose(scaled.rows @ scaled.weight, given.rows @ given.weight, atol=1e-4)
    np.testing.assert_allclose(scaled.peaks, given.peaks / scale, rtol=1e-6)
