"""Checks and verdicts in words."""

from __future__ import annotations

from collections import Counter

from qexport.report import words
from qexport.report.gate.texts import one_line
from qexport.report.table import COLUMN
from qexport.verdict import Bounds, Check, GateReport, Outcome, RowVerdict

WORD: dict[Outcome, str] = {"fail": "FAIL", "inconclusive": "inconclusive", "pass": "pass"}
"""How an outcome reads where it stands alone, the gravest first."""
_ONE: dict[Outcome, str] = {"fail": "fails", "inconclusive": "is inconclusive", "pass": "passes"}
_MANY: dict[Outcome, str] = {"fail": "fail", "inconclusive": "are inconclusive", "pass": "pass"}
_NOTHING = Check(
    what="checks", outcome="fail", message="nothing was checked of this row; give the gate something to check it by"
)


def checks_of(row: RowVerdict) -> tuple[Check, ...]:
    """The row's checks; one that fails where it has none."""
    return row.checks or (_NOTHING,)


def findings(row: RowVerdict) -> list[Check]:
    """The checks that fail, then those that are inconclusive."""
    return [check for outcome in ("fail", "inconclusive") for check in checks_of(row) if check.outcome == outcome]


def key(check: Check) -> str:
    """What a program knows a check by: ``perplexity of fp32``."""
    return one_line(check.what if check.of is None else f"{check.what} of {check.of}")


def title(check: Check) -> str:
    """What a person knows it by: ``on disk of baseline``."""
    name = _name(check)
    return name if check.of is None else f"{name} of {check.of}"


def figure(check: Check) -> str:
    """What was found and what is allowed: ``perplexity 1.0011 of fp32 (1.0006 to 1.0016), at most 1.02``.

    Empty where nothing was measured.
    """
    if check.found is None:
        return ""
    column = COLUMN.get(check.what)
    ratio = check.of is not None and check.what != "drift"
    per_unit = 1.0 if column is None or ratio else column.per_unit

    def shown(value: float) -> str:
        if ratio:
            return words.ratio_value(value, 3 if column is None else words.ratio_digits(column))
        return words.significant(value / per_unit)

    text = f"{_name(check)} {shown(check.found.value)}"
    if check.what == "drift":
        text += " nats per token"
    elif ratio:
        text += f" of {check.of}"
    elif column is not None and column.unit:
        text += f" {column.unit}"
    if check.found.low != check.found.high:
        text += f" ({shown(check.found.low)} to {shown(check.found.high)})"
    allowed = "" if check.bounds is None else _allowed(check.bounds, per_unit)
    return f"{text}, {allowed}" if allowed else text


def tally(report: GateReport) -> str:
    """How many rows came to what: ``1 of 23 rows fails, 2 are inconclusive, 20 pass``."""
    counts = Counter(row.outcome for row in report.rows)
    found = [(outcome, counts[outcome]) for outcome in WORD if counts[outcome]]
    if not found:
        return "there are no rows, so it fails"
    (first, count), *rest = found
    if not rest:
        return f"the one row {does(first, 1)}" if count == 1 else f"all {count} rows {does(first, count)}"
    parts = [f"{count} of {len(report.rows)} rows {does(first, count)}"]
    parts += [f"{number} {does(outcome, number)}" for outcome, number in rest]
    return ", ".join(parts)


def _name(check: Check) -> str:
    return words.inside(COLUMN[check.what]) if check.what in COLUMN else one_line(check.what)


def does(outcome: Outcome, count: int) -> str:
    """What so many rows or checks do: ``fails``, ``are inconclusive``."""
    return (_ONE if count == 1 else _MANY)[outcome]


def _allowed(bounds: Bounds, per_unit: float) -> str:
    least = None if bounds.at_least is None else words.exactly(bounds.at_least / per_unit)
    most = None if bounds.at_most is None else words.exactly(bounds.at_most / per_unit)
    if least is not None and most is not None:
        return f"{least} to {most} allowed"
    if least is not None:
        return f"at least {least}"
    return "" if most is None else f"at most {most}"
