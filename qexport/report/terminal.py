"""The table on a terminal: at 80 columns what decides, on wider ones everything."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from qexport.report import words
from qexport.report.table import COLUMN, Cell, Column, Estimate, Latency, NotMeasured, Size, Skipped, Table, gaps

WIDE = 120
"""From this width on all columns are shown."""
_QUIET = "dim"


def render(table: Table, *, width: int) -> RenderableType:
    """The table, then what it was measured on, then what was not measured.

    A row takes a line for its figures, a dimmed one for their ratios to fp32, and one for published figures.

    Args:
        table: see :func:`qexport.report.table.build_table`.
        width: of the terminal, in characters.
    """
    columns = table.columns if width >= WIDE else _deciding(table)
    grid = RichTable(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold", show_edge=False)
    grid.add_column("", no_wrap=True)
    for column in columns:
        grid.add_column(Text(_heading(column), justify="right"), justify="right", no_wrap=True)
    for row in table.rows:
        cells = [(column, row.cells[column.metric]) for column in columns]
        grid.add_row(Text(row.label), *(Text(_value(column, cell)) for column, cell in cells))
        if any(_ratio(column, cell) for column, cell in cells):
            grid.add_row(Text("  ratio to fp32", _QUIET), *(Text(_ratio(*cell), _QUIET) for cell in cells))
        beside = [_published(row.cells, column, columns) for column in columns]
        if any(beside):
            grid.add_row(Text("  published", _QUIET), *(Text(text, _QUIET) for text in beside))
    return Group(grid, Text(), *(Text(line, _QUIET) for line in _footer(table, columns)))


def _deciding(table: Table) -> tuple[Column, ...]:
    shown = {column.metric for column in table.columns}
    peak = "peak_device_bytes" if "peak_device_bytes" in shown else "peak_rss_bytes"
    return tuple(COLUMN[metric] for metric in ("weight_bytes", peak, "latency_s", "perplexity") if metric in shown)


_HEADINGS = {
    "disk_bytes": "On disk\nMB",
    "weight_bytes": "Weights\nMB",
    "loaded_rss_bytes": "Loaded\nMB",
    "peak_rss_bytes": "Peak\nmemory MB",
    "peak_device_bytes": "Peak\ndevice MB",
    "latency_s": "Sentence, ms\np50 / p95",
    "perplexity": "Perplexity",
    "sentence_perplexity": "Sentence\nperplexity",
}


def _heading(column: Column) -> str:
    return _HEADINGS[column.metric]


def _value(column: Column, cell: Cell) -> str:
    match cell.figure:
        case Size(value=value):
            return words.significant(value / column.per_unit)
        case Latency(p50=p50, p95=p95):
            return " / ".join(words.significant(time / column.per_unit, 3) for time in (p50, p95))
        case Estimate(interval=interval):
            return f"{words.significant(interval.value)} ±{words.significant(words.plus_minus(interval), 2)}"
        case Skipped():
            return words.SKIPPED
        case NotMeasured():
            return "–"


def _ratio(column: Column, cell: Cell) -> str:
    decimals = words.ratio_digits(column)
    match cell.figure:
        case Size(ratio=float() as ratio):
            return words.ratio_value(ratio, decimals)
        case (Latency() | Estimate()) as figure if figure.ratio is not None:
            side = words.plus_minus(figure.ratio)
            return f"{words.ratio_value(figure.ratio.value, decimals)} ±{words.ratio_value(side, decimals)}"
        case _:
            return ""


def _published(cells: Mapping[str, Cell], column: Column, columns: tuple[Column, ...]) -> str:
    figure = cells[column.metric].published
    if figure is not None:
        return words.published(figure, column)
    sentences = COLUMN["sentence_perplexity"]
    of_sentences = cells[sentences.metric].published
    if column.metric == "perplexity" and of_sentences is not None and sentences not in columns:
        return f"{words.published(of_sentences, sentences)}*"
    return ""


def _footer(table: Table, columns: tuple[Column, ...]) -> list[str]:
    lines = [words.machine(table), "MB are 10⁶ bytes. ± is the wider side of a 95 % interval; ratios are paired."]
    shown = {column.metric for column in columns}
    if "sentence_perplexity" not in shown and any(row.cells["sentence_perplexity"].published for row in table.rows):
        lines.append("* published as a mean over sentences; see sentence perplexity in the report.")
    if table.sources:
        lines.append(f"Published: {'; '.join(table.sources)}")
    missing = gaps(table)
    if missing:
        lines += ["", "Not measured", *(f"  {words.gap_sentence(gap, table)}" for gap in missing)]
    return lines
