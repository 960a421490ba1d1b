"""The report as Markdown, with links to the charts as PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qexport.core import McNemar
from qexport.report import facts, numbers, words
from qexport.report.charts import Chart
from qexport.report.escaping import escaped
from qexport.report.figures import Accuracy, Answer, Count, Estimate, Latency, NotMeasured, Repeated, Size, Skipped
from qexport.report.table import Cell, Column, Row, Table, gaps

__all__ = ["TRANSPOSED_COLUMNS", "escaped", "markdown", "transposed"]

TRANSPOSED_COLUMNS = 8
"""A group with more columns than this, and more columns than rows, has metrics down and rows across."""


def transposed(table: Table, columns: Sequence[Column]) -> bool:
    """True if a group of columns is easier to read with metrics down."""
    return len(columns) > TRANSPOSED_COLUMNS and len(table.rows) < len(columns)


def markdown(table: Table, *, title: str, charts: Sequence[Chart]) -> str:
    """The text of ``report.md``.

    Args:
        table: see :func:`qexport.report.table.build_table`.
        title: the title of the report.
        charts: the charts that were drawn, as ``<name>.png`` and ``<name>.svg`` next to the file.
    """
    sections = [f"# {escaped(title)}", *(f"**{escaped(line)}**" for line in facts.stand_ins(table))]
    sections.append(escaped(words.paragraph(table)))
    if len(table.runs) > 1:
        sections += ["## Runs", _pairs(facts.runs(table)), escaped(facts.differences(table))]
    sections.append("## Results")
    for group, columns in table.groups:
        sections += [f"### {group.capitalize()}", _grid(table, columns)]
    if notes := facts.task_notes(table):
        sections += ["## How tasks were scored", _list(map(escaped, notes))]
    if on_times := words.on_times(table):
        sections += ["## Warnings", on_times]
    if unstable := words.warnings(table):
        sections.append(_list(map(escaped, unstable)))
    if missing := gaps(table):
        sections += ["## Not measured", _list(escaped(facts.gap_sentence(gap, table)) for gap in missing)]
    for chart in charts:
        sections += [f"## {chart.title}", f"![{chart.title}]({chart.name}.png)", chart.caption]
    if answers := facts.answers(table):
        sections += ["## Answers", _pairs(answers)]
    if said := facts.said(table):
        sections += ["## Warnings given in sessions", _pairs(said)]
    sections += ["## Conditions", _pairs(facts.conditions(table))]
    if settings := facts.settings(table):
        sections += ["## How each row was made", _pairs(settings)]
    sections += [
        "## How the figures are defined",
        _pairs(words.definitions(table)),
        "All samples: [records.jsonl](records.jsonl). The same report with charts to explore: [report.html](report.html).",
    ]
    return "\n\n".join(sections) + "\n"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return _list(f"**{escaped(name)}**: {escaped(text)}" for name, text in pairs)


def _grid(table: Table, columns: Sequence[Column]) -> str:
    names = [f"**{escaped(row.label)}**" for row in table.rows]
    if transposed(table, columns):
        head = ["", *names]
        lines = [[column.heading, *(_of(row, column) for row in table.rows)] for column in columns]
    else:
        head = ["", *(column.heading for column in columns)]
        lines = [[name, *(_of(row, column) for column in columns)] for name, row in zip(names, table.rows, strict=True)]
    ruled = [head, ["---", *("---:" for _ in head[1:])], *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)


def cell_lines(row: Row, column: Column) -> list[str]:
    """A cell's figure, ratio, test, note and published figure, one line for each that is present."""
    cell = row.cells[column.metric]
    parts = [_value(column, cell), _ratio(column, cell), _test(cell), words.unstable_note(cell.figure)]
    if cell.published is not None:
        parts.append(f"published {numbers.published(cell.published, column)}")
    return [part for part in parts if part]


def _of(row: Row, column: Column) -> str:
    lines = cell_lines(row, column)
    if row.cells[column.metric].published is not None:
        lines[-1] = f"*{escaped(lines[-1])}*"
    return "<br>".join(lines)


def _value(column: Column, cell: Cell) -> str:
    text = words.NOT_MEASURED
    match cell.figure:
        case Size(value=value):
            text = numbers.significant(value / column.per_unit)
        case Latency(p50=p50, p95=p95):
            text = f"{numbers.significant(p50 / column.per_unit)} (p95 {numbers.significant(p95 / column.per_unit)})"
        case Repeated(value=value, low=low, high=high, rounds=rounds):
            shown, least, most = (numbers.significant(part / column.per_unit) for part in (value, low, high))
            text = f"{shown} ({least} to {most})" if rounds > 1 else shown
        case Count(value=value):
            text = numbers.exactly(value)
        case Answer() as answer:
            text = facts.rightly(answer)
        case Estimate(interval=interval):
            shown, least, most = map(numbers.significant, (interval.value, interval.low, interval.high))
            text = f"{shown} ({least} to {most})"
        case Accuracy(interval=interval):
            shown, least, most = map(numbers.accuracy, (interval.value, interval.low, interval.high))
            text = f"{shown} ({least} to {most})"
        case Skipped():
            text = words.SKIPPED
        case NotMeasured():
            pass
    return text


def _ratio(column: Column, cell: Cell) -> str:
    match cell.figure:
        case Size(ratio=float() as ratio):
            return f"{numbers.ratio_value(ratio, numbers.ratio_digits(column))}×"
        case (Latency() | Repeated() | Estimate() | Accuracy()) as figure if figure.ratio is not None:
            return numbers.ratio_with_interval(figure.ratio, column)
        case _:
            return ""


def _test(cell: Cell) -> str:
    match cell.figure:
        case Accuracy(mcnemar=McNemar() as mcnemar):
            return escaped(numbers.changed(mcnemar))
        case _:
            return ""
