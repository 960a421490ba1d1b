"""The gate as workflow commands, which GitHub shows next to the lines of the baseline."""

from __future__ import annotations

from typing import Literal

from qexport.gating.pages.checks import does, findings, title
from qexport.gating.pages.texts import one_line, repository_path
from qexport.gating.verdict import GateReport

SHOWN = 10
"""The most errors, and the most warnings, that GitHub shows for one step."""


def workflow_commands(report: GateReport) -> list[str]:
    """An error for each check that fails, then a warning for each inconclusive one.

    If a kind has more than :data:`SHOWN`, the last one that GitHub shows gives the number of the rest.
    """
    return [*_of_kind(report, "fail", "error"), *_of_kind(report, "inconclusive", "warning")]


def _of_kind(
    report: GateReport, outcome: Literal["fail", "inconclusive"], command: Literal["error", "warning"]
) -> list[str]:
    path = repository_path(report.place or report.baseline)
    found = [
        _command(command, path, row.line, f"{one_line(row.name)}: {title(check)}", check.message)
        for row in report.rows
        for check in findings(row)
        if check.outcome == outcome
    ]
    if len(found) <= SHOWN:
        return found
    more = len(found) - SHOWN + 1
    message = f"{more} more checks {does(outcome, more)}; read all of them in the job's log and in the gate's report"
    return [*found[: SHOWN - 1], _command(command, path, 1, "qexport gate", message)]


def _command(command: str, path: str, line: int, heading: str, message: str) -> str:
    return f"::{command} file={_property(path)},line={line},title={_property(heading)}::{_data(one_line(message))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
