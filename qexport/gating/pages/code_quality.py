"""The gate as a Code Quality report, which GitLab shows in a merge request."""

from __future__ import annotations

import hashlib
import json

from qexport.gating.pages.checks import findings, key
from qexport.gating.pages.texts import one_line, repository_path
from qexport.gating.verdict import Check, GateReport, RowVerdict


def code_quality(report: GateReport) -> str:
    """A JSON list with an entry for each check that fails or is inconclusive, at its row's line of the baseline."""
    path = repository_path(report.place or report.baseline)
    found = [(row, check) for row in report.rows for check in findings(row)]
    entries = [
        {
            "description": f"{one_line(row.name)}: {one_line(check.message)}",
            "check_name": key(check),
            "fingerprint": _fingerprint(path, row, check),
            "severity": "major" if check.outcome == "fail" else "minor",
            "location": {"path": path, "lines": {"begin": row.line}},
        }
        for row, check in found
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def _fingerprint(path: str, row: RowVerdict, check: Check) -> str:
    """The same for a check in every run, for any finding; different for the same row of another baseline."""
    parts = json.dumps([path, row.name, check.what, check.of])
    return hashlib.sha256(parts.encode()).hexdigest()
