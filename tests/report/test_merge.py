from __future__ import annotations

import pytest

from qexport.core.errors import InputError
from qexport.core.record import write_records
from qexport.report.merge import merge_runs
from qexport.report.table import build_table


def written(folder, records):
    folder.mkdir(parents=True)
    write_records(folder / "records.jsonl", records)
    return folder


def test_reports_and_files_come_together_in_order(make, tmp_path):
    one = written(tmp_path / "one", make(run="2026-11-22T07:35:55Z"))
    two = tmp_path / "two.jsonl"
    write_records(two, make(run="2026-11-23T07:35:55Z"))
    records = merge_runs([two, one])
    assert list(dict.fromkeys(record.run for record in records)) == ["2026-11-23T07:35:55Z", "2026-11-22T07:35:55Z"]
    assert len(build_table(records).runs) == 2


def test_a_report_of_several_runs_is_a_source_like_any_other(two_runs, make, tmp_path):
    both = written(tmp_path / "both", two_runs)
    third = written(tmp_path / "third", make(run="2026-11-24T07:35:55Z"))
    assert len(build_table(merge_runs([both, third])).runs) == 3


def test_runs_without_a_name_get_that_of_their_folder(make, tmp_path):
    laptop, server = (written(tmp_path / name, make()) for name in ("laptop", "server"))
    again = written(tmp_path / "elsewhere" / "laptop", make())
    names = dict.fromkeys(record.run for record in merge_runs([laptop, server / "records.jsonl", again]))
    assert list(names) == ["laptop", "server", str(again)]


@pytest.mark.parametrize("name", ["same", "link"])
def test_one_file_twice_is_refused(make, tmp_path, name):
    same = written(tmp_path / "same", make())
    (tmp_path / "link").symlink_to(same)
    with pytest.raises(InputError, match="named twice"):
        merge_runs([same, tmp_path / name / "records.jsonl"])


def test_one_measurement_twice_is_refused(make, tmp_path):
    records = make(run="2026-11-22T07:35:55Z")
    with pytest.raises(InputError, match=r"disk_bytes of fp32 in the run 2026-11-22T07:35:55Z is in .*one.* too"):
        merge_runs([written(tmp_path / "one", records), written(tmp_path / "two", records[:1])])
    with pytest.raises(InputError, match="is twice"):
        merge_runs([written(tmp_path / "three", [*records, records[0]])])


def test_nothing_to_merge_is_said(tmp_path):
    with pytest.raises(InputError, match="no runs were named"):
        merge_runs([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: not a report, it has no records\.jsonl"):
        merge_runs([tmp_path / "empty"])
    with pytest.raises(InputError, match="cannot be read"):
        merge_runs([tmp_path / "gone"])
    (tmp_path / "empty" / "records.jsonl").write_text("")
    with pytest.raises(InputError, match="has no records"):
        merge_runs([tmp_path / "empty"])
