from __future__ import annotations

import json
import math

import pytest

from qexport.core.metrics import GROUPS
from qexport.core.record import Published
from qexport.quantization.recipes import RECIPES
from qexport.report.charts import CHARTS, png, svg
from qexport.report.html import LAYOUT_WIDTHS
from qexport.report.palette import DARK, HUES, LIGHT, complete, hues, themed
from qexport.report.table import build_table

by_name = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


@by_name
def test_pictures_are_on_white_and_png_at_twice_its_size(chart, table, full):
    drawn = svg(chart, full if chart.name in {"tasks", "session"} else table)
    assert drawn is not None
    assert drawn.startswith("<svg")
    assert 'fill="#ffffff"' in drawn
    assert "@" not in drawn
    image = png(drawn)
    assert image.startswith(b"\x89PNG")
    assert int.from_bytes(image[16:20], "big") > 1200
    assert len(image) < 1_500_000


@by_name
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_no_placeholder_is_left_and_vega_lite_compiles_in_silence(chart, theme, full, capfd):
    import vl_convert

    for width in LAYOUT_WIDTHS:
        spec = themed(complete(chart.spec(full, width), width), theme)
        assert '"@' not in json.dumps(spec)
        vl_convert.vegalite_to_vega(spec, vl_version="6.4")
    assert "WARN" not in capfd.readouterr().err


def test_a_row_that_is_called_like_a_colour_keeps_its_name(full):
    spec = {
        "data": {"values": [{"row": "@ink"}]},
        "encoding": {"y": {"sort": ["@ink"], "axis": {"labelColor": "@ink"}}},
    }
    spec["encoding"]["fill"] = {"scale": {"domain": ["@ink"], "range": ["@blue"]}}
    drawn = themed(spec, LIGHT)
    assert drawn["data"]["values"] == [{"row": "@ink"}]
    assert drawn["encoding"]["y"] == {"sort": ["@ink"], "axis": {"labelColor": LIGHT.ink}}
    assert drawn["encoding"]["fill"]["scale"] == {"domain": ["@ink"], "range": [LIGHT.blue]}


@by_name
def test_too_little_to_draw_gives_no_chart(chart, make):
    table = build_table(make(skip={record.row: "no" for record in make()}))
    assert chart.spec(table, 660) is None
    assert svg(chart, table) is None


def drawn(name, table, width=1100):
    (chart,) = (chart for chart in CHARTS if chart.name == name)
    return chart.spec(table, width)


def test_the_charts_show_the_table(table):
    tradeoff, latency, memory = (drawn(name, table) for name in ("perplexity", "latency", "memory"))
    point = {p["row"]: p for p in tradeoff["data"]["values"]}
    ratio = table.rows[1].figure("perplexity").ratio
    assert (point["fp32"]["ratio"], point["fp32"]["x"]) == (1.0, 4.812288)
    assert (point["int8-static (all)"]["low"], point["int8-static (all)"]["high"]) == (ratio.low, ratio.high)
    assert "bnb-nf4" not in point
    marks = {mark["row"]: mark for mark in latency["datasets"]["marks"]}
    assert marks["fp32"]["p50"] == pytest.approx(table.rows[0].figure("latency_s").p50 * 1e3)
    assert all(len(strip["ms"]) == 300 for strip in latency["datasets"]["strips"])
    assert titles(memory) == ["On disk", "Weights", "Loaded", "Peak memory"]
    assert [value["value"] for value in memory["datasets"]["weight_bytes"]][:2] == [4.812288, 1.262592]


def titles(spec):
    return [panel["title"]["text"] for line in spec["vconcat"] for panel in line["hconcat"]]


def test_every_measured_metric_has_a_panel(full):
    found = [title for group in GROUPS for title in titles(drawn(group, full))]
    assert sorted(found) == sorted(column.title for column in full.columns)


def test_bars_carry_spread_and_published(full):
    speed = drawn("speed", full)["datasets"]
    rate = speed["tokens_per_s"][0]
    assert rate["low"] < rate["value"] < rate["high"]
    assert "tail" in speed["latency_s"][0]
    assert speed["latency_s"][0]["published"] == pytest.approx(8.3)
    assert drawn("session", full)["datasets"]["load_s"][0]["spread"].endswith("unstable: rounds differ by 32 %")


def test_bars_of_tasks_are_accuracies_with_their_interval(answered):
    values = {value["row"]: value for value in drawn("tasks", answered)["datasets"]["gsm8k_strict"]}
    bar = values["int8-static"]
    assert bar["low"] < bar["value"] < bar["high"]
    assert bar["value"] == pytest.approx(40 / 96)
    assert (bar["text"], bar["against"], bar["told"]) == ("0.417", "0.833×", "61.0 %")
    assert bar["spread"] == f"{bar['low']:.3f} to {bar['high']:.3f}"
    (panel,) = drawn("tasks", answered)["vconcat"][0]["hconcat"]
    assert panel["title"]["subtitle"] == "more is better"
    assert any(layer["encoding"].get("x2") == {"field": "high"} for layer in panel["layer"])


@pytest.mark.parametrize("width", LAYOUT_WIDTHS)
def test_panels_fit_their_width(full, width):
    for line in drawn("session", full, width)["vconcat"]:
        assert sum(panel["width"] for panel in line["hconcat"]) < width
        assert width > 500 or len(line["hconcat"]) == 1


def test_the_pareto_front_is_marked(full):
    points = drawn("perplexity-speed", full)["data"]["values"]
    front = [point for point in points if point["front"]]
    assert {"int8-static (all)", "fp32"} <= {point["row"] for point in front}
    assert "bnb-fp4" not in {point["row"] for point in front}
    for point in points:
        beaten = any(other["x"] < point["x"] and other["ratio"] < point["ratio"] for other in points)
        assert not (beaten and point["front"])
    named = [layer for layer in drawn("perplexity-speed", full)["layer"] if layer.get("mark", {}).get("fontStyle")]
    assert [value["row"] for value in named[0]["data"]["values"]] == ["Pareto front"]


def test_runs_have_shapes_and_fronts_of_their_own(merged):
    points = drawn("perplexity", merged)["data"]["values"]
    assert {point["run"] for point in points} == {"A", "B"}
    for run in ("A", "B"):
        assert any(point["front"] for point in points if point["run"] == run)


def test_published_figures_stand_beside_measured_ones_as_ratios(table):
    panels = drawn("published", table)["datasets"]
    assert set(panels) == {"weight_bytes", "latency_s", "sentence_perplexity"}
    weights = {value["row"]: value for value in panels["weight_bytes"]}
    assert weights["fp32"]["ratio"] == weights["fp32"]["published"] == 1.0
    assert weights["bnb-fp4"]["published"] == pytest.approx(127.85 / 486.70)
    assert weights["bnb-fp4"]["ratio"] == table.rows[6].figure("weight_bytes").ratio
    assert (weights["bnb-fp4"]["size"], weights["bnb-fp4"]["told"]) == ("1.215 MB", "127.85 MB")


def published_tasks(everything, **more):
    told = {"fp32": 0.61, "nf4": 0.549}
    return [
        record.model_copy(update={"published": Published(value=told[record.row], source="s"), **more})
        for record in everything
        if record.row in told and record.metric == "mmlu_acc"
    ]


def test_published_accuracies_stand_beside_measured_ones_as_ratios(everything):
    table = build_table(published_tasks(everything))
    values = {value["row"]: value for value in drawn("published", table)["datasets"]["mmlu_acc"]}
    figure = table.rows[1].figure("mmlu_acc")
    assert values["fp32"]["ratio"] == values["fp32"]["published"] == 1.0
    assert values["nf4"]["published"] == pytest.approx(0.9)
    assert values["nf4"]["ratio"] == figure.ratio.value
    assert (values["nf4"]["size"], values["nf4"]["told"]) == (f"{figure.interval.value:.3f}", "0.549")
    assert drawn("published", build_table(published_tasks(everything, stand_in=True))) is None


def test_a_stand_in_has_no_published_diamonds_and_no_trade_off_of_quality(make):
    stand_in = build_table(make(published=True, stand_in=True))
    bars = drawn("memory", stand_in)["datasets"]["weight_bytes"]
    assert not any("published" in value for value in bars)
    assert drawn("perplexity", stand_in) is None
    assert set(drawn("published", stand_in)["datasets"]) == {"weight_bytes", "latency_s"}


def test_a_figure_that_is_not_finite_is_said_and_not_drawn(make):
    broken = [
        record.model_copy(update={"samples": tuple((math.nan, n) for _, n in record.samples)})
        if record.metric == "perplexity" and record.row == "bnb-fp4"
        else record
        for record in make()
    ]
    values = {value["row"]: value for value in drawn("quality", build_table(broken))["datasets"]["perplexity"]}
    assert (values["bnb-fp4"]["value"], values["bnb-fp4"]["text"]) == (0, "not finite")


def test_part_of_a_model_is_hollow_and_recipes_have_their_hue(table):
    colours = hues(table.rows)
    assert colours["int8-static (all)"] == colours["int8-static (attention)"] != colours["int8-dynamic (all)"]
    assert [row.whole for row in table.rows[:3]] == [True, True, False]


def test_every_recipe_has_a_hue():
    assert {each.colour for each in RECIPES.values()} == set(HUES)


@by_name
def test_specs_are_the_same_every_time(chart, table):
    assert json.dumps(chart.spec(table, 660)) == json.dumps(chart.spec(table, 660))
