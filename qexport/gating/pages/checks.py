"""Checks and verdicts in words."""

from __future__ import annotations

from collections import Counter

from qexport.gating.pages.texts import one_line
from qexport.gating.verdict import Check, GateReport, Outcome, RowVerdict
from qexport.report import COLUMN, numbers

WORD: dict[Outcome, str] = {"fail": "FAIL", "inconclusive": "inconclusive", "pass": "pass"}
"""The word for an outcome that stands alone, the worst first."""
_ONE: dict[Outcome, str] = {"fail": "fails", "inconclusive": "is inconclusive", "pass": "passes"}
_MANY: dict[Outcome, str] = {"fail": "fail", "inconclusive": "are inconclusive", "pass": "pass"}
_NOTHING = Check(
    what="checks", outcome="fail", message="nothing was checked of this row; give the gate something to check it by"
)


def checks_of(row: RowVerdict) -> tuple[Check, ...]:
    """The row's checks; if it has none, one check that fails."""
    return row.checks or (_NOTHING,)


def findings(row: RowVerdict) -> list[Check]:
    """The checks that fail, then those that are inconclusive."""
    return [check for outcome in ("fail", "inconclusive") for check in checks_of(row) if check.outcome == outcome]


def key(check: Check) -> str:
    """The name of a check for programs: ``perplexity of fp32``."""
    return one_line(check.what if check.of is None else f"{check.what} of {check.of}")


def title(check: Check) -> str:
    """The name of a check for people: ``on disk of baseline``."""
    name = _name(check)
    return name if check.of is None else f"{name} of {check.of}"


def tally(report: GateReport) -> str:
    """The number of rows with each outcome: ``1 of 23 rows fails, 2 are inconclusive, 20 pass``."""
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
    return numbers.inside(COLUMN[check.what]) if check.what in COLUMN else one_line(check.what)


def does(outcome: Outcome, count: int) -> str:
    """The verb for a number of rows or checks: ``fails``, ``are inconclusive``."""
    return (_ONE if count == 1 else _MANY)[outcome]
