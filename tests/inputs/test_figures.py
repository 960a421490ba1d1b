from __future__ import annotations

import pytest

from qexport.core.errors import InputError
from qexport.core.metrics import CATALOGUE
from qexport.inputs.figures import UNITS, parse_figure, parse_figures


@pytest.mark.parametrize(
    ("metric", "value", "figure"),
    [
        ("weight_bytes", "486.70 MiB", 486.70 * 1024**2),
        ("weight_bytes", "11.50 GiB", 11.50 * 1024**3),
        ("peak_device_bytes", "44.85 GB", 44.85e9),
        ("disk_bytes", "13,000 MB", 13e9),
        ("disk_bytes", "2 KiB", 2048),
        ("disk_bytes", "7 B", 7),
        ("disk_bytes", 512, 512),
        ("latency_s", 0.0083, 0.0083),
        ("load_s", "7.63 s", 7.63),
        ("load_s", "2 min", 120),
        ("token_latency_s", "239 ms", 0.239),
        ("token_latency_s", "239ms", 0.239),
        ("batch_tokens_per_s", "161.27 tokens/s", 161.27),
        ("response_tokens", "12 tokens", 12),
        ("perplexity", 261.66, 261.66),
        ("perplexity", "2.6e2", 260),
        ("warning_count", 2, 2),
        ("mmlu_acc", "61.0 %", 0.61),
        ("mmlu_acc", "0.5%", 0.005),
        ("mmlu_acc", "100 %", 1),
        ("gsm8k_strict", "0.820", 0.82),
        ("gsm8k_strict", 1, 1),
    ],
)
def test_a_figure_comes_out_in_the_recorded_unit(metric, value, figure):
    assert parse_figure(metric, value) == pytest.approx(figure, rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "value", "parts"),
    [
        ("weight_bytes", "486.70 MiBs", ["weight_bytes", "unknown unit MiBs", "MiB"]),
        ("weight_bytes", "486.70 mb", ["unknown unit mb"]),
        ("weight_bytes", "3 s", ["wrong unit", "weight_bytes takes bytes", "GiB"]),
        ("latency_s", "3 MiB", ["wrong unit", "latency_s takes s, ms"]),
        ("tokens_per_s", "3 tokens", ["wrong unit", "tokens/s"]),
        ("perplexity", "3 s", ["has a unit", "leave s out"]),
        ("latency_s", "0.0083", ["names no unit", "s, ms"]),
        ("latency_s", "about 3 s", ["is not a figure"]),
        ("latency_s", "", ["is not a figure"]),
        ("latency_s", "3\nseconds", ['"3 seconds"', "unknown unit seconds"]),
        ("latency_s", "-3 s", ["is not a figure", "positive"]),
        ("latency_s", "1,5 s 2", ["is not a figure"]),
        ("latency_s", "0 s", ["not above zero"]),
        ("latency_s", 0, ["not above zero"]),
        ("latency_s", -0.1, ["not above zero"]),
        ("latency_s", float("nan"), ["not above zero"]),
        ("latency_s", float("inf"), ["not above zero"]),
        ("latency_s", "1e999 s", ["not above zero"]),
        ("latency_s", True, ["is not a figure"]),
        ("latency_s", [1.0], ["is not a figure"]),
        ("mmlu_acc", "100.5 %", ["100.5 % is more than all questions", "at most 1, or 100 %"]),
        ("mmlu_acc", "101\n%", ["101 % is more than all questions"]),
        ("mmlu_acc", 61.0, ["61.0 is more than all questions", "at most 1, or 100 %"]),
        ("mmlu_acc", "61.0", ["is more than all questions"]),
        ("mmlu_acc", "0 %", ["0 % is not above zero"]),
        ("mmlu_acc", 0, ["not above zero"]),
        ("mmlu_acc", "-1 %", ["is not a figure", '"61.0 %"']),
        ("mmlu_acc", True, ["is not a figure", '"61.0 %"']),
        ("mmlu_acc", "61 s", ["has a unit, and mmlu_acc has none but %", "leave s out"]),
        ("perplexity", "3 %", ["is in per cent, as only accuracies are", "261.66"]),
        ("response_correct", "50 %", ["is in per cent"]),
        ("weight_bytes", "27 %", ["is in per cent", '"486.70 MiB"']),
    ],
)
def test_bad_figures(metric, value, parts):
    with pytest.raises(InputError) as caught:
        parse_figure(metric, value)
    message = str(caught.value)
    assert "\n" not in message
    for part in [metric, *parts]:
        assert part in message, message


def test_figures_are_of_known_metrics():
    assert parse_figures({"latency_s": "83 ms", "perplexity": 2}) == {
        "latency_s": (0.083, "83 ms"),
        "perplexity": (2.0, ""),
    }
    assert parse_figures({"piqa_acc": " 82.0 % ", "piqa_acc_norm": "0.820", "arc_easy_acc": 0.82}) == {
        "piqa_acc": (0.82, "82.0 %"),
        "piqa_acc_norm": (0.82, "0.820"),
        "arc_easy_acc": (0.82, ""),
    }
    with pytest.raises(InputError, match=r"latency: no such metric; did you mean .*latency_s"):
        parse_figures({"latency": 0.1})
    with pytest.raises(InputError, match="not a table of figures"):
        parse_figures(3)


def test_every_metric_has_units_to_be_published_in():
    assert {metric.unit for metric in CATALOGUE.values()} == UNITS.keys()
    for metric in CATALOGUE.values():
        if metric.unit:
            assert UNITS[metric.unit][metric.unit] == 1
