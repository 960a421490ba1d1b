"""The gate on a terminal: one line for each row, the outcome first."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from qexport.gating.pages.checks import WORD, checks_of, findings, tally
from qexport.gating.pages.texts import one_line
from qexport.gating.verdict import GateReport, Outcome, RowVerdict

_STYLE: dict[Outcome, str] = {"fail": "bold red", "inconclusive": "yellow", "pass": "green"}


def lines(report: GateReport) -> list[str]:
    """A line for each row, then the notes, then a line with the number of rows of each outcome."""
    words = [WORD[row.outcome] for row in report.rows]
    names = [one_line(row.name) for row in report.rows]
    return [
        *(
            f"{_padded(word, words)}  {_padded(name, names)}  {_reasons(row)}"
            for word, name, row in zip(words, names, report.rows, strict=True)
        ),
        *(f"note: {one_line(note)}" for note in report.notes),
        f"gate: {tally(report)} (baseline {one_line(report.baseline)})",
    ]


def render_gate(report: GateReport) -> RenderableType:
    """The same lines with coloured outcomes; the console wraps them."""
    texts = [Text(line) for line in lines(report)]
    for text, row in zip(texts, report.rows, strict=False):  # the lines after the rows have no outcome
        text.stylize(_STYLE[row.outcome], 0, len(WORD[row.outcome]))
    texts[-1].stylize("bold")
    return Group(*texts)


def _padded(text: str, column: list[str]) -> str:
    return text + " " * (max(map(cell_len, column)) - cell_len(text))


def _reasons(row: RowVerdict) -> str:
    """The messages of failures and inconclusive checks; if all pass, the messages of all checks."""
    return "; ".join(one_line(check.message) for check in findings(row) or checks_of(row))
