"""The chart of published figures next to measured ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qexport.report import numbers
from qexport.report.figures import plain, plain_ratio
from qexport.report.palette import NARROW, Spec, gutter_width, hue_scale, row_axis, row_datum, tooltip, wrapped
from qexport.report.table import Column, Row, Table

_LEAST = 190
"""Pixels of the narrowest panel."""


def published_beside_measured(table: Table, width: int) -> Spec | None:
    """Ratios to the baseline, measured and published, each to the same row: ratios carry over to other machines."""
    found = [(column, _values(table, column)) for column in table.columns]
    bases = {row.label for row in table.baselines}
    panels = [(column, values) for column, values in found if {value["row"] for value in values} - bases]
    if not panels:
        return None
    drawn = {value["row"] for _, values in panels for value in values}
    labels = [row.label for row in table.rows if row.label in drawn]
    gutter = gutter_width(labels, width)
    abreast = 1 if width <= NARROW else max(1, min(len(panels), (width - gutter) // _LEAST))
    inner = (width - gutter) // abreast - 24
    base = numbers.against(table)

    def panel(of: tuple[Column, list[dict[str, Any]]], names: bool) -> Spec:  # noqa: FBT001
        return _panel(table, of[0], labels, inner, names=names, base=base)

    grid = wrapped(panels, abreast, panel, spacing=24)
    return {"datasets": {column.metric: values for column, values in panels}, "vconcat": grid, "spacing": 34}


def _values(table: Table, column: Column) -> list[dict[str, Any]]:
    values = []
    for run in table.runs:
        base = None if run.baseline is None else run.baseline.cells[column.metric].published
        if base is None or run.baseline is None or base.value <= 0:
            continue
        if run.stand_in and column.group in {"quality", "tasks"}:
            continue
        values += [
            datum
            for row in run.rows
            if (datum := _datum(row, column, base.value, is_base=row is run.baseline)) is not None
        ]
    return values


def _datum(row: Row, column: Column, base: float, *, is_base: bool) -> dict[str, Any] | None:
    cell = row.cells[column.metric]
    value, ratio = plain(cell.figure), 1.0 if is_base else plain_ratio(cell.figure)
    if cell.published is None or value is None or ratio is None or not math.isfinite(ratio):
        return None
    digits = numbers.ratio_digits(column)
    shown = numbers.accuracy if column.form == "accuracy" else numbers.significant
    told = cell.published.value / base
    return row_datum(row) | {
        "ratio": ratio,
        "published": told,
        "size": f"{shown(value / column.per_unit)} {column.unit}".strip(),
        "told": numbers.published_with_unit(cell.published, column),
        "measured_ratio": f"{numbers.ratio_value(ratio, digits)}×",
        "published_ratio": f"{numbers.ratio_value(told, digits)}×",
    }


def _panel(table: Table, column: Column, labels: Sequence[str], inner: int, *, names: bool, base: str) -> Spec:
    axis = {"title": f"Ratio to {base}", "tickCount": 4, "domain": False, "ticks": False}
    x = {"type": "quantitative", "scale": {"zero": False, "nice": True, "padding": 10}, "axis": axis}
    y: Spec = row_axis(labels) if names else row_axis(labels) | {"axis": None}
    y |= {"scale": {"domain": list(labels)}}
    told = tooltip("row", "size", "told", "measured_ratio", "published_ratio")
    hue = hue_scale(table)
    layers = [
        {
            "data": {"values": [{"ratio": 1}]},
            "mark": {"type": "rule", "color": "@muted", "strokeDash": [4, 4]},
            "encoding": {"x": x | {"field": "ratio"}, "y": None},
        },
        {
            "mark": {"type": "rule", "color": "@muted", "strokeWidth": 1},
            "encoding": {"x": x | {"field": "ratio"}, "x2": {"field": "published"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 80, "strokeWidth": 2, "opacity": 1},
            "encoding": {"x": x | {"field": "ratio"}, "color": hue, "tooltip": told},
        },
        {
            "mark": {
                "type": "point",
                "shape": "diamond",
                "filled": True,
                "size": 90,
                "fill": "@surface",
                "strokeWidth": 1.5,
                "opacity": 1,
            },
            "encoding": {"x": x | {"field": "published"}, "stroke": hue, "tooltip": told},
        },
    ]
    return {
        "title": {"text": column.title, "anchor": "start", "frame": "group", "fontSize": 12, "offset": 8},
        "data": {"name": column.metric},
        "width": inner,
        "height": {"step": 25},
        "encoding": {"y": y},
        "layer": layers,
    }
