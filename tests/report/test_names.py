"""A report of records whose names hold what no chart, page or terminal can show."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from qexport.core.record import Measurement, read_records, write_records
from qexport.report.folder import write_report
from qexport.report.table import build_table
from qexport.report.terminal import render_table

CONTROLS = "\x00\x01\x07\x08\x1b[31m\x7f\x9b\u202e\u2066\ufffe\udce9"
SHOWN = r"\x00\x01\x07\x08\x1b[31m\x7f\x9b\u202e\u2066\ufffe\xe9"
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@pytest.fixture
def spoiled(make):
    """All strings of all records, each with controls in it."""

    def spoil(value):
        match value:
            case dict():
                return {name: spoil(part) for name, part in value.items()}
            case list() | tuple():
                return [spoil(part) for part in value]
            case str():
                return value + CONTROLS
            case _:
                return value

    records = []
    for record in make(published=True, everything=True, skip={"bnb-fp4": "it is away"}):
        values = record.model_dump(mode="json", by_alias=True)
        kept = {name: values[name] for name in ("metric", "recipe", "columns", "schema")}
        whole = spoil(values) | kept
        whole["conditions"] |= {name: values["conditions"][name] for name in ("provider", "text_sha256")}
        records.append(Measurement.model_validate(whole))
    return records


def test_a_report_is_written_and_shows_them(spoiled, tmp_path):
    write_report(spoiled, tmp_path / "report", title=f"A title{CONTROLS}")
    files = sorted((tmp_path / "report").iterdir())
    assert sum(file.suffix == ".png" for file in files) > 4
    for file in files:
        if file.suffix in {".svg", ".md"}:
            assert not UNFIT.search(file.read_text(encoding="utf-8")), file.name
    page, *_ = (tmp_path / "report" / "report.html").read_text(encoding="utf-8").partition('<script type="application')
    assert not UNFIT.search(page)
    assert f"A title{SHOWN}" in page
    assert f"fp32{SHOWN}" in page
    assert read_records(tmp_path / "report" / "records.jsonl") == spoiled


def test_a_terminal_gets_no_control_character(spoiled):
    for width in (80, 200):
        console = Console(file=io.StringIO(), width=width)
        console.print(render_table(build_table(spoiled), width=width))
        text = console.file.getvalue()
        assert not UNFIT.search(text)
        assert "\\x1b" in text


def test_records_of_a_file_are_made_harmless_too(make, tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, make()[:1])
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"row": "fp32\x1b[31m", "model": "m\u202e"}))
    (record,) = read_records(path)
    assert (record.row, record.model) == (r"fp32\x1b[31m", r"m\u202e")


def test_an_answer_keeps_its_lines():
    facts = {"response": "one\n\ttwo\x1b"}
    record = Measurement(row="a\nb", model="m", recipe="fp32", metric="disk_bytes", skipped="no\nway\r", facts=facts)
    assert (record.row, record.skipped) == (r"a\nb", "no\nway\\r")
    assert record.facts["response"] == "one\n\ttwo\\x1b"
