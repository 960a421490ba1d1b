from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

from hypothesis import given

from qexport.gating.pages.junit import junit
from tests.gating.pages.conftest import PASSES
from tests.gating.pages.strategies import REPORTS

GOLDEN = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="qexport gate" tests="8" failures="4" errors="0" skipped="0">
  <testsuite name="qexport gate" tests="8" failures="4" errors="0" skipped="0">
    <testcase classname="int8-static" name="perplexity of fp32" />
    <testcase classname="int8-static" name="disk_bytes of baseline" />
    <testcase classname="int8-static" name="quantized nodes of baseline" />
    <testcase classname="a|b `c` &lt;i&gt;x&lt;/i&gt;" name="latency_s of fp32">
      <failure message="latency is 1.01 of fp32 (0.9 to 1.12), at most 1.1 is allowed" type="inconclusive">latency is 1.01 of fp32 (0.9 to 1.12), at most 1.1 is allowed</failure>
    </testcase>
    <testcase classname="a|b `c` &lt;i&gt;x&lt;/i&gt;" name="perplexity of fp32">
      <failure message="perplexity is 1.31 of fp32, 2 % more are allowed: raise `bits`" type="perplexity">perplexity is 1.31 of fp32, 2 % more are allowed: raise `bits`</failure>
    </testcase>
    <testcase classname="a|b `c` &lt;i&gt;x&lt;/i&gt;" name="quantized nodes" />
    <testcase classname="fp8" name="drift of baseline">
      <failure message="drift is 0.0012 nats per token (0.0008 to 0.0016), at most 0.0015; about 400 windows would tell" type="inconclusive">drift is 0.0012 nats per token (0.0008 to 0.0016), at most 0.0015; about 400 windows would tell</failure>
    </testcase>
    <testcase classname="nf4" name="artifact">
      <failure message="no artifact was given" type="artifact">no artifact was given</failure>
    </testcase>
  </testsuite>
</testsuites>
"""


def test_the_file_is_this(report):
    assert junit(report) == GOLDEN


def test_a_row_of_which_nothing_was_checked_is_a_test_that_fails(report):
    (case,) = ET.fromstring(junit(replace(report, rows=(replace(PASSES, checks=()),)))).iter("testcase")
    assert case.attrib == {"classname": "int8-static", "name": "checks"}
    assert case[0].attrib["message"].startswith("nothing was checked of this row")


def test_what_xml_cannot_hold_is_written_out(report):
    (case, *_) = ET.fromstring(junit(replace(report, rows=(replace(PASSES, name="a\x00b\udcffc\ufffe"),)))).iter(
        "testcase"
    )
    assert case.attrib["classname"] == r"a\x00b\xffc\ufffe"


@given(REPORTS)
def test_any_report_is_well_formed(report):
    suites = ET.fromstring(junit(report).encode())
    checks = [check for row in report.rows for check in row.checks]
    empty = sum(not row.checks for row in report.rows)
    (suite,) = suites
    assert suite.attrib == suites.attrib
    assert len(suite) == int(suite.attrib["tests"]) == len(checks) + empty
    failures = [check.outcome != "pass" for check in checks].count(True) + empty
    assert len(list(suite.iter("failure"))) == int(suite.attrib["failures"]) == failures
