"""The gate's report as data, for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from qexport.gating.pages.texts import fit
from qexport.gating.verdict import GateReport

SCHEMA = 1


def gate_json(report: GateReport) -> str:
    """The report as JSON, with the outcomes of all rows.

    JSON has no NaN or infinity: these are the strings ``NaN``, ``Infinity`` and ``-Infinity``.
    """
    rows = [{"outcome": row.outcome, **asdict(row)} for row in report.rows]
    whole = {"schema": SCHEMA, "outcome": report.outcome, **asdict(report), "rows": rows}
    return json.dumps(_strict(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: object) -> object:
    match value:
        case dict():
            return {name: _strict(part) for name, part in value.items()}
        case list() | tuple():
            return [_strict(part) for part in value]
        case str():
            return fit(value)
        case float() if not math.isfinite(value):
            return json.dumps(value)
        case _:
            return value
