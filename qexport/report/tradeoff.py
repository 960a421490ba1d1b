"""The chart of perplexity against memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qexport.report import words
from qexport.report.labels import place_labels
from qexport.report.palette import Spec, font_size, hue_scale, row_datum, tooltip
from qexport.report.table import COLUMN, Estimate, Row, Size, Table

_MARGIN = (70, 60)
"""Pixels for axes and titles, left and below."""


@dataclass(frozen=True)
class _Frame:
    """The plot's extent in data and in pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int

    def pixel(self, mb: float, ratio: float) -> tuple[float, float]:
        (left, right), (low, high) = self.x, self.y
        return (mb - left) / (right - left) * self.width, (high - ratio) / (high - low) * self.height

    def data(self, pixel: tuple[float, float]) -> tuple[float, float]:
        (left, right), (low, high) = self.x, self.y
        return left + pixel[0] / self.width * (right - left), high - pixel[1] / self.height * (high - low)


def perplexity_against_memory(table: Table, width: int) -> Spec | None:
    """Perplexity ratio to fp32, with its interval, over bytes of weights; fp32 itself stands at 1."""
    points = [point for row in table.rows if (point := _point(row, table.baseline)) is not None]
    if len(points) < 2:
        return None
    frame = _frame(points, width)
    labels = [point | place for point, place in zip(points, _labels(points, frame, font_size(width)), strict=True)]
    x, y = _axes(frame)
    at = {"x": x | {"field": "mb"}, "y": y | {"field": "ratio"}}
    hue = hue_scale(table)
    layers = [
        {
            "data": {"values": [{"ratio": 1}]},
            "mark": {"type": "rule", "color": "@muted", "strokeDash": [4, 4]},
            "encoding": {"y": at["y"]},
        },
        {
            "mark": {"type": "errorbar", "ticks": {"size": 7}, "thickness": 1.5},
            "encoding": {"x": at["x"], "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": hue},
        },
        {
            "mark": {"type": "rule", "color": "@muted", "strokeWidth": 0.75},
            "transform": [{"filter": "datum.leader"}],
            "encoding": at | {"x2": {"field": "end_x"}, "y2": {"field": "end_y"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 62, "strokeWidth": 2, "opacity": 1},
            "encoding": at
            | {
                "stroke": hue,
                "fill": {"condition": {**hue, "test": "datum.whole"}, "value": "@surface"},
                "tooltip": tooltip("row", "weights", "perplexity", "against"),
            },
        },
        {
            "mark": {"type": "text", "align": "center", "baseline": "middle", "color": "@ink"},
            "encoding": {"x": x | {"field": "text_x"}, "y": y | {"field": "text_y"}, "text": {"field": "row"}},
        },
    ]
    return {"data": {"values": labels}, "width": frame.width, "height": frame.height, "layer": layers}


def _point(row: Row, baseline: Row | None) -> dict[str, Any] | None:
    weights, perplexity = row.figure("weight_bytes"), row.figure("perplexity")
    if not isinstance(weights, Size) or not isinstance(perplexity, Estimate):
        return None
    ratio = perplexity.ratio
    if row is baseline:
        value, low, high, against = 1.0, 1.0, 1.0, "1: all ratios refer to it"
    elif ratio is not None and math.isfinite(ratio.high - ratio.low):
        value, low, high = ratio.value, ratio.low, ratio.high
        against = words.ratio_with_interval(ratio, COLUMN["perplexity"])
    else:
        return None
    return row_datum(row) | {
        "mb": weights.value / 1e6,
        "ratio": value,
        "low": low,
        "high": high,
        "weights": f"{words.significant(weights.value / 1e6)} MB",
        "perplexity": words.significant(perplexity.interval.value),
        "against": against,
    }


def _frame(points: Sequence[dict[str, Any]], width: int) -> _Frame:
    low, high = min(point["low"] for point in points), max(point["high"] for point in points)
    pad = max((high - low) * 0.12, 1e-4)
    return _Frame(
        x=(0.0, max(point["mb"] for point in points) * 1.06),
        y=(low - pad, high + pad),
        width=width - _MARGIN[0],
        height=min(300, width) - _MARGIN[1] + 60,
    )


def _axes(frame: _Frame) -> tuple[Spec, Spec]:
    x = {
        "type": "quantitative",
        "scale": {"domain": list(frame.x), "nice": False},
        "axis": {"title": "Weights, MB", "grid": False, "tickCount": 6},
    }
    y = {
        "type": "quantitative",
        "scale": {"domain": list(frame.y), "nice": False, "zero": False},
        "axis": {"title": "Perplexity, ratio to fp32", "tickCount": 6, "domain": False, "ticks": False},
    }
    return x, y


def _labels(points: Sequence[dict[str, Any]], frame: _Frame, size: int) -> list[dict[str, Any]]:
    """Where the label of each point stands, in data units, and where a line from point to label ends."""
    places = place_labels(
        [
            (
                point["row"],
                frame.pixel(point["mb"], point["ratio"]),
                (frame.pixel(0, point["high"])[1], frame.pixel(0, point["low"])[1]),
            )
            for point in points
        ],
        canvas=(frame.width, frame.height),
        font_size=size,
        obstacle_y=frame.pixel(0, 1.0)[1],
    )
    return [
        dict(zip(("text_x", "text_y", "end_x", "end_y"), (*frame.data(p.centre), *frame.data(p.anchor)), strict=True))
        | {"leader": p.leader}
        for p in places
    ]
