"""The chart of the kinds of memory."""

from __future__ import annotations

from collections.abc import Sequence

from qexport.report import words
from qexport.report.palette import NARROW, Spec, gutter_width, hue_scale, row_axis, row_datum, tooltip
from qexport.report.table import COLUMN, Size, Table

MEMORY = ("disk_bytes", "weight_bytes", "peak_rss_bytes", "peak_device_bytes")
_FIGURES = 70
"""Pixels right of a bar for its figure."""


def memory(table: Table, width: int) -> Spec | None:
    """Each kind of memory in a panel and on a scale of its own, because they are never to be added or compared."""
    metrics = [metric for metric in MEMORY if any(isinstance(row.figure(metric), Size) for row in table.rows)]
    if not metrics:
        return None
    labels = [row.label for row in table.rows if any(isinstance(row.figure(metric), Size) for metric in metrics)]
    gutter = gutter_width(labels, width)
    if width <= NARROW:
        inner = width - gutter - _FIGURES
        return {"vconcat": [_panel(table, metric, labels, inner, names=True) for metric in metrics], "spacing": 28}
    inner = (width - gutter) // len(metrics) - _FIGURES
    panels = [_panel(table, metric, labels, inner, names=metric == metrics[0]) for metric in metrics]
    return {"hconcat": panels, "spacing": 16}


def _panel(table: Table, metric: str, labels: Sequence[str], inner: int, *, names: bool) -> Spec:
    values = []
    for row in (row for row in table.rows if row.label in labels):
        figure = row.figure(metric)
        if isinstance(figure, Size):
            text = words.significant(figure.value / 1e6)
            against = "1" if figure.ratio is None else f"{words.ratio_value(figure.ratio, 3)}×"
            drawn: Spec = {"mb": figure.value / 1e6, "text": text, "size": f"{text} MB", "against": against}
        else:
            drawn = {"mb": 0, "text": "not measured", "size": "not measured", "against": ""}
        values.append(row_datum(row) | drawn)
    y: Spec = row_axis(labels) if names else row_axis(labels) | {"axis": None}
    x = {"field": "mb", "type": "quantitative", "scale": {"nice": False, "zero": True}, "axis": None}
    hue = hue_scale(table)
    bar = {
        "mark": {"type": "bar", "height": 13, "strokeWidth": 1.5, "cornerRadiusEnd": 2},
        "encoding": {
            "x": x,
            "y": y,
            "stroke": hue,
            "fill": {"condition": {**hue, "test": "datum.whole"}, "value": "@surface"},
            "tooltip": tooltip("row", "size", "against"),
        },
    }
    figures = {
        "mark": {"type": "text", "align": "left", "baseline": "middle", "dx": 7, "color": "@ink"},
        "encoding": {"x": x, "y": y, "text": {"field": "text"}},
    }
    heading = {"text": f"{COLUMN[metric].title}, MB", "anchor": "start", "frame": "group", "fontSize": 12, "offset": 8}
    return {
        "title": heading,
        "data": {"values": values},
        "width": inner,
        "height": {"step": 25},
        "layer": [bar, figures],
    }
