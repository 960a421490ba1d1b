from __future__ import annotations

import math

import pytest

from qexport.record import Published
from qexport.report import words
from qexport.report.table import COLUMN, build_table, gaps
from qexport.stats import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0083, "0.008300"),
        (9.99996, "10.00"),
        (130.97, "131.0"),
        (1234.5, "1,234"),
        (41_200_000.0, "41,200,000"),
        (0.0, "0.000"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
    ],
)
def test_four_significant_digits(value, text):
    assert words.significant(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("weight_bytes", 130.97e6, "130.97"), ("latency_s", 0.0083, "8.3"), ("sentence_perplexity", 261.66, "261.66")],
)
def test_published_figures_keep_their_digits(metric, value, text):
    assert words.published(Published(value=value, source="s"), COLUMN[metric]) == text


def test_the_interval_decides_whether_there_is_a_difference():
    assert words.no_difference(Interval(value=1.001, low=0.999, high=1.003))
    assert not words.no_difference(Interval(value=1.001, low=1.0004, high=1.003))
    assert not words.no_difference(Interval(value=0.99, low=0.98, high=0.999))


def test_highlights_follow_from_the_figures(records):
    smallest, fastest, least = words.highlights(build_table(records))
    assert smallest.rows == ("bnb-fp4",)
    assert smallest.figure == "1.215 MB"
    assert fastest.rows == ("int8-static (all)",)
    assert set(least.rows) == {"int8-dynamic (attention)", "bnb-int8"}
    assert least.figure == "no measurable difference"
    assert "most lost by bnb-fp4" in least.detail


def test_ties_are_named_together(make):
    smallest, *_ = words.highlights(build_table(make()))
    assert smallest.rows == ("bnb-fp4", "bnb-nf4")


def test_nothing_is_claimed_that_is_not_measurable(make):
    kept = [r for r in make() if r.row in {"fp32", "int8-static (all)"}]
    same = [r.model_copy(update={"samples": f.samples}) for f, r in zip(kept[:8], kept[8:], strict=True)]
    smallest, fastest, least = words.highlights(build_table([*kept[:8], *same]))
    assert "no row is smaller" in smallest.detail
    assert "no measurable difference" in fastest.detail
    assert least.figure == "no measurable difference"


def test_all_skipped(make):
    skip = {row.row: "no memory" for row in make()}
    table = build_table(make(skip=skip))
    assert words.highlights(table) == ()
    assert words.paragraph(table) == "None of the 8 rows of reference could be measured."
    assert [words.gap_sentence(gap, table) for gap in gaps(table)] == ["all rows: no memory"]


def test_gap_sentences_name_what_is_missing(records):
    table = build_table(records)
    assert {words.gap_sentence(gap, table) for gap in gaps(table)} == {
        "every other row, peak device memory: no CUDA device was used",
        "bnb-nf4: bitsandbytes is not installed",
    }


def test_conditions_tell_which_rows_ran_where(records):
    found = dict(words.conditions(build_table(records)))
    assert "torch 2.13.0 for bnb-int8 and bnb-fp4" in found["Runtime"]
    assert "64 sequences" in found["Text for perplexity"]
    assert "60 sentences, 5 rounds" in found["Text for latency per sentence"]
    assert "AMD EPYC 7B13" in found["Machine"]
