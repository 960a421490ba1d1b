"""The charts of perplexity against memory and against speed, with their Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from qexport.report import numbers
from qexport.report.figures import Estimate, Latency, Size, plain
from qexport.report.label_places import Place, place_labels
from qexport.report.palette import Spec, font_size, hue_scale, row_datum, shape_scale, ticks, tooltip
from qexport.report.pareto import pareto
from qexport.report.table import COLUMN, Column, Row, Table

_MARGIN = (70, 60)
"""Pixels for axes and titles, on the left and at the bottom."""
_FRONT = "Pareto front"
_DECADE = 8
"""The horizontal axis is logarithmic if the largest value is at least this many times the least."""
_STEP = 6.0
"""Pixels between the points of the front that labels avoid."""
_MEMORY_AXIS: Mapping[str, str] = MappingProxyType({"weight_bytes": "Weights"})
_SPEED_AXIS: Mapping[str, str] = MappingProxyType(
    {
        "token_latency_s": "Time for each token, p50",
        "latency_s": "Time for each sentence, p50",
    }
)
"""Titles of the axis by metric; the first metric that gives a chart is used."""

_Point = dict[str, Any]


@dataclass(frozen=True)
class _Frame:
    """The plot's extent in data and in pixels; a horizontal axis that does not begin at 0 is logarithmic."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int

    @property
    def logarithmic(self) -> bool:
        return self.x[0] > 0

    def pixel(self, x: float, ratio: float) -> tuple[float, float]:
        left, right = self.x
        part = math.log(x / left) / math.log(right / left) if self.logarithmic else x / right
        return part * self.width, self.level(ratio)

    def level(self, ratio: float) -> float:
        low, high = self.y
        return (high - ratio) / (high - low) * self.height

    def data(self, pixel: tuple[float, float]) -> tuple[float, float]:
        (left, right), (low, high) = self.x, self.y
        part = pixel[0] / self.width
        x = left * (right / left) ** part if self.logarithmic else part * right
        return x, high - pixel[1] / self.height * (high - low)


def perplexity_against_memory(table: Table, width: int) -> Spec | None:
    """Perplexity ratio to the baseline, with its interval, over bytes of weights; the baseline is at 1."""
    return _tradeoff(table, width, _MEMORY_AXIS)


def perplexity_against_speed(table: Table, width: int) -> Spec | None:
    """Perplexity ratio over the time of a token, or of a sentence if no tokens were generated."""
    return _tradeoff(table, width, _SPEED_AXIS)


def _tradeoff(table: Table, width: int, axes: Mapping[str, str]) -> Spec | None:
    for metric, title in axes.items():
        points = [point for row in table.rows if (point := _point(table, row, COLUMN[metric])) is not None]
        if len(points) >= 2:
            return _chart(table, points, width, f"{title}, {COLUMN[metric].unit}")
    return None


def _chart(table: Table, points: list[_Point], width: int, title: str) -> Spec:
    fronts = _mark_fronts(points)
    frame = _frame(points, width)
    labelled, named = _labels(points, fronts, frame, font_size(width))
    x, y = _axes(frame, title, numbers.against(table))
    at = {"x": x | {"field": "x"}, "y": y | {"field": "ratio"}}
    hue = hue_scale(table)
    front: Spec = {"type": "text", "baseline": "middle", "fontStyle": "italic", "color": "@muted"}
    layers = [
        {
            "data": {"values": [{"ratio": 1}]},
            "mark": {"type": "rule", "color": "@muted", "strokeDash": [4, 4]},
            "encoding": {"y": at["y"]},
        },
        {
            "transform": [{"filter": "datum.front"}],
            "mark": {"type": "line", "color": "@muted", "strokeWidth": 2, "opacity": 0.7},
            "encoding": at | {"detail": {"field": "run"}, "order": {"field": "x"}},
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
            "mark": {"type": "point", "filled": True, "strokeWidth": 2, "opacity": 1},
            "encoding": at
            | {
                "stroke": hue,
                "fill": {"condition": {**hue, "test": "datum.whole"}, "value": "@surface"},
                "shape": shape_scale(table),
                "size": {"condition": {"test": "datum.front", "value": 130}, "value": 50},
                "tooltip": tooltip("row", "figure_x", "perplexity", "against", "on_front"),
            },
        },
        {
            "mark": {"type": "text", "align": "center", "baseline": "middle", "color": "@ink"},
            "encoding": {
                "x": x | {"field": "text_x"},
                "y": y | {"field": "text_y"},
                "text": {"field": "row"},
            },
        },
        {
            "data": {"values": named},
            "mark": front,
            "encoding": {"x": x | {"field": "text_x"}, "y": y | {"field": "text_y"}, "text": {"field": "row"}},
        },
    ]
    return {"data": {"values": labelled}, "width": frame.width, "height": frame.height, "layer": layers}


def _point(table: Table, row: Row, column: Column) -> _Point | None:
    at, perplexity = row.figure(column.metric), row.figure("perplexity")
    if not isinstance(at, Size | Latency) or not isinstance(perplexity, Estimate) or row.stand_in:
        return None
    ratio = perplexity.ratio
    if row is table.run_of(row).baseline:
        value, low, high, against = 1.0, 1.0, 1.0, "1: all ratios refer to it"
    elif ratio is not None and math.isfinite(ratio.high - ratio.low):
        value, low, high = ratio.value, ratio.low, ratio.high
        against = numbers.ratio_with_interval(ratio, COLUMN["perplexity"])
    else:
        return None
    x = (plain(at) or 0.0) / column.per_unit
    return row_datum(row) | {
        "x": x,
        "ratio": value,
        "low": low,
        "high": high,
        "figure_x": f"{numbers.significant(x)} {column.unit}",
        "perplexity": numbers.significant(perplexity.interval.value),
        "against": against,
    }


def _mark_fronts(points: Sequence[_Point]) -> list[list[_Point]]:
    """Mark the points that no other point of their run beats; return those of each run, from left to right."""
    fronts = []
    for run in dict.fromkeys(point["run"] for point in points):
        own = [point for point in points if point["run"] == run]
        best = pareto([(point["x"], point["ratio"]) for point in own])
        for index, point in enumerate(own):
            point |= {"front": index in best, "on_front": "yes" if index in best else "no"}
        fronts.append([own[index] for index in best])
    return fronts


def _frame(points: Sequence[_Point], width: int) -> _Frame:
    low, high = min(point["low"] for point in points), max(point["high"] for point in points)
    pad = max((high - low) * 0.12, 1e-4)
    return _Frame(
        x=_extent([point["x"] for point in points]),
        y=(low - pad, high + pad),
        width=width - _MARGIN[0],
        height=min(300, width) - _MARGIN[1] + 60 + 8 * max(0, len(points) - 8),
    )


def _extent(values: Sequence[float]) -> tuple[float, float]:
    """From 0 if that separates the values, otherwise from the least value: one slow row would squeeze the others."""
    least, most = min(values), max(values)
    return (least / 1.25, most * 1.25) if 0 < least * _DECADE < most else (0.0, most * 1.06)


def _axes(frame: _Frame, title: str, base: str) -> tuple[Spec, Spec]:
    x: Spec = {
        "type": "quantitative",
        "scale": {"domain": list(frame.x), "nice": False},
        "axis": {"title": title, "grid": False, "tickCount": 6},
    }
    if frame.logarithmic:
        x["scale"]["type"] = "log"
        x["axis"] |= {"title": f"{title}, logarithmic", "values": ticks(*frame.x), "format": "~g"}
    y = {
        "type": "quantitative",
        "scale": {"domain": list(frame.y), "nice": False, "zero": False},
        "axis": {"title": f"Perplexity, ratio to {base}", "tickCount": 6, "domain": False, "ticks": False},
    }
    return x, y


_Pixel = tuple[float, float]


def _labels(
    points: Sequence[_Point], fronts: Sequence[Sequence[_Point]], frame: _Frame, size: int
) -> tuple[list[_Point], list[_Point]]:
    """The points with the places of their labels, and the labels of the fronts, in data units."""
    lines = [[frame.pixel(point["x"], point["ratio"]) for point in front] for front in fronts]
    steps = [step for line in lines for step in _along(line)]
    wanted: list[tuple[str, _Pixel, _Pixel]] = [
        (
            point["row"],
            frame.pixel(point["x"], point["ratio"]),
            (frame.level(point["high"]), frame.level(point["low"])),
        )
        for point in points
    ]
    for line in (line for line in lines if len(line) > 1):
        middle = _middle(line)
        wanted.append((_FRONT, middle, (middle[1], middle[1])))
    places = place_labels(
        wanted,
        canvas=(frame.width, frame.height),
        font_size=size,
        obstacle_y=frame.level(1.0),
        obstacles=steps,
    )
    placed = [_in_data(place, frame.data) for place in places]
    labelled = [point | place for point, place in zip(points, placed, strict=False)]
    return labelled, [{"row": _FRONT} | place for place in placed[len(points) :]]


def _in_data(place: Place, data: Callable[[_Pixel], _Pixel]) -> _Point:
    """The position of a label, and the end of the line from the point to the label."""
    (text_x, text_y), (end_x, end_y) = data(place.centre), data(place.anchor)
    return {"text_x": text_x, "text_y": text_y, "end_x": end_x, "end_y": end_y, "leader": place.leader}


def _along(line: Sequence[_Pixel]) -> list[_Pixel]:
    """Points on a polyline, :data:`_STEP` apart."""
    return [
        (start[0] + (end[0] - start[0]) * part / count, start[1] + (end[1] - start[1]) * part / count)
        for start, end in pairwise(line)
        for count in [max(1, math.ceil(math.dist(start, end) / _STEP))]
        for part in range(1, count)
    ]


def _middle(line: Sequence[_Pixel]) -> _Pixel:
    """The middle of the longest segment of a polyline."""
    start, end = max(pairwise(line), key=lambda part: math.dist(*part))
    return (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
