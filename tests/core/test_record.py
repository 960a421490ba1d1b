from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from qexport.core.errors import InputError
from qexport.core.record import Conditions, Measurement, Published, read_records, write_records

RECORD = Measurement(
    row="int8-static (attention)",
    model="tiny",
    recipe="int8-static",
    selector="--nodes attention",
    metric="perplexity",
    columns=("nll_nats", "tokens"),
    samples=((12.5, 10.0), (3.25, 4.0)),
    facts={"integer_matmuls_run": 8},
    conditions=Conditions(machine="A CPU", cores=2, threads=2, text="stories\u2028of foxes"),
    published=Published(value=272.28, source="a table"),
)


def test_records_are_read_as_they_were_written(tmp_path):
    skipped = Measurement(row="bnb-nf4", model="tiny", recipe="bnb-nf4", metric="latency_s", skipped="no CUDA here")
    path = tmp_path / "records.jsonl"
    write_records(path, [RECORD, skipped])
    assert read_records(path) == [RECORD, skipped]
    assert path.read_text().count("\n") == 2
    assert os.listdir(tmp_path) == ["records.jsonl"]


@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=5))
def test_samples_keep_every_bit(samples):
    """Also those of a model so broken that it scores NaN or infinity."""
    record = RECORD.model_copy(update={"samples": tuple(samples)})
    again = Measurement.model_validate_json(record.model_dump_json(by_alias=True))
    for row, other in zip(record.samples, again.samples, strict=True):
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(row, other, strict=True))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [RECORD])

    def records():
        yield RECORD
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_records(path, records())
    assert read_records(path) == [RECORD]
    assert os.listdir(tmp_path) == ["records.jsonl"]


def test_no_records(tmp_path):
    write_records(tmp_path / "records.jsonl", [])
    assert read_records(tmp_path / "records.jsonl") == []


@pytest.mark.parametrize(
    "changed",
    [
        {"samples": ()},
        {"skipped": "no reason to"},
        {"samples": ((1.0,),)},
        {"warmups": ((1.0, 2.0, 3.0),)},
        {"mean": 3.0},
        {"schema": 3},
    ],
    ids=["neither", "both", "too-few-columns", "too-many-columns", "unknown-field", "unknown-schema"],
)
def test_a_record_that_contradicts_itself_is_none(tmp_path, changed):
    values = RECORD.model_dump(by_alias=True) | changed
    with pytest.raises(ValidationError):
        Measurement.model_validate(values)


@pytest.mark.parametrize("line", ["", "{}", "{", "null", '{"schema": 2}'])
def test_the_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "records.jsonl"
    path.write_text(RECORD.model_dump_json(by_alias=True) + "\n" + line + "\n" + line + "x\n")
    with pytest.raises(InputError, match=r"records\.jsonl:2: not a qexport record") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="byte 0"):
        read_records(tmp_path / "bytes.jsonl")


@pytest.mark.parametrize(
    ("name", "digest", "metrics"),
    [
        (
            "records-1.jsonl",
            "8c0d4a9ccdc683531e80a63c2f93f5facadf885f46ab0421d1ecc80524f582cb",
            ["weight_bytes", "peak_rss_bytes", "peak_device_bytes", "latency_s", "perplexity"],
        ),
        (
            "records-2.jsonl",
            "4447e4ad5e5bdf6a895cc40535db47f02b257b01b4d26fa062742222ee587bf7",
            ["weight_bytes", "token_latency_s", "tokens_per_s", "perplexity"],
        ),
    ],
)
def test_records_of_every_version_are_read_for_good(name, digest, metrics):
    """These files were written by qexport when the version was new. They, and this test, never change."""
    path = Path(__file__).parent.parent / "golden" / name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    records = read_records(path)
    assert [record.metric for record in records] == metrics
    for record, line in zip(records, path.read_text().splitlines(), strict=True):
        assert holds(json.loads(record.model_dump_json(by_alias=True)), json.loads(line))


def holds(read, written) -> bool:
    """Whether everything that was written was read; a later version may have more to say."""
    if isinstance(written, dict):
        return all(key in read and holds(read[key], value) for key, value in written.items())
    return read == written
