"""Bar charts: a panel for each metric of a group, with the rows from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qexport.core import DISTANCES, Group, Interval
from qexport.report import numbers, words
from qexport.report.figures import Accuracy, Answer, Estimate, Figure, Latency, Repeated, Size, plain, plain_ratio
from qexport.report.palette import NARROW, Spec, gutter_width, hues, row_axis, row_datum, tooltip, wrapped
from qexport.report.table import Column, Row, Table

_FIGURES = 62
"""Pixels to the right of a bar for its figure."""
_LEAST = 178
"""Pixels of the narrowest panel, with its figures."""
_MOST_ABREAST = 4


def bars(table: Table, width: int, *, group: Group) -> Spec | None:
    """Each metric of a group in its own panel, on its own scale, since metrics must not be added or compared."""
    columns = [column for column in table.columns if column.group == group and _drawable(table, column)]
    if not columns:
        return None
    rows = [row for row in table.rows if any(_finite(row.figure(column.metric)) is not None for column in columns)]
    labels = [row.label for row in rows]
    gutter = gutter_width(labels, width)
    abreast = 1 if width <= NARROW else max(1, min(len(columns), _MOST_ABREAST, (width - gutter) // _LEAST))
    inner = (width - gutter) // abreast - _FIGURES
    datasets = {column.metric: _values(table, rows, column) for column in columns}
    published = {metric for metric, values in datasets.items() if any(value["told"] for value in values)}

    def panel(column: Column, names: bool) -> Spec:  # noqa: FBT001
        return _panel(column, labels, inner, names=names, published=column.metric in published)

    grid = wrapped(columns, abreast, panel, spacing=16)
    return {"datasets": datasets, "vconcat": grid, "spacing": 34}


def _drawable(table: Table, column: Column) -> bool:
    return any(_finite(row.figure(column.metric)) is not None for row in table.rows)


def _finite(figure: Figure) -> float | None:
    value = plain(figure)
    return value if value is not None and math.isfinite(value) else None


def _values(table: Table, rows: Sequence[Row], column: Column) -> list[dict[str, Any]]:
    colours = hues(table.rows)
    return [row_datum(row) | {"hue": colours[row.label]} | _datum(row, column) for row in rows]


def _datum(row: Row, column: Column) -> dict[str, Any]:
    """The drawn data of a row, in shown units: ``value``, and if present ``low``, ``high``, ``tail``, ``published``."""
    cell = row.cells[column.metric]
    value = _finite(cell.figure)
    if value is None:
        missing = words.NOT_MEASURED if plain(cell.figure) is None else "not finite"
        return {"value": 0, "text": missing, "size": missing, "spread": "", "against": "", "told": ""}
    drawn: dict[str, Any] = {"value": value / column.per_unit}
    match cell.figure:
        case Latency(p95=p95):
            drawn["tail"] = p95 / column.per_unit
            spread = f"p95 {numbers.significant(drawn['tail'])}"
        case Repeated(low=low, high=high) | Estimate(interval=Interval(low=low, high=high)):
            drawn |= {"low": low / column.per_unit, "high": high / column.per_unit}
            spread = f"{numbers.significant(drawn['low'])} to {numbers.significant(drawn['high'])}"
        case Accuracy(interval=Interval(low=low, high=high)):
            drawn |= {"low": low, "high": high}
            spread = f"{numbers.accuracy(low)} to {numbers.accuracy(high)}"
        case _:
            spread = ""
    drawn["told"] = ""
    if cell.published is not None and not row.stand_in:
        drawn |= {
            "published": cell.published.value / column.per_unit,
            "told": numbers.published(cell.published, column),
        }
    ratio = plain_ratio(cell.figure)
    drawn["text"] = _figure(cell.figure, drawn["value"])
    drawn["size"] = f"{drawn['text']} {column.unit}".strip()
    drawn["spread"] = "; ".join(part for part in (spread, words.unstable_note(cell.figure)) if part)
    drawn["against"] = "" if ratio is None else f"{numbers.ratio_value(ratio, numbers.ratio_digits(column))}×"
    return drawn


def _figure(figure: Figure, value: float) -> str:
    match figure:
        case Answer(right=right, rounds=rounds):
            return f"{right} of {rounds}"
        case Accuracy():
            return numbers.accuracy(value)
        case Size() | Latency() | Repeated() | Estimate():
            return numbers.significant(value)
        case _:
            return numbers.exactly(value)


def _panel(column: Column, labels: Sequence[str], inner: int, *, names: bool, published: bool) -> Spec:
    y: Spec = row_axis(labels) if names else row_axis(labels) | {"axis": None}
    x = {"type": "quantitative", "scale": {"nice": False, "zero": True}, "axis": None}
    hue = {"field": "hue", "type": "nominal", "scale": None, "legend": None}
    told = tooltip("row", "size", "spread", "against", "told")
    layers: list[Spec] = [
        {
            "mark": {"type": "bar", "height": 13, "strokeWidth": 1.5, "cornerRadiusEnd": 2},
            "encoding": {
                "x": x | {"field": "value"},
                "stroke": hue,
                "fill": {"condition": {**hue, "test": "datum.whole"}, "value": "@surface"},
                "tooltip": told,
            },
        }
    ]
    if column.form in {"rounds", "corpus", "sentences", "accuracy"} or column.metric in DISTANCES:
        layers += [
            {
                "mark": {"type": "rule", "color": colour, "strokeWidth": breadth},
                "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}, "tooltip": told},
            }
            for colour, breadth in (("@surface", 4), ("@ink", 1.5))  # visible on a bar of any hue
        ]
    if column.form == "latency":
        layers.append(
            {
                "mark": {"type": "tick", "color": "@ink", "thickness": 1.5, "height": 15},
                "encoding": {"x": x | {"field": "tail"}, "tooltip": told},
            }
        )
    if published:
        layers.append(
            {
                "transform": [{"filter": "datum.told"}],
                "mark": {
                    "type": "point",
                    "shape": "diamond",
                    "filled": True,
                    "size": 70,
                    "fill": "@surface",
                    "stroke": "@ink",
                    "strokeWidth": 1.5,
                    "opacity": 1,
                },
                "encoding": {"x": x | {"field": "published"}, "tooltip": told},
            }
        )
    layers.append(
        {
            "mark": {"type": "text", "align": "left", "baseline": "middle", "dx": 10, "color": "@ink"},
            "encoding": {"x": {"value": "width"}, "text": {"field": "text"}},
        }
    )
    unit = [column.unit] if column.unit else []
    better = ["more is better"] if column.higher_is_better else []
    return {
        "title": {
            "text": column.title,
            "subtitle": ", ".join(unit + better) or " ",
            "anchor": "start",
            "frame": "group",
            "fontSize": 12,
            "subtitleFontSize": 11,
            "offset": 8,
        },
        "data": {"name": column.metric},
        "width": inner,
        "height": {"step": 25},
        "encoding": {"y": y},
        "layer": layers,
    }
