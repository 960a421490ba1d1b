"""The gate as Markdown: a comment under a pull request, and the summary of a step."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from qexport.gating.pages.checks import WORD, does, findings, tally
from qexport.gating.verdict import Change, GateReport, RowVerdict
from qexport.report import COLUMNS, Column, escaped as _text, numbers

MARKER = "<!-- qexport gate -->"
"""The first line, by which a program finds its earlier comment."""
LIMIT = 65_536
"""The most characters of a comment on GitHub; in UTF-8 they stay below the 1 MiB of a step's summary."""
_NO_FIGURE = "–"


def markdown(report: GateReport) -> str:
    """Verdict, table of all rows, failures and inconclusive checks, and notes; the first line is :data:`MARKER`."""
    return _page(report, report.rows)


def gate_summary(report: GateReport) -> str:
    """The page, cut to :data:`LIMIT` characters: rows that pass are left out first, and a line gives their number."""
    whole = markdown(report)
    if len(whole) <= LIMIT:
        return whole
    gravest_first = sorted(report.rows, key=lambda row: list(WORD).index(row.outcome))

    def page(left_out: int) -> str:
        kept = {id(row) for row in gravest_first[: len(gravest_first) - left_out]}
        return _page(report, [row for row in report.rows if id(row) in kept])

    count = bisect.bisect_left(range(len(report.rows)), x=True, key=lambda number: len(page(number)) <= LIMIT)
    text = page(count)
    if len(text) <= LIMIT:
        return text
    end = "\n\n**Cut here.** The whole report is in `gate.md`.\n"
    return text[: LIMIT - len(end)].rpartition("\n")[0] + end


def _page(report: GateReport, rows: Sequence[RowVerdict]) -> str:
    """The page with these rows; it says so if rows are left out."""
    sections = [
        f"{MARKER}\n## The gate {does(report.outcome, 1)}",
        f"{_text(report.model)}: {tally(report)}; changes in brackets are since {_text(report.baseline)}.",
    ]
    if left_out := Counter(row.outcome for row in report.rows) - Counter(row.outcome for row in rows):
        counts = numbers.listed(
            f"{left_out[outcome]} that {does(outcome, left_out[outcome])}" for outcome in WORD if left_out[outcome]
        )
        sections.append(f"**Too long to show whole.** Rows left out here: {counts}. All of them are in `gate.md`.")
    if rows:
        sections.append(_table(rows))
    if found := [row for row in rows if findings(row)]:
        sections.append("### What does not pass")
        for row in found:
            messages = (f"{WORD[check.outcome]}: {_text(check.message)}" for check in findings(row))
            sections += [f"**{_text(row.name)}**", _list(messages)]
    if report.notes:
        sections += ["### Notes", _list(f"Note: {_text(note)}" for note in report.notes)]
    return "\n\n".join(sections) + "\n"


def _table(rows: Sequence[RowVerdict]) -> str:
    metrics = {change.metric for row in rows for change in row.changes}
    columns = [column for column in COLUMNS if column.metric in metrics]
    lines = [
        ["Verdict", "Row", "Recipe", *map(_heading, columns)],
        ["---", "---", "---", *("---:" for _ in columns)],
        *(_cells(row, columns) for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _heading(column: Column) -> str:
    return f"{column.title}, %" if column.form == "accuracy" else column.heading


def _cells(row: RowVerdict, columns: Sequence[Column]) -> list[str]:
    changes = {change.metric: change for change in row.changes}
    word = WORD[row.outcome]
    return [
        word if row.outcome == "pass" else f"**{word}**",
        _text(row.name),
        _text(row.recipe) or _NO_FIGURE,
        *(_cell(column, changes.get(column.metric)) for column in columns),
    ]


def _cell(column: Column, change: Change | None) -> str:
    if change is None:
        return _NO_FIGURE
    text = _value(column, change.now)
    if change.before is not None:
        text += f" ({_since(column, change.now, change.before)})"
    if change.of_fp32 is None:
        return text
    ratio, low, high = (
        numbers.ratio_value(part, numbers.ratio_digits(column))
        for part in (change.of_fp32.value, change.of_fp32.low, change.of_fp32.high)
    )
    spread = "" if change.of_fp32.low == change.of_fp32.high else f" ({low} to {high})"
    return f"{text}<br>{ratio} of fp32{spread}"


def _value(column: Column, value: float) -> str:
    if column.form == "accuracy" and math.isfinite(value):
        return f"{100 * value:.2f}"
    return numbers.significant(value / column.per_unit)


def _since(column: Column, now: float, before: float) -> str:
    """The change in percent; for accuracies, which are in percent, in points."""
    if now == before:
        return "unchanged"
    part = now - before if column.form == "accuracy" else now / before - 1 if before else math.nan
    if not math.isfinite(100 * part):
        return f"was {_value(column, before)}"
    unit = "points" if column.form == "accuracy" else "%"
    return f"{'+' if part > 0 else '−'}{numbers.ratio_value(abs(100 * part), 2)} {unit}"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
