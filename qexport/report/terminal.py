"""The table on a terminal: at 80 columns the deciding metrics and the tasks, on wider terminals all metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from qexport.core import CATALOGUE, McNemar
from qexport.report import facts, numbers, words
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
    unstable,
)
from qexport.report.markdown import transposed
from qexport.report.table import COLUMN, Cell, Column, Row, Table, gaps

WIDE = 120
"""The width from which on all columns are shown."""
_QUIET = "dim"
_GAP = 3
"""The number of characters between two columns."""


def render_table(table: Table, *, width: int) -> RenderableType:
    """The table, then the inputs, the unstable figures and the missing figures.

    A row has a line for its figures, and dimmed lines for ratios to the baseline, for McNemar's test if it has
    accuracies, and for published figures.

    Args:
        table: see :func:`qexport.report.table.build_table`.
        width: the width of the terminal in characters.
    """
    parts: list[RenderableType] = [Text(line, "bold") for line in facts.stand_ins(table)]
    if width < WIDE:
        columns = _deciding(table, width)
        parts += _grids(_across(table, columns), width)
        shown = {"tasks"}
    else:
        columns, shown = table.columns, {group for group, _ in table.groups}
    for group, own in ((group, own) for group, own in table.groups if group in shown):
        parts.append(Text(group.capitalize(), "bold"))
        parts += _grids(_down(table, own) if transposed(table, own) else _across(table, own), width)
    parts += (Text(line, _QUIET) for line in _footer(table, columns))
    return Group(*parts)


def _deciding(table: Table, width: int) -> tuple[Column, ...]:
    """The deciding metrics: weights, peak memory, time, perplexity, and the generation rate if it fits."""
    shown = {column.metric for column in table.columns}
    peak = "peak_device_bytes" if "peak_device_bytes" in shown else "peak_rss_bytes"
    time = "latency_s" if "latency_s" in shown else "token_latency_s"
    columns = tuple(COLUMN[metric] for metric in ("weight_bytes", peak, time, "perplexity") if metric in shown)
    more = (*columns, COLUMN["tokens_per_s"])
    fits = "tokens_per_s" in shown and sum(map(_breadth, _across(table, more))) - _GAP <= width
    return more if fits else columns


_Line = tuple[str, bool]
"""The text of a line, and True if it is bright."""
_Strip = tuple[str, list[_Line]]
"""A column of a grid: its heading and lines."""


def _across(table: Table, columns: Sequence[Column]) -> list[_Strip]:
    """Rows down, metrics across: the column of names, then one column for each metric."""
    names: _Strip = ("", [])
    strips: list[_Strip] = [(CATALOGUE[c.metric].heading or f"{c.title}\n{c.unit}".strip(), []) for c in columns]
    for row in table.rows:
        base = table.run_of(row).baseline
        for title, loud, texts in _lines(row, columns, "" if base is None else base.name):
            names[1].append((title or row.label, loud))
            for strip, text in zip(strips, texts, strict=True):
                strip[1].append((text, loud))
    return [names, *strips]


def _down(table: Table, columns: Sequence[Column]) -> list[_Strip]:
    """Metrics down, rows across."""
    kinds = {column.metric: _kinds(table, column) for column in columns}
    names: _Strip = ("", [])
    for column in columns:
        names[1].append((column.heading, True))
        names[1].extend((kind, False) for kind in kinds[column.metric])
    strips = [names]
    for row in table.rows:
        lines: list[_Line] = []
        for column in columns:
            cell = row.cells[column.metric]
            lines.append((_value(column, cell), True))
            beside = {
                "  ratio": _ratio(column, cell),
                "  McNemar": _test(cell),
                "  published": _published(row.cells, column, columns),
            }
            lines.extend((beside[kind], False) for kind in kinds[column.metric])
        strips.append((row.label.replace(" (", "\n(").replace(" · ", "\n· "), lines))
    return strips


def _kinds(table: Table, column: Column) -> list[str]:
    """The kinds of further lines that a metric needs in any row."""
    cells = [row.cells[column.metric] for row in table.rows]
    found = {
        "  ratio": any(_ratio(column, cell) for cell in cells),
        "  McNemar": any(map(_test, cells)),
        "  published": any(cell.published for cell in cells),
    }
    return [kind for kind, there in found.items() if there]


def _lines(row: Row, columns: Sequence[Column], base: str) -> Iterator[tuple[str, bool, list[str]]]:
    """The lines of a row: a name (empty for the row's first line), True if it is bright, and a text for each column."""
    cells = [(column, row.cells[column.metric]) for column in columns]
    yield "", True, [_value(*cell) for cell in cells]
    ratios = [_ratio(*cell) for cell in cells]
    if any(ratios):
        yield f"  ratio to {base}", False, ratios
    tests = [_test(cell) for _, cell in cells]
    if any(tests):
        yield "  McNemar", False, tests
    beside = [_published(row.cells, column, columns) for column in columns]
    if any(beside):
        yield "  published", False, beside


def _breadth(strip: _Strip) -> int:
    """The width of a column in characters."""
    heading, lines = strip
    return max(len(text) for text in (*heading.split("\n"), *(text for text, _ in lines))) + _GAP


def _grids(strips: Sequence[_Strip], width: int) -> Iterator[RenderableType]:
    """The columns as one grid; if the terminal is too narrow, as several below each other, each with the names."""
    names, *rest = strips
    while rest:
        room, count = width + _GAP - _breadth(names), 0
        while count < len(rest) and (count == 0 or room >= _breadth(rest[count])):
            room -= _breadth(rest[count])
            count += 1
        yield _grid([names, *rest[:count]])
        yield Text()
        rest = rest[count:]


def _grid(strips: Sequence[_Strip]) -> RichTable:
    grid = RichTable(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, header_style="bold", show_edge=False)
    for number, (heading, _) in enumerate(strips):
        side: Literal["left", "right"] = "right" if number else "left"
        grid.add_column(Text(heading, justify=side), justify=side, no_wrap=True)
    for line in zip(*(lines for _, lines in strips), strict=True):
        grid.add_row(*(Text(text, "" if loud else _QUIET) for text, loud in line))
    return grid


def _value(column: Column, cell: Cell) -> str:
    mark, text = "~" if unstable(cell.figure) else "", "–"
    match cell.figure:
        case Size(value=value):
            text = numbers.significant(value / column.per_unit)
        case Latency(p50=p50, p95=p95):
            text = mark + " / ".join(numbers.significant(time / column.per_unit, 3) for time in (p50, p95))
        case Repeated(value=value):
            text = mark + numbers.significant(value / column.per_unit)
        case Count(value=value):
            text = numbers.exactly(value)
        case Answer(right=right, rounds=rounds):
            text = f"{right} of {rounds}"
        case Estimate(interval=interval):
            text = f"{numbers.significant(interval.value)} ±{numbers.significant(numbers.plus_minus(interval), 2)}"
        case Accuracy(interval=interval):
            text = f"{numbers.accuracy(interval.value)} ±{numbers.accuracy(numbers.plus_minus(interval))}"
        case Skipped():
            text = words.SKIPPED
        case NotMeasured():
            pass
    return text


def _ratio(column: Column, cell: Cell) -> str:
    decimals = numbers.ratio_digits(column)
    match cell.figure:
        case Size(ratio=float() as ratio):
            return numbers.ratio_value(ratio, decimals)
        case (Latency() | Repeated() | Estimate() | Accuracy()) as figure if figure.ratio is not None:
            side = numbers.plus_minus(figure.ratio)
            value = numbers.ratio_value(figure.ratio.value, decimals)
            return f"{value} ±{numbers.ratio_value(side, decimals)}" if side else value
        case _:
            return ""


def _test(cell: Cell) -> str:
    match cell.figure:
        case Accuracy(mcnemar=McNemar() as mcnemar):
            return f"p {numbers.chance(mcnemar)}"
        case _:
            return ""


def _published(cells: Mapping[str, Cell], column: Column, columns: Sequence[Column]) -> str:
    figure = cells[column.metric].published
    if figure is not None:
        return numbers.published(figure, column)
    sentences = COLUMN["sentence_perplexity"]
    of_sentences = cells[sentences.metric].published
    if column.metric == "perplexity" and of_sentences is not None and sentences not in columns:
        return f"{numbers.published(of_sentences, sentences)}*"
    return ""


def _footer(table: Table, columns: Sequence[Column]) -> Iterator[str]:
    if len(table.runs) > 1:
        yield from (f"{mark}: {text}" for mark, text in facts.runs(table))
        yield facts.differences(table)
    else:
        yield facts.machine(table)
    if any(column.form == "accuracy" for column in table.columns):
        yield "p: McNemar's test of the questions that changed against the baseline; see p in the report."
    yield "MB are 10⁶ bytes. ± is the wider side of a 95 % interval, or of the range over few rounds; ratios are paired."
    shown = {column.metric for column in columns}
    if "sentence_perplexity" not in shown and any(row.cells["sentence_perplexity"].published for row in table.rows):
        yield "* published as a mean over sentences; see sentence perplexity in the report."
    if table.sources:
        yield f"Published: {'; '.join(table.sources)}"
    if notes := facts.task_notes(table):
        yield from ("", "How tasks were scored", *(f"  {note}" for note in notes))
    if on_times := words.on_times(table):
        lines = words.warnings(table)
        yield from ("", "Warnings", f"~ {on_times}" if lines else on_times, *(f"  {line}" for line in lines))
    if missing := gaps(table):
        yield from ("", "Not measured", *(f"  {facts.gap_sentence(gap, table)}" for gap in missing))
