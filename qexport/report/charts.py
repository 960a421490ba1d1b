"""The report's charts, each defined once as Vega-Lite and drawn twice: in the page by Vega, as PNG by vl-convert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qexport.report.bars import memory
from qexport.report.palette import PNG, Spec, complete, themed
from qexport.report.strips import latency_per_sentence
from qexport.report.table import Table
from qexport.report.tradeoff import perplexity_against_memory

VEGA_LITE = "6.4"
PNG_SCALE = 2.0
PNG_WIDTH = 860


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


def png(chart: Chart, table: Table) -> bytes | None:
    """The chart as PNG at twice its size, on white, with its title; None where there is too little to draw."""
    import vl_convert

    spec = chart.spec(table, PNG_WIDTH)
    if spec is None:
        return None
    title = {"text": chart.title, "subtitle": table.model, "offset": 12, "frame": "bounds"}
    whole = themed(complete({**spec, "title": title}, PNG_WIDTH), PNG) | {"padding": 24}
    data: bytes = vl_convert.vegalite_to_png(whole, vl_version=VEGA_LITE, scale=PNG_SCALE)
    return data
