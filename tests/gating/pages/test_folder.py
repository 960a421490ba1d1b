from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given

from qexport.core.errors import InputError
from qexport.core.stats import Interval
from qexport.gating.pages.code_quality import code_quality
from qexport.gating.pages.data import gate_json
from qexport.gating.pages.folder import write_gate_pages
from qexport.gating.pages.junit import junit
from qexport.gating.pages.markdown import markdown
from tests.gating.pages.conftest import PASSES, UNDECIDED
from tests.gating.pages.strategies import REPORTS

NAMES = ["code-quality.json", "gate.json", "gate.md", "junit.xml"]


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_the_files_are_what_the_functions_say(report, tmp_path):
    folder = tmp_path / "a" / "b"
    write_gate_pages(report, folder)
    assert sorted(os.listdir(folder)) == NAMES
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in NAMES}
    assert texts == {
        "gate.md": markdown(report),
        "junit.xml": junit(report),
        "code-quality.json": code_quality(report),
        "gate.json": gate_json(report),
    }


def test_a_second_report_replaces_the_first_and_nothing_else(report, tmp_path):
    folder = tmp_path / "out"
    write_gate_pages(report, folder)
    (folder / "notes.txt").write_text("mine")
    write_gate_pages(replace(report, rows=(PASSES,)), folder)
    assert sorted(os.listdir(folder)) == sorted([*NAMES, "notes.txt"])
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "gate.json").read_text())["outcome"] == "pass"
    assert (folder / "gate.md").read_text().splitlines()[1] == "## The gate passes"


def test_a_file_in_the_folders_place_is_one_line(report, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError) as caught:
        write_gate_pages(report, tmp_path / "out")
    assert str(caught.value) == f"{tmp_path / 'out'}: cannot be written (File exists); choose another folder"


def test_a_folder_in_a_files_place_is_one_line_and_leaves_nothing(report, tmp_path):
    (tmp_path / "junit.xml").mkdir()
    with pytest.raises(InputError) as caught:
        write_gate_pages(report, tmp_path)
    assert str(caught.value) == f"{tmp_path / 'junit.xml'}: cannot be written (Is a directory); choose another folder"
    assert os.listdir(tmp_path) == ["junit.xml"]


def test_a_full_disk_leaves_the_files_as_they_were(report, tmp_path, monkeypatch):
    write_gate_pages(report, tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    written, real = [], Path.write_text

    def full(self, *arguments, **options):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        written.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError) as caught:
        write_gate_pages(replace(report, rows=(PASSES,)), tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be written (No space left on device); choose another folder"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_the_data_is_the_report(report):
    found = json.loads(gate_json(report), parse_constant=refuse)
    assert (found.pop("schema"), found.pop("outcome")) == (1, "fail")
    assert [row.pop("outcome") for row in found["rows"]] == ["pass", "fail", "inconclusive", "fail"]
    assert found == json.loads(json.dumps(asdict(report)))


def test_numbers_that_are_not_finite_are_strings(report):
    interval = Interval(value=float("nan"), low=float("-inf"), high=float("inf"))
    row = replace(UNDECIDED, checks=(replace(UNDECIDED.checks[0], found=interval),))
    found = json.loads(gate_json(replace(report, rows=(row,))), parse_constant=refuse)
    assert found["rows"][0]["checks"][0]["found"] == {"value": "NaN", "low": "-Infinity", "high": "Infinity"}


@given(REPORTS)
def test_any_report_is_strict_json(report):
    found = json.loads(gate_json(report).encode(), parse_constant=refuse)
    assert found["outcome"] == report.outcome
    assert [row["outcome"] for row in found["rows"]] == [row.outcome for row in report.rows]
