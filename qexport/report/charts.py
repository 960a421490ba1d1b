"""The report's charts, each defined once as Vega-Lite and drawn twice: in the page by Vega, as PNG and SVG by vl-convert."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from qexport.report import words
from qexport.report.bars import bars
from qexport.report.beside import published_beside_measured
from qexport.report.palette import PICTURE, Spec, complete, themed
from qexport.report.strips import latency_per_sentence
from qexport.report.table import Table
from qexport.report.tradeoff import perplexity_against_memory, perplexity_against_speed

VEGA_LITE = "6.4"
PNG_SCALE = 2.0
PICTURE_WIDTH = 860


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart's name (and file name), its words, and the function that draws it: None where there is too little."""

    name: str
    title: str
    caption: str
    spec: Callable[[Table, int], Spec | None]


_FRONT = (
    "Lower and further left is better. The Pareto front joins the rows that no other row of the run beats on both axes; "
    "their marks are large. Whiskers are 95 % intervals of the paired ratio: one that crosses the dashed line is no "
    "measurable difference. Hollow marks quantize a part of the model only."
)
_BARS = "Hollow bars quantize a part of the model only. A diamond is the published figure, on the machine it was published for."

CHARTS = (
    Chart(
        name="perplexity",
        title="Perplexity against memory",
        caption=_FRONT,
        spec=perplexity_against_memory,
    ),
    Chart(
        name="perplexity-speed",
        title="Perplexity against speed",
        caption=_FRONT,
        spec=perplexity_against_speed,
    ),
    Chart(
        name="published",
        title="Measured and published",
        caption=(
            "Ratios to the same row, because machines differ: filled marks are measured here, hollow diamonds published. "
            "A short line between the two is agreement."
        ),
        spec=published_beside_measured,
    ),
    Chart(
        name="memory",
        title="Memory",
        caption=(
            "Kinds of memory, each on a scale of its own. Peak memory is of the whole process, "
            f"interpreter and libraries included. {_BARS}"
        ),
        spec=partial(bars, group="memory"),
    ),
    Chart(
        name="speed",
        title="Speed",
        caption=(
            "Each metric on a scale of its own. Bars are p50 with a tick at p95, or the median over rounds with a line from "
            f"the fastest round to the slowest. {_BARS}"
        ),
        spec=partial(bars, group="speed"),
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
        name="quality",
        title="Quality",
        caption=f"Lines are 95 % intervals of each figure alone; the paired ratio tells rows apart. {_BARS}",
        spec=partial(bars, group="quality"),
    ),
    Chart(
        name="tasks",
        title="Tasks",
        caption=(
            "The part of each task's questions answered rightly. Lines are 95 % intervals of each figure alone; the paired "
            f"ratio and p tell rows apart. {_BARS}"
        ),
        spec=partial(bars, group="tasks"),
    ),
    Chart(
        name="session",
        title="A whole session",
        caption=(
            "Load, answer one prompt, free, in a fresh process. Bars are medians over rounds, lines reach from the least "
            f"to the most. {_BARS}"
        ),
        spec=partial(bars, group="session"),
    ),
)


def svg(chart: Chart, table: Table) -> str | None:
    """The chart as SVG with its title, on white, so legible on a page of any colour; None where there is too little."""
    import vl_convert

    spec = chart.spec(table, PICTURE_WIDTH)
    if spec is None:
        return None
    title = {"text": chart.title, "subtitle": words.listed(table.models), "offset": 12, "frame": "bounds"}
    whole = themed(complete({**spec, "title": title}, PICTURE_WIDTH), PICTURE) | {"padding": 24}
    return _renumbered(vl_convert.vegalite_to_svg(whole, vl_version=VEGA_LITE))


def _renumbered(drawn: str) -> str:
    """SVG whose clip paths count from 1: Vega goes on counting from one chart to the next."""
    names: dict[str, str] = {}
    return re.sub(r"\bclip\d+\b", lambda match: names.setdefault(match[0], f"clip{len(names) + 1}"), drawn)


def png(drawn: str) -> bytes:
    """A chart drawn by :func:`svg` as PNG at twice its size."""
    import vl_convert

    data: bytes = vl_convert.svg_to_png(drawn, scale=PNG_SCALE)
    return data
