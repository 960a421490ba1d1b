"""The common style of all charts: neutral colours by theme, hues by recipe, axes, tooltips, type sizes.

Colours that depend on the background are placeholders (``@ink``). A :class:`Theme` fills them in; in the page the
browser does this. Hues are those of Okabe and Ito (2008), distinguishable with any colour vision. Selections of part
of the model are hollow, runs have shapes, and every mark carries its row's name or stands next to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from qexport.quantization import RECIPES, Colour
from qexport.report.table import Row, Table

Item = TypeVar("Item")
Spec = dict[str, Any]
"""A Vega-Lite specification, or a part of one."""

NARROW = 500
"""The greatest width in pixels of the layout for a telephone."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours that depend on the background, and the font."""

    blue: str
    ink: str
    muted: str
    grid: str
    surface: str
    font: str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


BLUE, SKY, GREEN, VERMILLION, ORANGE, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7"
BROWN = "#8C6239"

LIGHT = Theme(blue=BLUE, ink="#1d2126", muted="#646b75", grid="#e6e8eb", surface="#ffffff")
DARK = Theme(blue=SKY, ink="#e8eaed", muted="#9aa1ab", grid="#2c3138", surface="#15181c")
PICTURE = replace(LIGHT, font="Helvetica, Arial, sans-serif")

HUES: Mapping[Colour, str] = {
    "muted": "@muted",
    "ink": "@ink",
    "blue": "@blue",
    "green": GREEN,
    "sky": SKY,
    "orange": ORANGE,
    "purple": PURPLE,
    "brown": BROWN,
    "vermillion": VERMILLION,
}
FURTHER_HUES = (ORANGE, PURPLE)
SHAPES = ("circle", "square", "triangle-up", "cross", "triangle-down", "diamond")
"""The marks of runs, in order."""


def hues(rows: Sequence[Row]) -> dict[str, str]:
    """The colour of each row, by its recipe."""
    unknown = dict.fromkeys(row.recipe for row in rows if row.recipe not in RECIPES)
    further = {recipe: FURTHER_HUES[index % len(FURTHER_HUES)] for index, recipe in enumerate(unknown)}
    return {row.label: further.get(row.recipe) or HUES[RECIPES[row.recipe].colour] for row in rows}


def row_datum(row: Row) -> dict[str, Any]:
    """A row's data: its name, the fill of its marks, and the mark of its run."""
    return {"row": row.label, "whole": row.whole, "run": row.run}


def hue_scale(table: Table) -> Spec:
    """The colour channel: maps rows to their hues."""
    colours = hues(table.rows)
    scale = {"domain": list(colours), "range": list(colours.values())}
    return {"field": "row", "type": "nominal", "legend": None, "scale": scale}


def shape_scale(table: Table) -> Spec:
    """The shape channel: maps runs to their marks."""
    scale = {
        "domain": [run.mark for run in table.runs],
        "range": [SHAPES[i % len(SHAPES)] for i in range(len(table.runs))],
    }
    return {"field": "run", "type": "nominal", "legend": None, "scale": scale}


def row_axis(labels: Sequence[str]) -> Spec:
    """The vertical channel of charts with one line for each row, in the table's order."""
    axis = {"title": None, "ticks": False, "domain": False, "labelLimit": 0, "labelPadding": 10, "labelColor": "@ink"}
    return {"field": "row", "type": "nominal", "sort": list(labels), "axis": axis}


def ticks(low: float, high: float) -> list[float]:
    """Tick positions of a logarithmic axis: 1, 2, 5, 10 and so on."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for step in (1, 2, 5) if low <= (tick := step * 10.0**power) <= high]


def font_size(width: int) -> int:
    return 12 if width > NARROW else 11


def gutter_width(labels: Sequence[str], width: int) -> int:
    """Pixels to the left of the plot for row names."""
    return round(max(map(len, labels)) * font_size(width) * 0.52) + 18


def wrapped(items: Sequence[Item], abreast: int, panel: Callable[[Item, bool], Spec], *, spacing: int) -> list[Spec]:
    """Lines of at most ``abreast`` panels. ``panel`` gets each item, and True if it begins a line and shows row names."""
    lines = [items[start : start + abreast] for start in range(0, len(items), abreast)]
    return [
        {"hconcat": [panel(item, number == 0) for number, item in enumerate(line)], "spacing": spacing}
        for line in lines
    ]


_TOOLTIP_TITLES = {
    "row": "Row",
    "figure_x": "Memory or time",
    "on_front": "On the Pareto front",
    "perplexity": "Perplexity",
    "against": "Ratio",
    "spread": "Spread",
    "told": "Published",
    "measured_ratio": "Measured, ratio",
    "published_ratio": "Published, ratio",
    "ms": "Milliseconds",
    "tokens": "Tokens",
    "round": "Round",
    "median": "p50",
    "tail": "p95",
    "size": "Measured",
}


def tooltip(*fields: str) -> list[Spec]:
    return [{"field": field, "title": _TOOLTIP_TITLES[field], "type": "nominal"} for field in fields]


def complete(spec: Spec, width: int) -> Spec:
    """A spec with the common configuration of all charts; its theme colours are still placeholders."""
    size = font_size(width)
    axis = {
        "labelFontSize": size,
        "titleFontSize": size,
        "titleFontWeight": "normal",
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
        "text": {"fontSize": size},
        "title": {"color": "@ink", "subtitleColor": "@muted", "fontWeight": 600, "anchor": "start", "fontSize": 15},
    }
    return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", **spec, "config": config}


_DATA = frozenset({"values", "domain", "sort", "title", "text"})
"""Keys whose values are names of rows, which may look like a placeholder."""


def themed(spec: Spec, theme: Theme) -> Spec:
    """The spec with its placeholders filled in."""
    colours = {f"@{name}": value for name, value in asdict(theme).items()}

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                key: each if key in _DATA and not isinstance(each, dict) else filled(each) for key, each in part.items()
            }
        if isinstance(part, list):
            return [filled(each) for each in part]
        return colours.get(part, part) if isinstance(part, str) else part

    complete_spec: Spec = filled(spec)
    return complete_spec
