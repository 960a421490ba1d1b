from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given

from qexport.gating.pages.code_quality import code_quality
from tests.gating.pages.conftest import FAILS, PASSES
from tests.gating.pages.strategies import REPORTS


def test_the_entries_are_these(report):
    entries = json.loads(code_quality(report))
    assert [(entry["description"], entry["check_name"], entry["severity"], entry["location"]) for entry in entries] == [
        (
            "a|b `c` <i>x</i>: perplexity is 1.31 of fp32, 2 % more are allowed: raise `bits`",
            "perplexity of fp32",
            "major",
            {"path": "models/baseline.json", "lines": {"begin": 40}},
        ),
        (
            "a|b `c` <i>x</i>: latency is 1.01 of fp32 (0.9 to 1.12), at most 1.1 is allowed",
            "latency_s of fp32",
            "minor",
            {"path": "models/baseline.json", "lines": {"begin": 40}},
        ),
        (
            "fp8: drift is 0.0012 nats per token (0.0008 to 0.0016), at most 0.0015; about 400 windows would tell",
            "drift of baseline",
            "minor",
            {"path": "models/baseline.json", "lines": {"begin": 77}},
        ),
        (
            "nf4: no artifact was given",
            "artifact",
            "major",
            {"path": "models/baseline.json", "lines": {"begin": 90}},
        ),
    ]
    assert all(
        entry.keys() == {"description", "check_name", "fingerprint", "severity", "location"} for entry in entries
    )


def fingerprints(report):
    return [entry["fingerprint"] for entry in json.loads(code_quality(report))]


def test_a_fingerprint_is_of_the_check_and_not_of_what_it_found(report):
    before = fingerprints(report)
    assert len(set(before)) == 4
    moved = replace(
        FAILS, line=7, checks=tuple(replace(check, message="worse", found=None) for check in FAILS.checks), changes=()
    )
    assert fingerprints(replace(report, rows=(moved,))) == before[:2]
    # It must be the same in another process, and from one version to the next.
    assert before[3] == "244cd27da9f793d512e7d59f92f6c3b610dc4d82360d96b9996f144f4e82310b"


def test_a_fingerprint_is_of_row_what_of_and_baseline(report):
    (first, _) = fingerprints(replace(report, rows=(FAILS,)))
    check = FAILS.checks[1]
    others = [
        replace(report, rows=(replace(FAILS, name="other", checks=(check,)),)),
        replace(report, rows=(replace(FAILS, checks=(replace(check, what="drift"),)),)),
        replace(report, rows=(replace(FAILS, checks=(replace(check, of="baseline"),)),)),
        replace(report, rows=(replace(FAILS, checks=(check,)),), baseline="other.json"),
    ]
    assert len({first, *(found for other in others for found in fingerprints(other))}) == 5


@pytest.mark.parametrize(
    "given", ["./models/baseline.json", "models/../models/baseline.json", "{cwd}/models/baseline.json"]
)
def test_the_path_is_relative(report, tmp_path, given):
    entries = json.loads(code_quality(replace(report, baseline=given.format(cwd=tmp_path))))
    assert {entry["location"]["path"] for entry in entries} == {"models/baseline.json"}


def test_the_path_is_from_the_top_of_the_repository(report, tmp_path, monkeypatch):
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    (tmp_path / "repository" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "repository" / "sub")
    entries = json.loads(code_quality(replace(report, baseline="../models/baseline.json")))
    assert entries[0]["location"]["path"] == "models/baseline.json"
    elsewhere = json.loads(code_quality(replace(report, baseline=str(tmp_path / "elsewhere.json"))))
    assert elsewhere[0]["location"]["path"] == (tmp_path / "elsewhere.json").as_posix()


def test_a_gate_that_passes_has_no_entries(report):
    assert json.loads(code_quality(replace(report, rows=(PASSES,)))) == []


@given(REPORTS)
def test_any_report_is_a_list_of_entries(report):
    text = code_quality(report).encode()
    entries = json.loads(text)
    findings = [check for row in report.rows for check in row.checks if check.outcome != "pass"]
    assert len(entries) == len(findings) + sum(not row.checks for row in report.rows)
    for entry in entries:
        assert entry["description"]
        assert re.fullmatch("[0-9a-f]{64}", entry["fingerprint"])
        assert entry["severity"] in {"major", "minor"}
        assert not entry["location"]["path"].startswith(("/", "./"))
