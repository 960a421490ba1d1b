from __future__ import annotations

import json

import pytest

from qexport.report.charts import CHARTS, png
from qexport.report.html import LAYOUT_WIDTHS
from qexport.report.palette import DARK, LIGHT, complete, hues, themed
from qexport.report.table import build_table

by_name = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)


@by_name
def test_png_is_drawn_at_twice_its_size(chart, records):
    image = png(chart, build_table(records))
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert int.from_bytes(image[16:20], "big") > 1400
    assert len(image) < 600_000


@by_name
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_no_placeholder_is_left_and_vega_lite_compiles_in_silence(chart, theme, records, capfd):
    import vl_convert

    table = build_table(records)
    for width in LAYOUT_WIDTHS:
        spec = themed(complete(chart.spec(table, width), width), theme)
        assert '"@' not in json.dumps(spec)
        vl_convert.vegalite_to_vega(spec, vl_version="6.4")
    assert "WARN" not in capfd.readouterr().err


@by_name
def test_too_little_to_draw_gives_no_chart(chart, make):
    table = build_table(make(skip={record.row: "no" for record in make()}))
    assert chart.spec(table, 660) is None
    assert png(chart, table) is None


def test_the_charts_show_the_table(records):
    table = build_table(records)
    tradeoff, latency, memory = (chart.spec(table, 1100) for chart in CHARTS)
    point = {p["row"]: p for p in tradeoff["data"]["values"]}
    ratio = table.rows[1].figure("perplexity").ratio
    assert (point["fp32"]["ratio"], point["fp32"]["mb"]) == (1.0, 4.812288)
    assert (point["int8-static (all)"]["low"], point["int8-static (all)"]["high"]) == (ratio.low, ratio.high)
    assert "bnb-nf4" not in point
    marks = {mark["row"]: mark for mark in latency["datasets"]["marks"]}
    assert marks["fp32"]["p50"] == pytest.approx(table.rows[0].figure("latency_s").p50 * 1e3)
    assert all(len(strip["ms"]) == 300 for strip in latency["datasets"]["strips"])
    assert [panel["title"]["text"] for panel in memory["hconcat"]] == ["On disk, MB", "Weights, MB", "Peak memory, MB"]


def test_part_of_a_model_is_hollow_and_recipes_have_their_hue(records):
    table = build_table(records)
    colours = hues(table.rows)
    assert colours["int8-static (all)"] == colours["int8-static (attention)"] != colours["int8-dynamic (all)"]
    assert [row.whole for row in table.rows[:3]] == [True, True, False]


@by_name
def test_specs_are_the_same_every_time(chart, records):
    table = build_table(records)
    assert json.dumps(chart.spec(table, 660)) == json.dumps(chart.spec(build_table(records), 660))
