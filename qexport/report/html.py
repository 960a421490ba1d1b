"""The report as one self-contained page: table, charts to explore, definitions. The page makes no network request.

A content security policy in the page forbids every request, so that the browser enforces this.
Vega's expressions are interpreted (``ast``), which needs no ``eval``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from importlib import resources

from qexport.core import Interval, McNemar
from qexport.report import facts, numbers, words
from qexport.report.charts import VEGA_LITE, Chart
from qexport.report.figures import (
    Accuracy,
    Answer,
    Count,
    Estimate,
    Latency,
    NotMeasured,
    Repeated,
    Size,
    Skipped,
    plain,
)
from qexport.report.palette import DARK, LIGHT, complete, hues
from qexport.report.table import Cell, Column, Row, Table, gaps

LAYOUT_WIDTHS = (330, 660, 1100)
"""The widths in pixels that charts are laid out for; the page takes the widest that fits."""
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page(table: Table, *, title: str, charts: Sequence[Chart]) -> str:
    """The text of ``report.html``.

    Args:
        table: see :func:`qexport.report.table.build_table`.
        title: the title of the report.
        charts: the charts to show.
    """
    body = "\n".join(
        (
            _header(table, title),
            *_runs(table),
            _section("table", "Results", _filter(table) + _grids(table) + _below(table)),
            *(_figure(chart) for chart in charts),
            *(_section(name, heading, _pairs(pairs)) for name, heading, pairs in _further(table) if pairs),
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


def _further(table: Table) -> Iterable[tuple[str, str, Sequence[tuple[str, str]]]]:
    """The sections after figures and charts: name, heading and pairs of each."""
    yield "answers", "Answers", facts.answers(table)
    yield "said", "Warnings given in sessions", facts.said(table)
    yield "conditions", "Conditions", facts.conditions(table)
    yield "settings", "How each row was made", facts.settings(table)
    yield "definitions", "How the figures are defined", words.definitions(table)


def _header(table: Table, title: str) -> str:
    tiles = "".join(
        f'<li><p class="question">{escape(highlight.question)}</p>'
        f'<p class="answer">{"<br>".join(map(escape, highlight.rows))}</p>'
        f'<p class="figure">{escape(highlight.figure)}</p><p class="detail">{escape(highlight.detail)}</p></li>'
        for highlight in words.highlights(table)
    )
    answers = f'\n<ul class="highlights">{tiles}</ul>' if tiles else ""
    notices = "".join(f'<p class="notice">{escape(line)}</p>\n' for line in facts.stand_ins(table))
    machine = "" if len(table.runs) > 1 else f'\n<p class="machine">{escape(facts.machine(table))}</p>'
    return (
        f"<header>\n<h1>{escape(title)}</h1>\n{notices}"
        f'<p class="lead">{escape(facts.coverage(table))}</p>{machine}{answers}\n</header>'
    )


def _runs(table: Table) -> Iterable[str]:
    if len(table.runs) > 1:
        differences = f'\n<p class="machine">{escape(facts.differences(table))}</p>'
        yield _section("runs", "Runs", _pairs(facts.runs(table)) + differences)


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)
    return f"<dl>{items}</dl>"


def _below(table: Table) -> str:
    return _task_notes(table) + _warnings(table) + _missing(table)


def _task_notes(table: Table) -> str:
    lines = facts.task_notes(table)
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'\n<h3>How tasks were scored</h3>\n<ul class="missing">{items}</ul>'


def _warnings(table: Table) -> str:
    on_times = words.on_times(table)
    if not on_times:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in words.warnings(table))
    rows = f'\n<ul class="missing">{items}</ul>' if items else ""
    return f'\n<h3 id="warnings">Warnings</h3>\n<p class="machine">{escape(on_times)}</p>{rows}'


def _missing(table: Table) -> str:
    missing = gaps(table)
    if not missing:
        return ""
    items = "".join(f"<li>{escape(facts.gap_sentence(gap, table))}</li>" for gap in missing)
    return f'\n<h3>Not measured</h3>\n<ul class="missing">{items}</ul>'


def _filter(table: Table) -> str:
    """Controls that a script shows; without the script they stay hidden and all rows are visible."""
    kinds = (("whole", "whole model"), ("part", "part of it"))
    groups = (
        ("family", [(family, family) for family in dict.fromkeys(row.family for row in table.rows)]),
        ("kind", [kind for kind in kinds if any(_kind(row) == kind[0] for row in table.rows)]),
        ("run", [(run.mark, f"run {run.mark}") for run in table.runs]),
    )
    chips = "".join(
        f'<span role="group" aria-label="{key}">'
        + "".join(
            f'<button type="button" aria-pressed="false" data-key="{key}" data-value="{escape(value)}">{escape(text)}</button>'
            for value, text in choices
        )
        + "</span>"
        for key, choices in groups
        if len(choices) > 1
    )
    total = len(table.rows)
    return (
        '<div class="filter" role="search" aria-label="Rows" hidden>'
        f'<label><span class="hidden">Rows whose name contains</span><input type="search" placeholder="Filter rows"></label>'
        f'{chips}<output aria-live="polite">{total} of {total} rows</output></div>\n'
    )


def _kind(row: Row) -> str:
    return "whole" if row.whole else "part"


def _grids(table: Table) -> str:
    return "\n".join(
        f'<h3 id="table-{group}">{group.capitalize()}</h3>\n{_grid(table, columns, f"table-{group}")}'
        for group, columns in table.groups
    )


def _grid(table: Table, columns: Sequence[Column], label: str) -> str:
    heads = "".join(
        f'<th scope="col" aria-sort="none"{_FALLING if column.higher_is_better else ""}>'
        f'<button type="button">{escape(column.title)}'
        f"{f' <small>{column.unit}</small>' if column.unit else ''}</button></th>"
        for column in columns
    )
    colours = hues(table.rows)
    extents = {column.metric: _Extent(table, column) for column in columns}
    rows = "\n".join(_row(number, row, columns, extents, colours[row.label]) for number, row in enumerate(table.rows))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{label}"><table>\n<thead><tr>'
        f'<th scope="col" aria-sort="ascending"><button type="button">Row</button></th>'
        f"{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


_FALLING = ' data-first="descending"'
"""Marks columns with "more is better": the first click sorts the largest to the top."""


class _Extent:
    """The common scale of the graphics in one column's cells: bars from 0, whiskers around 1."""

    def __init__(self, table: Table, column: Column) -> None:
        figures = [row.figure(column.metric) for row in table.rows]
        self.most = max((v for figure in figures if (v := plain(figure)) is not None and math.isfinite(v)), default=0.0)
        ratios = [
            f.ratio for f in figures if isinstance(f, Estimate | Accuracy) and f.ratio is not None and _finite(f.ratio)
        ]
        low, high = min([1.0, *(r.low for r in ratios)]), max([1.0, *(r.high for r in ratios)])
        pad = max((high - low) * 0.06, 1e-6)
        self.low, self.high = low - pad, high + pad

    def part(self, ratio: float) -> str:
        """The position of a ratio between the ends, in percent."""
        return f"{(ratio - self.low) / (self.high - self.low) * 100:.2f}%"


def _finite(ratio: Interval) -> bool:
    return math.isfinite(ratio.high - ratio.low)


def _row(number: int, row: Row, columns: Sequence[Column], extents: dict[str, _Extent], colour: str) -> str:
    hue = f"var(--{colour[1:]})" if colour.startswith("@") else colour
    cells = "".join(_cell(column, row.cells[column.metric], extents[column.metric]) for column in columns)
    found = f'data-family="{row.family}" data-kind="{_kind(row)}" data-run="{row.run}" data-name="{escape(row.label)}"'
    return (
        f'<tr class="{_kind(row)}" style="--hue:{hue}" data-row="{number}" {found}>'
        f'<th scope="row" data-order="{number}"><span class="dot"></span>{escape(row.label)}</th>{cells}</tr>'
    )


def _cell(column: Column, cell: Cell, extent: _Extent) -> str:
    beside = ""
    if cell.published is not None:
        text = f"published {numbers.published(cell.published, column)}"
        beside = f'<span class="published" title="{escape(cell.published.source)}">{escape(text)}</span>'
    unstable = words.unstable_note(cell.figure)
    if unstable:
        beside = f'<span class="note unstable">{escape(unstable)}</span>{beside}'
    value = plain(cell.figure)
    order = "" if value is None or not math.isfinite(value) else f' data-order="{value!r}"'
    return f'<td data-label="{escape(column.heading)}"{order}>{_content(column, cell, extent)}{beside}</td>'


def _content(column: Column, cell: Cell, extent: _Extent) -> str:
    content = f'<span class="absent">{words.NOT_MEASURED}</span>'
    match cell.figure:
        case Size(value=value, ratio=ratio):
            text = "" if ratio is None else f"{numbers.ratio_value(ratio, numbers.ratio_digits(column))}×"
            content = _value(numbers.significant(value / column.per_unit)) + _bar(value, extent) + _note(text)
        case Latency(p50=p50, p95=p95, ratio=ratio):
            tail = f"p95 {numbers.significant(p95 / column.per_unit)}"
            content = (
                _value(numbers.significant(p50 / column.per_unit), tail) + _bar(p50, extent) + _against(ratio, column)
            )
        case Repeated(value=value, low=low, high=high, rounds=rounds, ratio=ratio):
            spread = " to ".join(numbers.significant(part / column.per_unit) for part in (low, high))
            shown = _value(numbers.significant(value / column.per_unit), spread if rounds > 1 else "")
            content = shown + _bar(value, extent) + _against(ratio, column)
        case Count(value=value):
            content = _value(numbers.exactly(value)) + _bar(value, extent)
        case Answer() as answer:
            content = f'<span class="value" title="{escape(answer.response)}">{facts.rightly(answer)}</span>'
        case Estimate(interval=interval, ratio=ratio):
            spread = f"{numbers.significant(interval.low)} to {numbers.significant(interval.high)}"
            drawn = _whisker(ratio, extent) if ratio is not None else ""
            content = _value(numbers.significant(interval.value), spread) + drawn + _against(ratio, column)
        case Accuracy(interval=interval, ratio=ratio, mcnemar=mcnemar):
            spread = f"{numbers.accuracy(interval.low)} to {numbers.accuracy(interval.high)}"
            drawn = _whisker(ratio, extent) if ratio is not None else ""
            shown = _value(numbers.accuracy(interval.value), spread)
            content = shown + drawn + _against(ratio, column) + _test(mcnemar)
        case Skipped(reason=reason):
            content = f'<span class="absent" title="{escape(reason)}">{words.SKIPPED}</span>'
        case NotMeasured():
            pass
    return content


def _against(ratio: Interval | None, column: Column) -> str:
    return "" if ratio is None else _note(numbers.ratio_with_interval(ratio, column)) + _verdict(ratio)


def _value(text: str, spread: str = "") -> str:
    beside = f" <small>{spread}</small>" if spread else ""
    return f'<span class="value">{text}{beside}</span>'


def _note(text: str) -> str:
    return f'<span class="note">{text}</span>' if text else ""


def _verdict(ratio: Interval) -> str:
    return '<span class="note">no measurable difference</span>' if numbers.no_difference(ratio) else ""


def _test(mcnemar: McNemar | None) -> str:
    return "" if mcnemar is None else _note(escape(numbers.changed(mcnemar)))


def _bar(value: float, extent: _Extent) -> str:
    if extent.most <= 0 or not math.isfinite(value):
        return ""
    return f'<span class="bar"><i style="width:{max(0.0, value) / extent.most * 100:.2f}%"></i></span>'


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
    """Specs and themes as data, one copy of Vega for all charts, and a short script that draws, sorts and filters."""
    layouts: dict[str, list[dict[str, object]]] = {}
    datasets: dict[str, object] = {}
    for chart in charts:
        for width in LAYOUT_WIDTHS:
            spec = chart.spec(table, width)
            if spec is not None:
                datasets |= {chart.name: spec.pop("datasets", {})}  # equal at every width, so kept once
                layouts.setdefault(chart.name, []).append({"width": width, "spec": complete(spec, width)})
    themes = {"light": asdict(LIGHT), "dark": asdict(DARK)}
    parts = {"layouts": layouts, "datasets": datasets, "themes": themes}
    data = json.dumps(parts, separators=(",", ":")).replace("<", r"\u003c")
    return (
        f'<script type="application/json" id="charts">{data}</script>\n'
        f"<script>{_vega()}</script>\n"
        f"<script>\n{_asset('page.js')}</script>"
    )


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return bundle.replace("</script", r"<\/script")
