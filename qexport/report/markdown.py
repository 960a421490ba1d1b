"""The report as Markdown, with the charts beside it as PNG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from qexport.report import words
from qexport.report.charts import Chart
from qexport.report.table import Cell, Column, Estimate, Latency, NotMeasured, Size, Skipped, Table, gaps


def markdown(table: Table, *, title: str, charts: Sequence[Chart]) -> str:
    """The whole of ``report.md``.

    Args:
        table: see :func:`qexport.report.table.build_table`.
        title: of the report.
        charts: those that were drawn, as ``<name>.png`` beside the file.
    """
    sections = [f"# {_text(title)}", _text(words.paragraph(table)), _grid(table)]
    missing = gaps(table)
    if missing:
        sections += ["## Not measured", _list(_text(words.gap_sentence(gap, table)) for gap in missing)]
    for chart in charts:
        sections += [f"## {chart.title}", f"![{chart.title}]({chart.name}.png)", chart.caption]
    sections += [
        "## Conditions",
        _list(f"**{name}**: {_text(value)}" for name, value in words.conditions(table)),
        "## How each row was made",
        _list(f"**{_text(row)}**: {_text(text)}" for row, text in words.settings(table)),
        "## How the figures are defined",
        _list(f"**{name}**: {value}" for name, value in words.DEFINITIONS),
        "All samples: [records.jsonl](records.jsonl). The same report with charts to explore: [report.html](report.html).",
    ]
    return "\n\n".join(sections) + "\n"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _text(text: str) -> str:
    """Text in which Markdown and HTML see no markup, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split()))


def _grid(table: Table) -> str:
    head = ["", *(f"{column.title}{f', {column.unit}' if column.unit else ''}" for column in table.columns)]
    lines = [head, ["---", *("---:" for _ in table.columns)]]
    lines += [
        [f"**{_text(row.label)}**", *(_cell(column, row.cells[column.metric]) for column in table.columns)]
        for row in table.rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(column: Column, cell: Cell) -> str:
    parts = [_value(column, cell), _ratio(column, cell)]
    if cell.published is not None:
        parts.append(f"*published {words.published(cell.published, column)}*")
    return "<br>".join(part for part in parts if part)


def _value(column: Column, cell: Cell) -> str:
    match cell.figure:
        case Size(value=value):
            return words.significant(value / column.per_unit)
        case Latency(p50=p50, p95=p95):
            return f"{words.significant(p50 / column.per_unit)} (p95 {words.significant(p95 / column.per_unit)})"
        case Estimate(interval=interval):
            low, high = words.significant(interval.low), words.significant(interval.high)
            return f"{words.significant(interval.value)} ({low} to {high})"
        case Skipped():
            return words.SKIPPED
        case NotMeasured():
            return words.NOT_MEASURED


def _ratio(column: Column, cell: Cell) -> str:
    match cell.figure:
        case Size(ratio=float() as ratio):
            return f"{words.ratio_value(ratio, words.ratio_digits(column))}×"
        case (Latency() | Estimate()) as figure if figure.ratio is not None:
            return words.ratio_with_interval(figure.ratio, column)
        case _:
            return ""
