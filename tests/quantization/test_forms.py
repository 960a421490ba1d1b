from __future__ import annotations

import numpy as np
import pytest

from qexport.quantization import forms
from qexport.quantization.calibration import Sample
from qexport.quantization.numerics.smooth import round_asymmetric


def sample(*, outliers=(), amplitude=300.0, channels=64, rows=300):
    values = np.random.default_rng(2).standard_normal((rows, channels)).astype(np.float32)
    for channel in outliers:
        values[:, channel] *= amplitude
    return Sample(
        rows=values,
        extremes=values[np.abs(values).max(axis=1).argsort()[-4:]],
        lows=values.min(axis=0),
        highs=values.max(axis=0),
    )


WEIGHTS = [np.random.default_rng(3).standard_normal((64, 96)).astype(np.float32)]
FREE = {"smooth": True, "channels": True, "per_token": False}


def choose(seen, place="inside", **fields):
    choices = forms.Choices(rounded=round_asymmetric, levels=127, paired=True, **FREE | fields)
    return forms.choose(seen, WEIGHTS, choices, place=place)


def test_an_activation_without_outliers_gets_no_node():
    assert choose(sample()) == forms.Form()


@pytest.mark.parametrize("outliers", [(5,), (3, 40)])
def test_outlier_channels_are_found_and_kept_in_float(outliers):
    form = choose(sample(outliers=outliers))
    assert set(outliers) <= set(form.channels)
    assert list(form.channels) == sorted(form.channels)
    assert len(form.channels) <= 4


def test_nothing_is_kept_where_that_is_not_allowed():
    assert choose(sample(outliers=(5,)), channels=False, smooth=False) == forms.Form()
    assert choose(sample(outliers=(5,)), channels=False, per_token=True, smooth=False) == forms.Form(per_token=True)


def test_a_price_without_end_buys_nothing(monkeypatch):
    monkeypatch.setattr(forms, "PRICE", 1e9)
    assert choose(sample(outliers=(5,))) == forms.Form()


def test_smoothing_is_for_activations_after_a_norm():
    seen = sample(outliers=(5,), amplitude=20.0)
    assert choose(seen, "after norm", channels=False).scale is not None
    for place in ("inside", "after attention", "head"):
        assert choose(seen, place, channels=False).scale is None


def test_forms_that_differ_have_other_digests():
    scale = np.ones(4, np.float32)
    made = [
        forms.Form(),
        forms.Form(per_token=True),
        forms.Form(channels=(1,)),
        forms.Form(scale=scale),
        forms.Form(scale=2 * scale),
    ]
    assert len({form.digest for form in made}) == len(made)
