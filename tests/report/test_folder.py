from __future__ import annotations

import hashlib

import pytest

from qexport.core.errors import InputError, NotComparable
from qexport.core.record import read_records
from qexport.report import charts
from qexport.report.folder import check_report_folder, write_report

DRAWN = ("latency", "memory", "perplexity", "perplexity-speed", "published", "quality", "speed")
FILES = sorted(
    [*(f"{n}.{kind}" for n in DRAWN for kind in ("png", "svg")), "records.jsonl", "report.html", "report.md"]
)


@pytest.fixture(scope="module")
def few(records):
    """Three rows, which make a report in less time."""
    return [record for record in records if record.row in {"fp32", "int8-static (all)", "bnb-fp4"}]


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_a_report_is_whole_readable_and_the_same_every_time(few, tmp_path):
    write_report(few, tmp_path / "a", title="t")
    write_report(few, tmp_path / "b", title="t")
    assert sorted(digests(tmp_path / "a")) == FILES
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert read_records(tmp_path / "a" / "records.jsonl") == few
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_report_is_replaced_only_when_asked(few, tmp_path):
    folder = tmp_path / "report"
    write_report(few, folder, title="first")
    with pytest.raises(InputError, match="--overwrite"):
        write_report(few, folder, title="second")
    assert "# first" in (folder / "report.md").read_text()
    write_report(few, folder, title="second", overwrite=True)
    assert "# second" in (folder / "report.md").read_text()


def test_other_folders_are_left_alone(records, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a report"):
        write_report(records, tmp_path / "mine", title="t", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        check_report_folder(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    check_report_folder(tmp_path / "empty", overwrite=False)


def test_nothing_is_left_of_a_report_that_failed(records, tmp_path, monkeypatch):
    unlike = [record.model_copy(update={"model": "other"}) for record in records[:1]]
    with pytest.raises(NotComparable):
        write_report([*records, *unlike], tmp_path / "report", title="t")
    assert not list(tmp_path.iterdir())

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(charts, "svg", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(records, tmp_path / "report", title="t")
    assert not list(tmp_path.iterdir())


def test_rows_that_were_all_skipped_still_make_a_report(make, tmp_path):
    write_report(make(skip={record.row: "no memory" for record in make()}), tmp_path / "report", title="t")
    assert list(digests(tmp_path / "report")) == ["records.jsonl", "report.html", "report.md"]
    assert "None of the 8 rows" in (tmp_path / "report" / "report.md").read_text()
