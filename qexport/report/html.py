"""The report as one self-contained page: table, charts to explore, definitions; it asks nothing of any network.

A content security policy in the page forbids every request, so that self-containment is enforced and not only intended.
Vega's expressions are interpreted (``ast``), which needs no ``eval``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from importlib import resources

from qexport.report import words
from qexport.report.charts import VEGA_LITE, Chart
from qexport.report.palette import DARK, LIGHT, complete, hues
from qexport.report.table import (
    Cell,
    Column,
    Estimate,
    Latency,
    NotMeasured,
    Row,
    Size,
    Skipped,
    Table,
    gaps,
)
from qexport.stats import Interval

LAYOUT_WIDTHS = (330, 660, 1100)
"""Widths, in pixels, that charts are laid out for; the page takes the widest that fits."""
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page(table: Table, *, title: str, charts: Sequence[Chart]) -> str:
    """The whole of ``report.html``.

    Args:
        table: see :func:`qexport.report.table.build_table`.
        title: of the report.
        charts: those to show.
    """
    body = "\n".join(
        (
            _header(table, title),
            _section("table", "Results", _grid(table) + _missing(table)),
            *(_figure(chart) for chart in charts),
            _section("conditions", "Conditions", _pairs(words.conditions(table))),
            _section("settings", "How each row was made", _pairs(words.settings(table))),
            _section("definitions", "How the figures are defined", _pairs(words.DEFINITIONS)),
            "<footer>All samples are in <code>records.jsonl</code> beside this page.</footer>",
        )
    )
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n<main>",
            body,
            "</main>",
            _scripts(table, charts),
            "</body>\n</html>\n",
        )
    )


def _asset(name: str) -> str:
    return resources.files("qexport.report").joinpath(name).read_text(encoding="utf-8")


def _section(name: str, heading: str, content: str) -> str:
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(heading)}</h2>\n{content}\n</section>'


def _header(table: Table, title: str) -> str:
    tiles = "".join(
        f'<li><p class="question">{escape(highlight.question)}</p>'
        f'<p class="answer">{"<br>".join(map(escape, highlight.rows))}</p>'
        f'<p class="figure">{escape(highlight.figure)}</p><p class="detail">{escape(highlight.detail)}</p></li>'
        for highlight in words.highlights(table)
    )
    answers = f'\n<ul class="highlights">{tiles}</ul>' if tiles else ""
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{escape(words.coverage(table))}</p>\n'
        f'<p class="machine">{escape(words.machine(table))}</p>{answers}\n</header>'
    )


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)
    return f"<dl>{items}</dl>"


def _missing(table: Table) -> str:
    missing = gaps(table)
    if not missing:
        return ""
    items = "".join(f"<li>{escape(words.gap_sentence(gap, table))}</li>" for gap in missing)
    return f'\n<h3>Not measured</h3>\n<ul class="missing">{items}</ul>'


def _grid(table: Table) -> str:
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(column.title)}'
        f"{f' <small>{column.unit}</small>' if column.unit else ''}</button></th>"
        for column in table.columns
    )
    colours = hues(table.rows)
    scales = {column.metric: _Extent(table, column) for column in table.columns}
    rows = "\n".join(_row(row, table, scales, colours[row.label]) for row in table.rows)
    return (
        '<div class="scroll"><table>\n<thead><tr><th scope="col"><span class="hidden">Row</span></th>'
        f"{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


class _Extent:
    """What the graphics inside the cells of one column have in common: bars from 0, whiskers around 1."""

    def __init__(self, table: Table, column: Column) -> None:
        figures = [row.figure(column.metric) for row in table.rows]
        self.most = max((value for figure in figures if (value := _plain(figure)) is not None), default=0.0)
        ratios = [f.ratio for f in figures if isinstance(f, Estimate) and f.ratio is not None and _finite(f.ratio)]
        low, high = min([1.0, *(r.low for r in ratios)]), max([1.0, *(r.high for r in ratios)])
        pad = max((high - low) * 0.06, 1e-6)
        self.low, self.high = low - pad, high + pad

    def part(self, ratio: float) -> str:
        """Where a ratio lies between the ends, in percent."""
        return f"{(ratio - self.low) / (self.high - self.low) * 100:.2f}%"


def _finite(ratio: Interval) -> bool:
    return math.isfinite(ratio.high - ratio.low)


def _plain(figure: object) -> float | None:
    """The figure that bars show and columns are sorted by."""
    match figure:
        case Size(value=value):
            return value
        case Latency(p50=p50):
            return p50
        case Estimate(interval=interval) if math.isfinite(interval.value):
            return interval.value
        case _:
            return None


def _row(row: Row, table: Table, extents: dict[str, _Extent], colour: str) -> str:
    hue = f"var(--{colour[1:]})" if colour.startswith("@") else colour
    kind = "whole" if row.whole else "part"
    cells = "".join(_cell(column, row.cells[column.metric], extents[column.metric]) for column in table.columns)
    return (
        f'<tr class="{kind}" style="--hue:{hue}"><th scope="row"><span class="dot"></span>{escape(row.label)}</th>'
        f"{cells}</tr>"
    )


def _cell(column: Column, cell: Cell, extent: _Extent) -> str:
    beside = ""
    if cell.published is not None:
        text = f"published {words.published(cell.published, column)}"
        beside = f'<span class="published" title="{escape(cell.published.source)}">{escape(text)}</span>'
    value = _plain(cell.figure)
    order = "" if value is None else f' data-order="{value!r}"'
    unit = f", {column.unit}" if column.unit else ""
    return f'<td data-label="{escape(column.title + unit)}"{order}>{_content(column, cell, extent)}{beside}</td>'


def _content(column: Column, cell: Cell, extent: _Extent) -> str:
    match cell.figure:
        case Size(value=value, ratio=ratio):
            text = "" if ratio is None else f"{words.ratio_value(ratio, words.ratio_digits(column))}×"
            return _value(words.significant(value / column.per_unit)) + _bar(value, extent) + _note(text)
        case Latency(p50=p50, p95=p95, ratio=ratio):
            tail = f"p95 {words.significant(p95 / column.per_unit)}"
            return (
                _value(words.significant(p50 / column.per_unit), tail)
                + _bar(p50, extent)
                + (_note(words.ratio_with_interval(ratio, column)) + _verdict(ratio) if ratio else "")
            )
        case Estimate(interval=interval, ratio=ratio):
            spread = f"{words.significant(interval.low)} to {words.significant(interval.high)}"
            drawn = ""
            if ratio is not None:
                drawn = _whisker(ratio, extent) + _note(words.ratio_with_interval(ratio, column)) + _verdict(ratio)
            return _value(words.significant(interval.value), spread) + drawn
        case Skipped(reason=reason):
            return f'<span class="absent" title="{escape(reason)}">{words.SKIPPED}</span>'
        case NotMeasured():
            return f'<span class="absent">{words.NOT_MEASURED}</span>'


def _value(text: str, spread: str = "") -> str:
    beside = f" <small>{spread}</small>" if spread else ""
    return f'<span class="value">{text}{beside}</span>'


def _note(text: str) -> str:
    return f'<span class="note">{text}</span>' if text else ""


def _verdict(ratio: Interval) -> str:
    return '<span class="note">no measurable difference</span>' if words.no_difference(ratio) else ""


def _bar(value: float, extent: _Extent) -> str:
    return f'<span class="bar"><i style="width:{value / extent.most * 100:.2f}%"></i></span>' if extent.most else ""


def _whisker(ratio: Interval, extent: _Extent) -> str:
    if not _finite(ratio):
        return ""
    left, right, at = extent.part(ratio.low), extent.part(ratio.high), extent.part(ratio.value)
    return (
        f'<span class="whisker"><b style="left:{extent.part(1.0)}"></b>'
        f'<i style="left:{left};width:calc({right} - {left})"></i><u style="left:{at}"></u></span>'
    )


def _figure(chart: Chart) -> str:
    return (
        f'<figure aria-labelledby="{chart.name}">\n<h2 id="{chart.name}">{escape(chart.title)}</h2>\n'
        f'<div class="chart" data-chart="{chart.name}"></div>\n'
        f"<noscript><p>The chart is drawn by a script; {chart.name}.png beside this page is the same.</p></noscript>\n"
        f"<figcaption>{escape(chart.caption)}</figcaption>\n</figure>"
    )


def _scripts(table: Table, charts: Sequence[Chart]) -> str:
    """Specs and themes as data, one copy of Vega for all charts, and the few lines that draw and sort."""
    import vl_convert

    layouts: dict[str, list[dict[str, object]]] = {}
    datasets: dict[str, object] = {}
    for chart in charts:
        for width in LAYOUT_WIDTHS:
            spec = chart.spec(table, width)
            if spec is not None:
                datasets |= {chart.name: spec.pop("datasets", {})}  # the same at every width, so kept once
                layouts.setdefault(chart.name, []).append({"width": width, "spec": complete(spec, width)})
    themes = {"light": asdict(LIGHT), "dark": asdict(DARK)}
    parts = {"layouts": layouts, "datasets": datasets, "themes": themes}
    data = json.dumps(parts, separators=(",", ":")).replace("<", r"\u003c")
    vega = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE).replace(
        "</script", r"<\/script"
    )
    return (
        f'<script type="application/json" id="charts">{data}</script>\n'
        f"<script>{vega}</script>\n"
        f"<script>\n{_asset('page.js')}</script>"
    )
