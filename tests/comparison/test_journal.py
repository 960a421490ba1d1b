from __future__ import annotations

import pytest

from qexport.comparison.journal import Expected, Journal, answers_path, check_journal
from qexport.core import cpu
from qexport.core.errors import InputError, NotComparable
from qexport.core.record import Conditions, Measurement, read_records, write_records
from qexport.core.version import VERSION

EXPECTED = Expected(
    model="tiny", stand_in=False, provider="cpu", threads=2, texts={"perplexity": "aa", "latency_s": "aa"}
)
CONDITIONS = Conditions(
    machine=cpu.cpu_name(), provider="cpu", threads=2, commit=VERSION, text_sha256="aa", runtime="onnxruntime 1"
)


def record(metric="perplexity", row="fp32", **changes) -> Measurement:
    values = {
        "run": "2026-11-22T07:35:55Z",
        "row": row,
        "model": "tiny",
        "recipe": row,
        "metric": metric,
        "artifact_sha256": "a" * 64,
        "columns": ("nll_nats", "tokens"),
        "samples": ((1.0, 2.0),),
        "conditions": CONDITIONS,
    }
    return Measurement(**values | changes)


def skipped(metric="perplexity", row="fp32") -> Measurement:
    return record(metric, row, columns=(), samples=(), skipped="the GPU went away")


def test_what_came_before_an_end_is_there_afterwards(tmp_path):
    first = Journal(tmp_path / "report", resume=False)
    first.add([record()])
    first.add([record("latency_s"), skipped("latency_s", "int8")])
    second = Journal(tmp_path / "report", resume=True)
    assert second.records == first.records
    assert second.run == "2026-11-22T07:35:55Z"
    assert second.has("fp32", ["perplexity", "latency_s"])
    assert not second.has("fp32", ["perplexity", "weight_bytes"])
    assert not second.has("int8", ["latency_s"])  # skipped, so tried again
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_starting_anew_forgets_only_where_told(tmp_path):
    Journal(tmp_path / "report", resume=False).add([record()])
    with pytest.raises(InputError, match=r"cut short; go on with --resume, or start anew with --overwrite"):
        check_journal(tmp_path / "report", resume=False, overwrite=False)
    for choice in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        check_journal(tmp_path / "report", **choice)
    check_journal(tmp_path / "other", resume=False, overwrite=False)
    assert Journal(tmp_path / "report", resume=False).records == []
    assert Journal(tmp_path / "report", resume=True).records == []


def test_a_finished_report_is_gone_on_from_and_the_newest_figure_counts(tmp_path):
    (tmp_path / "report").mkdir()
    write_records(tmp_path / "report" / "records.jsonl", [skipped(), record("latency_s")])
    journal = Journal(tmp_path / "report", resume=True)
    assert not journal.has("fp32", ["perplexity"])
    journal.add([record()])
    again = Journal(tmp_path / "report", resume=True)
    assert again.has("fp32", ["perplexity"])
    assert len(again.records) == 2
    assert len(read_records(tmp_path / "report" / "records.jsonl")) == 2


def test_a_figure_skipped_beside_others_is_not_tried_again(tmp_path):
    """A session on a CPU never has device memory."""
    journal = Journal(tmp_path / "report", resume=False)
    journal.add([record("load_s"), skipped("device_increase_bytes")])
    assert journal.has("fp32", ["load_s", "device_increase_bytes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "other"}, "the model was other, and is tiny"),
        ({"stand_in": True}, "stand-in was True, and is False"),
        ({"conditions": CONDITIONS.model_copy(update={"threads": 7})}, "threads was 7, and is 2"),
        ({"conditions": CONDITIONS.model_copy(update={"machine": "Z80"})}, "the machine was Z80"),
        ({"conditions": CONDITIONS.model_copy(update={"provider": "cuda"})}, "the provider was cuda, and is cpu"),
        ({"conditions": CONDITIONS.model_copy(update={"text_sha256": "bb"})}, "the tokens it is fed was bb"),
        ({"conditions": CONDITIONS.model_copy(update={"commit": "0.0.1"})}, "qexport was 0.0.1"),
    ],
)
def test_unlike_conditions_are_not_gone_on_from(tmp_path, changes, message):
    journal = Journal(tmp_path / "report", resume=False)
    journal.add([record()])
    journal.require_like(EXPECTED)
    journal.add([record("latency_s", **changes)])
    with pytest.raises(NotComparable, match=message):
        journal.require_like(EXPECTED)


def test_another_artifact_under_the_same_name_is_noticed(tmp_path):
    journal = Journal(tmp_path / "report", resume=False)
    journal.add([record(), skipped("latency_s").model_copy(update={"artifact_sha256": ""})])
    journal.require_same_artifact("fp32", "a" * 64)
    journal.require_same_artifact("int8", "b" * 64)
    with pytest.raises(NotComparable, match="not the one that was measured"):
        journal.require_same_artifact("fp32", "b" * 64)


def test_a_last_line_that_was_cut_is_measured_again(tmp_path):
    """A kill or a full disk cut it."""
    journal = Journal(tmp_path / "report", resume=False)
    journal.add([record()])
    path = tmp_path / "report.partial.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:-20])
    assert Journal(tmp_path / "report", resume=True).records == journal.records
    assert path.read_text() == whole
    path.write_text(whole[:-20])
    assert Journal(tmp_path / "report", resume=True).records == []


def test_half_a_line_in_the_middle_is_one_clear_line(tmp_path):
    journal = Journal(tmp_path / "report", resume=False)
    journal.add([record()])
    path = tmp_path / "report.partial.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-20] + "\n" + whole)
    with pytest.raises(InputError, match=r"report\.partial\.jsonl:1: not a qexport record"):
        Journal(tmp_path / "report", resume=True)


def test_answers_are_kept_beside_the_report_as_its_records_are(tmp_path):
    report = tmp_path / "report"
    journal = Journal(report, resume=False)
    path = journal.answers("a" * 64)
    assert path.parent == answers_path(report) == tmp_path / "report.answers"
    assert journal.answers("b" * 64) != path
    check_journal(report, resume=False, overwrite=False)  # where nothing was answered yet

    path.parent.mkdir()
    path.write_text("{}\n")
    with pytest.raises(
        InputError, match=r"report\.answers: .*cut short; go on with --resume, or start anew with --over"
    ):
        check_journal(report, resume=False, overwrite=False)
    check_journal(report, resume=True, overwrite=False)
    check_journal(report, resume=False, overwrite=True)
    assert Journal(report, resume=True).answers("a" * 64).read_text() == "{}\n"
    assert not Journal(report, resume=False).answers("a" * 64).exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_leaves_nothing(tmp_path):
    journal = Journal(tmp_path / "report", resume=False)
    journal.add([record()])
    path = journal.answers("a" * 64)
    path.parent.mkdir()
    path.write_text("{}\n")
    (tmp_path / "reports.answers").mkdir()  # another report's
    journal.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["reports.answers"]
    journal.close()
