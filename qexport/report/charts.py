"""The report's charts. Each has one Vega-Lite definition: Vega draws it in the page, vl-convert as PNG and SVG."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from qexport.report import numbers
from qexport.report.bars import bars
from qexport.report.palette import PICTURE, Spec, complete, themed
from qexport.report.published import published_beside_measured
from qexport.report.strips import latency_per_sentence
from qexport.report.table import Table
from qexport.report.tradeoff import perplexity_against_memory, perplexity_against_speed

VEGA_LITE = "6.4"
PNG_SCALE = 2.0
PICTURE_WIDTH = 860


@dataclass(frozen=True)
class Chart:
    """A chart: name (and file name), texts, and the function that draws it or returns None if data are lacking."""

    name: str
    title: str
    spec: Callable[[Table, int], Spec | None]
    caption: str


_FRONT = (
    "Lower and further left is better. The Pareto front joins the rows that no other row of the run beats on both axes; "
    "their marks are large. Whiskers are 95 % intervals of the paired ratio: one that crosses the dashed line is no "
    "measurable difference. Hollow marks quantize a part of the model only."
)
_BARS = "Hollow bars quantize a part of the model only. A diamond is the published figure, on the machine it was published for."

_PUBLISHED = (
    "Ratios to the same row, because machines differ: filled marks are measured here, hollow diamonds published. "
    "A short line between the two is agreement."
)
_MEMORY = (
    "Kinds of memory, each on a scale of its own. Peak memory is of the whole process, "
    f"interpreter and libraries included. {_BARS}"
)
_SPEED = (
    "Each metric on a scale of its own. Bars are p50 with a tick at p95, or the median over rounds with a line from "
    f"the fastest round to the slowest. {_BARS}"
)
_LATENCY = (
    "Each dot is one sentence in one round (at most 300 a row are drawn, records.jsonl has all). The thick "
    "mark is p50, also in figures at the right; the thin mark is p95."
)
_QUALITY = f"Lines are 95 % intervals of each figure alone; the paired ratio tells rows apart. {_BARS}"
_TASKS = (
    "The part of each task's questions answered rightly. Lines are 95 % intervals of each figure alone; the paired "
    f"ratio and p tell rows apart. {_BARS}"
)
_SESSION = (
    "Load, answer one prompt, free, in a fresh process. Bars are medians over rounds, lines reach from the least "
    f"to the most. {_BARS}"
)

CHARTS = (
    Chart("perplexity", "Perplexity against memory", perplexity_against_memory, _FRONT),
    Chart("perplexity-speed", "Perplexity against speed", perplexity_against_speed, _FRONT),
    Chart("published", "Measured and published", published_beside_measured, _PUBLISHED),
    Chart("memory", "Memory", partial(bars, group="memory"), _MEMORY),
    Chart("speed", "Speed", partial(bars, group="speed"), _SPEED),
    Chart("latency", "Latency per sentence", latency_per_sentence, _LATENCY),
    Chart("quality", "Quality", partial(bars, group="quality"), _QUALITY),
    Chart("tasks", "Tasks", partial(bars, group="tasks"), _TASKS),
    Chart("session", "A whole session", partial(bars, group="session"), _SESSION),
)


def svg(chart: Chart, table: Table) -> str | None:
    """The chart as SVG with its title, on white, so that it is legible on any page; None if it has too little data."""
    import vl_convert

    spec = chart.spec(table, PICTURE_WIDTH)
    if spec is None:
        return None
    title = {"text": chart.title, "subtitle": numbers.listed(table.models), "offset": 12, "frame": "bounds"}
    whole = themed(complete({**spec, "title": title}, PICTURE_WIDTH), PICTURE) | {"padding": 24}
    return _renumbered(vl_convert.vegalite_to_svg(whole, vl_version=VEGA_LITE))


def _renumbered(drawn: str) -> str:
    """SVG whose clip paths count from 1: Vega continues its count from one chart to the next."""
    names: dict[str, str] = {}
    return re.sub(r"\bclip\d+\b", lambda match: names.setdefault(match[0], f"clip{len(names) + 1}"), drawn)


def png(drawn: str) -> bytes:
    """A chart from :func:`svg`, as PNG at twice its size."""
    import vl_convert

    data: bytes = vl_convert.svg_to_png(drawn, scale=PNG_SCALE)
    return data
