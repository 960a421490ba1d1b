"""The gate as JUnit XML, which most services show as tests."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from qexport.gating.pages.checks import checks_of, key
from qexport.gating.pages.texts import one_line
from qexport.gating.verdict import GateReport

_NAME = "qexport gate"


def junit(report: GateReport) -> str:
    """A test case for each check, in the class of its row.

    JUnit has no third outcome, and a skipped test is green: so an inconclusive check is a failure of that type.
    """
    cases = [(row, check) for row in report.rows for check in checks_of(row)]
    failures = sum(check.outcome != "pass" for _, check in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0"}
    suites = ET.Element("testsuites", {"name": _NAME, **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": _NAME, **counts})
    for row, check in cases:
        case = ET.SubElement(suite, "testcase", {"classname": one_line(row.name), "name": key(check)})
        if check.outcome != "pass":
            kind = one_line(check.what) if check.outcome == "fail" else check.outcome
            message = one_line(check.message)
            ET.SubElement(case, "failure", {"message": message, "type": kind}).text = message
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'
