"""The report's charts, each defined once as Vega-Lite and drawn twice: in the page by Vega, as PNG by vl-convert.

Neutral colours are written as placeholders (``@ink``) and filled in from a :class:`Theme`, in the browser for the page.
Hues are those of Okabe and Ito (2008), told apart with any colour vision; selections of part of the model are hollow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qexport.report import words
from qexport.report.labels import Place, place_labels
from qexport.report.table import COLUMN, Estimate, Latency, Row, Size, Table

Spec = dict[str, Any]

VEGA_LITE = "6.4"
PNG_SCALE = 2.0
STRIP_SAMPLES = 300
"""Samples of one row drawn in a strip: more only darken it, and 300 keep the page near one megabyte."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The neutral colours of a chart."""

    ink: str
    muted: str
    grid: str
    surface: str
    font: str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


LIGHT = Theme(ink="#1d2126", muted="#646b75", grid="#e6e8eb", surface="#ffffff")
DARK = Theme(ink="#e8eaed", muted="#9aa1ab", grid="#2c3138", surface="#15181c")
PNG = Theme(
    ink=LIGHT.ink,
    muted=LIGHT.muted,
    grid=LIGHT.grid,
    surface=LIGHT.surface,
    font="Helvetica, Arial, sans-serif",
)

BLUE, GREEN, VERMILLION, ORANGE, PURPLE, SKY = (
    "#0072B2",
    "#009E73",
    "#D55E00",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
)
HUES: Mapping[str, str] = {
    "fp32": "@muted",
    "int8-static": BLUE,
    "int8-dynamic": GREEN,
    "bnb-int8": VERMILLION,
    "bnb-fp4": VERMILLION,
    "bnb-nf4": VERMILLION,
}
FURTHER_HUES = (ORANGE, PURPLE, SKY)


def hues(rows: Sequence[Row]) -> dict[str, str]:
    """The colour of each row, by its recipe."""
    unknown = dict.fromkeys(row.recipe for row in rows if row.recipe not in HUES)
    further = {
        recipe: FURTHER_HUES[index % len(FURTHER_HUES)]
        for index, recipe in enumerate(unknown)
    }
    return {row.label: HUES.get(row.recipe) or further[row.recipe] for row in rows}


def _fill(row: Row) -> dict[str, Any]:
    """Row name, colour, and whether its marks are filled, for use as data."""
    return {"row": row.label, "whole": row.selector in ("", "all")}


def _hue_scale(table: Table) -> Spec:
    colours = hues(table.rows)
    return {
        "field": "row",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(colours), "range": list(colours.values())},
    }


def _row_axis(labels: Sequence[str]) -> Spec:
    axis = {
        "title": None,
        "ticks": False,
        "domain": False,
        "labelLimit": 0,
        "labelPadding": 10,
        "labelColor": "@ink",
    }
    return {"field": "row", "type": "nominal", "sort": list(labels), "axis": axis}


# --- perplexity against memory ---------------------------------------------------------------------------------------


def perplexity_against_memory(table: Table, width: int) -> Spec | None:
    """Perplexity ratio to fp32, with its interval, over bytes of weights; fp32 itself stands at 1."""
    points = [
        point
        for row in table.rows
        if (point := _tradeoff_point(row, row is table.baseline)) is not None
    ]
    if len(points) < 2:
        return None
    height = 360 if width > 500 else 320
    inner = (width - 70, height - 60)
    x_domain = (0.0, max(point["mb"] for point in points) * 1.06)
    low, high = (
        min(point["low"] for point in points),
        max(point["high"] for point in points),
    )
    pad = max((high - low) * 0.12, 1e-4)
    y_domain = (low - pad, high + pad)
    labels = _tradeoff_labels(points, x_domain, y_domain, inner)
    x = {
        "type": "quantitative",
        "scale": {"domain": x_domain, "nice": False},
        "axis": {"title": "Weights, MB", "grid": False, "tickCount": 6},
    }
    y = {
        "type": "quantitative",
        "scale": {"domain": y_domain, "nice": False, "zero": False},
        "axis": {
            "title": "Perplexity, ratio to fp32",
            "tickCount": 6,
            "format": ".3~f",
            "domain": False,
            "ticks": False,
        },
    }
    hue = _hue_scale(table)
    tooltip = _tooltip("row", "weights", "perplexity", "ratio")
    whisker = {"mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.75}}
    dot = {
        "type": "point",
        "filled": True,
        "size": 90 if width > 500 else 70,
        "strokeWidth": 2,
        "opacity": 1,
    }
    x_mb, y_ratio = {**x, "field": "mb"}, {**y, "field": "value"}
    ends = {"field": "low"}
    layers: list[Spec] = [
        {
            "data": {"values": [{"value": 1}]},
            "mark": {"type": "rule", "color": "@muted", "strokeDash": [4, 4]},
            "encoding": {"y": y_ratio},
        },
        {
            **whisker,
            "encoding": {
                "x": x_mb,
                "y": {**y, **ends},
                "y2": {"field": "high"},
                "color": hue,
            },
        },
        {
            "data": {"values": labels},
            "mark": {
                "type": "rule",
                "color": "@muted",
                "opacity": 0.6,
                "strokeWidth": 0.75,
            },
            "transform": [{"filter": "datum.leader"}],
            "encoding": {
                "x": {**x, "field": "mb"},
                "y": y_ratio,
                "x2": {"field": "label_x"},
                "y2": {"field": "label_y"},
            },
        },
        {
            "mark": dot,
            "encoding": {
                "x": x_mb,
                "y": y_ratio,
                "stroke": hue,
                "fill": {
                    "condition": {**hue, "test": "datum.whole"},
                    "value": "@surface",
                },
                "tooltip": tooltip,
            },
        },
        {
            "data": {"values": labels},
            "mark": {
                "type": "text",
                "align": "center",
                "baseline": "middle",
                "color": "@ink",
                "fontSize": _font(width),
            },
            "encoding": {
                "x": {**x, "field": "text_x"},
                "y": {**y, "field": "text_y"},
                "text": {"field": "row"},
            },
        },
    ]
    return {
        "data": {"values": points},
        "width": inner[0],
        "height": inner[1],
        "layer": layers,
    }


def _tradeoff_point(row: Row, is_baseline: bool) -> dict[str, Any] | None:
    weights, perplexity = row.figure("weight_bytes"), row.figure("perplexity")
    if not isinstance(weights, Size) or not isinstance(perplexity, Estimate):
        return None
    value = words.significant(perplexity.interval.value)
    point = _fill(row) | {
        "mb": weights.value / 1e6,
        "weights": f"{words.significant(weights.value / 1e6)} MB",
        "perplexity": value,
    }
    if is_baseline:
        return point | {
            "value": 1.0,
            "low": 1.0,
            "high": 1.0,
            "ratio": "1 (all ratios refer to it)",
        }
    ratio = perplexity.ratio
    if ratio is None or not math.isfinite(ratio.high - ratio.low):
        return None
    text = words.ratio_with_interval(ratio, COLUMN["perplexity"])
    return point | {
        "value": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "ratio": text,
    }


def _tradeoff_labels(
    points: Sequence[Mapping[str, Any]],
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    inner: tuple[int, int],
) -> list[dict[str, Any]]:
    """Labels as data: where each text stands, and whether a line leads from it to its point."""
    x_scale = inner[0] / (x_domain[1] - x_domain[0])
    y_scale = inner[1] / (y_domain[1] - y_domain[0])

    def pixel(mb: float, value: float) -> tuple[float, float]:
        return (mb - x_domain[0]) * x_scale, (y_domain[1] - value) * y_scale

    def datum(x: float, y: float) -> tuple[float, float]:
        return x / x_scale + x_domain[0], y_domain[1] - y / y_scale

    size = _font(inner[0] + 70)
    places: list[Place] = place_labels(
        [
            (
                point["row"],
                pixel(point["mb"], point["value"]),
                (pixel(0, point["high"])[1], pixel(0, point["low"])[1]),
            )
            for point in points
        ],
        canvas=inner,
        font_size=size,
        obstacle_y=pixel(0, 1.0)[1],
    )
    labels = []
    for point, place in zip(points, places, strict=True):
        text_x, text_y = datum(*place.centre)
        label_x, label_y = datum(*place.anchor)
        labels.append(
            {
                "row": point["row"],
                "mb": point["mb"],
                "value": point["value"],
                "text_x": text_x,
                "text_y": text_y,
                "label_x": label_x,
                "label_y": label_y,
                "leader": place.leader,
            }
        )
    return labels


# --- latency ---------------------------------------------------------------------------------------------------------


def latency_per_sentence(table: Table, width: int) -> Spec | None:
    """Every sentence's time as a dot, one strip a row, with p50 as a bar and p95 as a thin one; logarithmic."""
    rows = [
        (row, figure)
        for row in table.rows
        if isinstance(figure := row.figure("latency_s"), Latency)
    ]
    if not rows:
        return None
    samples, marks = [], []
    for row, figure in rows:
        samples += _strip(row, figure)
        text = f"{words.significant(figure.p50 * 1e3, 3)} ms"
        marks.append(
            _fill(row)
            | {"p50": figure.p50 * 1e3, "p95": figure.p95 * 1e3, "text": text}
            | _latency_words(figure)
        )
    labels = [row.label for row, _ in rows]
    step = 40
    y = _row_axis(labels) | {"scale": {"paddingInner": 0.3, "paddingOuter": 0.2}}
    axis = {
        "title": "Latency per sentence, ms (logarithmic)",
        "format": "~g",
        "tickCount": 5,
        "domain": False,
        "ticks": False,
    }
    times = [sample["ms"] for sample in samples]
    scale = {
        "type": "log",
        "domain": [min(times) * 0.95, max(times) * 1.05],
        "nice": False,
    }
    x = {"type": "quantitative", "scale": scale, "axis": axis}
    hue = _hue_scale(table)
    layers: list[Spec] = [
        {
            "data": {"values": samples},
            "mark": {"type": "circle", "size": 12, "opacity": 0.4, "clip": True},
            "encoding": {
                "x": {**x, "field": "ms"},
                "y": y,
                "yOffset": {
                    "field": "jitter",
                    "type": "quantitative",
                    "scale": {"domain": [0, 1]},
                },
                "color": hue,
                "tooltip": _tooltip("row", "time", "tokens", "round"),
            },
        },
        {
            "mark": {
                "type": "tick",
                "thickness": 1,
                "height": 22,
                "color": "@ink",
                "opacity": 0.7,
            },
            "encoding": {
                "x": {**x, "field": "p95"},
                "y": y,
                "tooltip": _tooltip("row", "median", "tail", "ratio"),
            },
        },
        {
            "mark": {"type": "tick", "thickness": 3, "height": 28, "color": "@ink"},
            "encoding": {
                "x": {**x, "field": "p50"},
                "y": y,
                "tooltip": _tooltip("row", "median", "tail", "ratio"),
            },
        },
        {
            "mark": {
                "type": "text",
                "align": "left",
                "baseline": "middle",
                "dx": 10,
                "color": "@ink",
                "fontSize": _font(width),
            },
            "encoding": {"x": {"value": "width"}, "y": y, "text": {"field": "text"}},
        },
    ]
    inner = width - _gutter(labels, width) - 80
    return {
        "data": {"values": marks},
        "width": inner,
        "height": {"step": step},
        "layer": layers,
    }


def _strip(row: Row, figure: Latency) -> list[dict[str, Any]]:
    """At most :data:`STRIP_SAMPLES` samples, evenly spread over the run, each at a height of its own."""
    count = min(len(figure.samples), STRIP_SAMPLES)
    chosen = [
        figure.samples[index * len(figure.samples) // count] for index in range(count)
    ]
    golden = (math.sqrt(5) - 1) / 2
    return [
        {
            "row": row.label,
            "ms": round(seconds * 1e3, 5),
            "time": f"{words.significant(seconds * 1e3)} ms",
            "tokens": tokens,
            "round": number,
            "jitter": round(index * golden % 1, 3),
        }
        for index, (seconds, tokens, number) in enumerate(chosen)
    ]


def _latency_words(figure: Latency) -> dict[str, str]:
    return {
        "median": f"{words.significant(figure.p50 * 1e3)} ms",
        "tail": f"{words.significant(figure.p95 * 1e3)} ms",
        "ratio": "1"
        if figure.ratio is None
        else words.ratio_with_interval(figure.ratio, COLUMN["latency_s"]),
    }


# --- memory ----------------------------------------------------------------------------------------------------------

MEMORY = ("disk_bytes", "weight_bytes", "peak_rss_bytes", "peak_device_bytes")


def memory(table: Table, width: int) -> Spec | None:
    """Each kind of memory in a panel and on a scale of its own, because they are never to be added or compared."""
    metrics = [
        metric
        for metric in MEMORY
        if any(isinstance(row.figure(metric), Size) for row in table.rows)
    ]
    labels = [
        row.label
        for row in table.rows
        if any(isinstance(row.figure(metric), Size) for metric in metrics)
    ]
    if not metrics:
        return None
    gutter, wide = _gutter(labels, width), width > 500
    inner = (width - gutter) // len(metrics) - 75 if wide else width - gutter - 70
    panels = [
        _memory_panel(table, metric, labels, inner, names=not wide or index == 0)
        for index, metric in enumerate(metrics)
    ]
    return {"hconcat" if wide else "vconcat": panels, "spacing": 16 if wide else 28}


def _memory_panel(
    table: Table, metric: str, labels: Sequence[str], inner: int, *, names: bool
) -> Spec:
    values = []
    for row in table.rows:
        figure = row.figure(metric)
        if isinstance(figure, Size):
            text = words.significant(figure.value / 1e6)
            ratio = (
                "1"
                if figure.ratio is None
                else f"{words.ratio_value(figure.ratio, 3)}×"
            )
            values.append(
                _fill(row)
                | {
                    "mb": figure.value / 1e6,
                    "text": text,
                    "size": f"{text} MB",
                    "ratio": ratio,
                }
            )
        elif row.label in labels:
            values.append(
                _fill(row)
                | {"mb": 0, "text": "not measured", "size": "not measured", "ratio": ""}
            )
    y = _row_axis(labels)
    if not names:
        y = y | {"axis": None}
    x = {
        "field": "mb",
        "type": "quantitative",
        "scale": {"nice": False, "zero": True},
        "axis": None,
    }
    hue = _hue_scale(table)
    bar = {
        "mark": {"type": "bar", "height": 13, "strokeWidth": 1.5, "cornerRadiusEnd": 2},
        "encoding": {
            "x": x,
            "y": y,
            "stroke": hue,
            "fill": {"condition": {**hue, "test": "datum.whole"}, "value": "@surface"},
            "tooltip": _tooltip("row", "size", "ratio"),
        },
    }
    text = {
        "mark": {
            "type": "text",
            "align": "left",
            "baseline": "middle",
            "dx": 7,
            "color": "@ink",
        },
        "encoding": {"x": x, "y": y, "text": {"field": "text"}},
    }
    title = {
        "text": f"{COLUMN[metric].title}, MB",
        "anchor": "start",
        "frame": "group",
        "fontSize": 12,
        "offset": 8,
    }
    return {
        "title": title,
        "data": {"values": values},
        "width": inner,
        "height": {"step": 25},
        "layer": [bar, text],
    }


# --- what all share --------------------------------------------------------------------------------------------------


def _font(width: int) -> int:
    return 12 if width > 500 else 11


def _gutter(labels: Sequence[str], width: int) -> int:
    """Pixels the row names take left of the plot."""
    return round(max(map(len, labels)) * _font(width) * 0.52) + 18


_TITLES = {
    "row": "Row",
    "weights": "Weights",
    "perplexity": "Perplexity",
    "ratio": "Ratio to fp32",
    "time": "Time",
    "tokens": "Tokens",
    "round": "Round",
    "median": "p50",
    "tail": "p95",
    "size": "Size",
}


def _tooltip(*fields: str) -> list[Spec]:
    return [
        {"field": field, "title": _TITLES[field], "type": "nominal"} for field in fields
    ]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart's name (and file name), its words, and the function that draws it: None where there is too little."""

    name: str
    title: str
    caption: str
    spec: Callable[[Table, int], Spec | None]


CHARTS = (
    Chart(
        name="perplexity",
        title="Perplexity against memory",
        caption=(
            "Lower and further left is better. Whiskers are 95 % intervals of the paired ratio: one that crosses the "
            "dashed line is no measurable difference. Hollow marks quantize a part of the model only."
        ),
        spec=perplexity_against_memory,
    ),
    Chart(
        name="latency",
        title="Latency per sentence",
        caption=(
            "Each dot is one sentence in one round (at most 300 a row are drawn, records.jsonl has all). The thick "
            "mark is p50, also in figures at the right; the thin mark is p95."
        ),
        spec=latency_per_sentence,
    ),
    Chart(
        name="memory",
        title="Memory",
        caption=(
            "Kinds of memory, each on a scale of its own. Peak memory is of the whole process, "
            "interpreter and libraries included. Hollow bars quantize a part of the model only."
        ),
        spec=memory,
    ),
)


def complete(spec: Spec, *, font_size: int) -> Spec:
    """A spec with the configuration all charts share; colours are still placeholders."""
    text = {
        "labelFontSize": font_size,
        "titleFontSize": font_size,
        "titleFontWeight": "normal",
    }
    axis = text | {
        "labelColor": "@muted",
        "titleColor": "@muted",
        "gridColor": "@grid",
        "domainColor": "@grid",
        "tickColor": "@grid",
        "titlePadding": 12,
        "labelPadding": 6,
    }
    config = {
        "font": "@font",
        "background": "@surface",
        "padding": 4,
        "view": {"stroke": None},
        "axis": axis,
        "text": {"fontSize": font_size},
        "title": {
            "color": "@ink",
            "subtitleColor": "@muted",
            "fontWeight": 600,
            "anchor": "start",
            "fontSize": 15,
        },
        "concat": {"spacing": 16},
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        **spec,
        "config": config,
    }


def themed(spec: Spec, theme: Theme) -> Spec:
    """The spec with its placeholders filled in."""
    text = json.dumps(spec)
    for name, value in asdict(theme).items():
        text = text.replace(f'"@{name}"', json.dumps(value))
    filled: Spec = json.loads(text)
    return filled


def png(chart: Chart, table: Table) -> bytes | None:
    """The chart as PNG at twice its size, on white, with its title; None where there is too little to draw."""
    import vl_convert

    spec = chart.spec(table, 860)
    if spec is None:
        return None
    title = {
        "title": {
            "text": chart.title,
            "subtitle": table.model,
            "offset": 18,
            "frame": "bounds",
        }
    }
    completed = complete({**spec, **title}, font_size=_font(860))
    completed["config"]["padding"] = 24
    data: bytes = vl_convert.vegalite_to_png(
        themed(completed, PNG), vl_version=VEGA_LITE, scale=PNG_SCALE
    )
    return data
