"""The chart of latency per sentence."""

from __future__ import annotations

import math
from typing import Any

from qexport.report import numbers
from qexport.report.figures import Latency
from qexport.report.palette import Spec, gutter_width, hue_scale, row_axis, row_datum, ticks, tooltip
from qexport.report.table import COLUMN, Row, Table

STRIP_SAMPLES = 300
"""The most samples of one row in a strip: more only darken it, and 300 keep the page near one megabyte."""
_FIGURES = 80
"""Pixels to the right of the plot for the p50 figure."""


def latency_per_sentence(table: Table, width: int) -> Spec | None:
    """Every sentence's time as a dot, one strip a row, p50 as a thick mark and p95 as a thin one; logarithmic."""
    rows = [(row, figure) for row in table.rows if isinstance(figure := row.figure("latency_s"), Latency)]
    if not rows:
        return None
    strips = [_strip(row, figure) for row, figure in rows]
    labels = [row.label for row, _ in rows]
    x = _time_axis([ms for strip in strips for ms in strip["ms"]])
    y = row_axis(labels) | {"scale": {"paddingInner": 0.28}}
    mark = {"type": "tick", "color": "@ink"}
    told = tooltip("row", "median", "tail", "against")
    layers = [
        {
            "data": {"name": "strips"},
            "transform": [{"flatten": ["ms", "tokens", "round", "height"]}],
            "mark": {"type": "circle", "size": 12, "opacity": 0.5, "aria": False},
            "encoding": {
                "x": x | {"field": "ms"},
                "y": y,
                "yOffset": {"field": "height", "type": "quantitative", "scale": {"domain": [0, 1]}},
                "color": hue_scale(table),
                "tooltip": tooltip("row", "ms", "tokens", "round"),
            },
        },
        {
            "mark": mark | {"thickness": 1, "height": 20},
            "encoding": {"x": x | {"field": "p95"}, "y": y, "tooltip": told},
        },
        {
            "mark": mark | {"thickness": 3, "height": 28},
            "encoding": {"x": x | {"field": "p50"}, "y": y, "tooltip": told},
        },
        {
            "mark": {"type": "text", "align": "left", "baseline": "middle", "dx": 10, "color": "@ink"},
            "encoding": {"x": {"value": "width"}, "y": y, "text": {"field": "figure"}},
        },
    ]
    marks = [row_datum(row) | _marks(figure) for row, figure in rows]
    inner = width - gutter_width(labels, width) - _FIGURES
    datasets = {"strips": strips, "marks": marks}
    return {
        "datasets": datasets,
        "data": {"name": "marks"},
        "width": inner,
        "height": {"step": 40},
        "layer": layers,
    }


def _time_axis(times_ms: list[float]) -> Spec:
    low, high = min(times_ms) * 0.95, max(times_ms) * 1.05
    axis = {
        "title": "Milliseconds, logarithmic",
        "values": ticks(low, high),
        "format": "~g",
        "domain": False,
        "ticks": False,
    }
    return {
        "type": "quantitative",
        "scale": {"type": "log", "domain": [low, high], "nice": False},
        "axis": axis,
    }


def _strip(row: Row, figure: Latency) -> dict[str, Any]:
    """At most :data:`STRIP_SAMPLES` samples, evenly spread over the run, as columns, each at its own height."""
    count = min(len(figure.samples), STRIP_SAMPLES)
    chosen = [figure.samples[index * len(figure.samples) // count] for index in range(count)]
    golden = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 fill an interval evenly and never line up
    return {
        "row": row.label,
        "ms": [float(f"{seconds * 1e3:.4g}") for seconds, _, _ in chosen],
        "tokens": [tokens for _, tokens, _ in chosen],
        "round": [number for _, _, number in chosen],
        "height": [round(index * golden % 1, 3) for index in range(count)],
    }


def _marks(figure: Latency) -> dict[str, Any]:
    p50, p95 = figure.p50 * 1e3, figure.p95 * 1e3
    return {
        "p50": p50,
        "p95": p95,
        "figure": f"{numbers.significant(p50, 3)} ms",
        "median": f"{numbers.significant(p50)} ms",
        "tail": f"{numbers.significant(p95)} ms",
        "against": "1" if figure.ratio is None else numbers.ratio_with_interval(figure.ratio, COLUMN["latency_s"]),
    }
