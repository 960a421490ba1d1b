from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from qexport.core.errors import InputError, NotComparable
from qexport.core.record import Conditions, Measurement, read_records, write_records
from qexport.report.evidence import Evidence, EvidenceFigure, find_evidence
from qexport.report.table import build_table

REPORT = Path(__file__).parent.parent.parent / "docs" / "results" / "reference"
NAMES = ("value", "low", "high")


@pytest.fixture(scope="module")
def published():
    return read_records(REPORT / "records.jsonl")


def perplexity(row, recipe, *, sha, nll=(10.0, 20.0), **changes):
    made = Measurement(
        run="a",
        row=row,
        model="m",
        recipe=recipe,
        artifact_sha256=sha,
        metric="perplexity",
        columns=("nll_nats", "tokens"),
        samples=tuple(zip(nll, (10.0, 10.0), strict=True)),
        conditions=Conditions(text="stories", text_sha256="ab", machine="a CPU", runtime="onnxruntime 1"),
    )
    return Measurement.model_validate(made.model_copy(update=changes).model_dump(by_alias=True))


FP32 = perplexity("fp32", "fp32", sha="f32")
INT8 = perplexity("int8", "int8-static", sha="i8", nll=(11.0, 20.0))


@pytest.fixture
def found(tmp_path):
    """What the records given say of ``int8``."""

    def read(*records, sha="i8"):
        write_records(tmp_path / "records.jsonl", records)
        return find_evidence(tmp_path, sha)

    return read


def test_the_figures_are_those_of_the_report(published):
    rows = {row.name: row.figure("perplexity") for row in build_table(published).rows}
    of = {record.row: record for record in published if record.metric == "perplexity"}
    for name in ("int8-static (all)", "w4a16-rtn (all)", "bnb-nf4"):
        seen = find_evidence(REPORT, of[name].artifact_sha256)
        for ours, theirs in ((seen.perplexity, rows[name].interval), (seen.ratio, rows[name].ratio)):
            assert [getattr(ours, part) for part in NAMES] == [getattr(theirs, part) for part in NAMES]
        assert (seen.row, seen.baseline) == (name, "fp32")
        assert (seen.windows, seen.tokens) == (rows[name].sequences, rows[name].tokens)
        assert seen.text_sha256 == of[name].conditions.text_sha256
        assert Evidence.model_validate_json(seen.model_dump_json()) == seen


def test_the_baseline_has_no_ratio_to_itself(published):
    fp32 = next(record for record in published if record.row == "fp32")
    assert find_evidence(REPORT / "records.jsonl", fp32.artifact_sha256).ratio is None


def test_by_hand(found):
    """exp(31 / 20) for the artifact, and e^(1 / 20) times as much as fp32."""
    seen = found(FP32, INT8)
    assert math.isclose(seen.perplexity.value, math.exp(31 / 20))
    assert math.isclose(seen.ratio.value, math.exp(1 / 20))
    assert (seen.windows, seen.tokens, seen.text, seen.machine) == (2, 20, "stories", "a CPU")


def test_a_broken_models_figure_survives_json(found):
    broken = found(FP32, INT8).model_copy(update={"perplexity": EvidenceFigure(value=math.inf, low=1.0, high=math.inf)})
    assert Evidence.model_validate_json(broken.model_dump_json()) == broken


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([FP32], "no record of this artifact (i8), only of fp32"),
        ([INT8], "no fp32 row with a perplexity to compare int8 with"),
        ([perplexity("fp32", "fp32", sha="f32", samples=(), columns=(), skipped="slow"), INT8], "no fp32 row"),
        ([FP32, perplexity("int8", "int8-static", sha="i8", samples=(), columns=(), skipped="no VNNI")], "(no VNNI)"),
        (
            [FP32, perplexity("int8", "int8-static", sha="i8", metric="disk_bytes", columns=("disk_bytes", "x"))],
            "int8 has no perplexity",
        ),
        (
            [FP32.model_copy(update={"stand_in": True}), INT8.model_copy(update={"stand_in": True})],
            "int8 is of a stand-in with random weights",
        ),
        ([FP32, INT8, INT8.model_copy(update={"run": "b"})], "int8 was measured in 2 runs (a, b)"),
    ],
)
def test_records_that_say_nothing_of_the_artifact(found, tmp_path, records, line):
    with pytest.raises(InputError, match=re.escape(line)) as error:
        found(*records)
    assert str(error.value).startswith(f"{tmp_path}: ")


def test_a_baseline_of_another_text_is_not_compared_with(found):
    other = FP32.conditions.model_copy(update={"text_sha256": "cd"})
    with pytest.raises(NotComparable, match="text_sha256 differs"):
        found(FP32.model_copy(update={"conditions": other}), INT8)


def test_no_records_at_all(tmp_path):
    with pytest.raises(InputError, match=r"not a report, it has no records\.jsonl"):
        find_evidence(tmp_path, "i8")
