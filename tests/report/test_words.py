from __future__ import annotations

import math

import pytest

from qexport.core.record import OTHERS, Published
from qexport.core.stats import Interval, McNemar
from qexport.report import facts, numbers, words
from qexport.report.markdown import markdown
from qexport.report.table import COLUMN, build_table, gaps


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
    assert numbers.significant(value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [("weight_bytes", 130.97e6, "130.97"), ("latency_s", 0.0083, "8.3"), ("sentence_perplexity", 261.66, "261.66")],
)
def test_published_figures_keep_their_digits(metric, value, text):
    assert numbers.published(Published(value=value, source="s"), COLUMN[metric]) == text


def test_the_interval_decides_whether_there_is_a_difference():
    assert numbers.no_difference(Interval(value=1.001, low=0.999, high=1.003))
    assert not numbers.no_difference(Interval(value=1.001, low=1.0004, high=1.003))
    assert not numbers.no_difference(Interval(value=0.99, low=0.98, high=0.999))


def test_highlights_follow_from_the_figures(table):
    smallest, fastest, least = words.highlights(table)
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
    assert [facts.gap_sentence(gap, table) for gap in gaps(table)] == ["all rows: no memory"]


def test_gap_sentences_name_what_is_missing(table):
    assert {facts.gap_sentence(gap, table) for gap in gaps(table)} == {
        "every other row, peak device memory: no CUDA device was used",
        "bnb-nf4: bitsandbytes is not installed",
    }


def test_fastest_is_the_highest_rate_where_only_rates_are_known(everything):
    kept = [record for record in everything if record.metric in {"weight_bytes", "tokens_per_s"}]
    _, fastest = words.highlights(build_table(kept))
    assert fastest.rows == ("int8-static (all)",)
    assert "of fp32's rate (over rounds" in fastest.detail


def test_ratios_name_their_baseline(make):
    records = [r.model_copy(update={"recipe": "fp16", "row": "fp16"}) if r.row == "fp32" else r for r in make()]
    table = build_table(records)
    assert numbers.against(table) == "fp16"
    assert facts.coverage(table).endswith("compared with fp16.")
    assert "fp32" not in words.paragraph(table)


def test_warnings_name_row_and_metric(full):
    assert words.warnings(full) == (
        "fp32: unstable in load (rounds differ by 32 %)",
        "torch-fp32: unstable in load (rounds differ by 31 %)",
    )


def test_a_busy_machine_is_said_once(full):
    assert words.on_times(full) == words.UNSTABLE
    records = [record.model_copy(update={"facts": record.facts | {OTHERS: 0.37}}) for record in full.records]
    busy = build_table(records)
    assert words.on_times(busy) == (
        "The machine was busy: other processes took 37 % of its processors while times were measured, and 2 of "
        f"{len(busy.rows)} rows have times whose rounds lie more than 10 % apart. Measure again on a quiet machine before "
        "you rely on times."
    )
    assert words.warnings(busy) == ()
    page = markdown(busy, title="Busy", charts=())
    assert page.count("other processes took") == 1
    assert "unstable" not in page
    quiet = [record.model_copy(update={"facts": record.facts | {OTHERS: 0.01}}) for record in full.records]
    assert words.warnings(build_table(quiet)) == words.warnings(full)


def test_a_table_without_unstable_times_has_no_warning(make):
    assert words.on_times(build_table([r for r in make() if r.metric == "perplexity"])) == ""


def test_a_stand_in_claims_no_quality(make):
    table = build_table(make(stand_in=True))
    assert facts.stand_ins(table)[0].startswith("reference is a stand-in: the architecture with random weights.")
    assert [highlight.question for highlight in words.highlights(table)] == ["Smallest weights", "Fastest"]
    assert facts.stand_ins(build_table(make())) == ()


def test_runs_are_told_apart(merged):
    table = merged
    (mark, first), (_, second) = facts.runs(table)
    assert mark == "A"
    assert "2026-11-22T07:35:55Z · reference · AMD EPYC 7B13 · cpu · 2 threads" in first
    assert "Intel Xeon Platinum 8488C · cpu · 8 threads" in second
    assert facts.differences(table) == (
        "The runs differ in machine, instruction set and threads. Ratios stay within a run."
    )
    assert {highlight.question[-3:] for highlight in words.highlights(table)} == {", A", ", B"}


def test_answers_come_with_question_and_expectation(full):
    found = facts.answers(full)
    assert found[:2] == (("Prompt", "What is the capital of France?"), ("Expected", "Paris"))
    assert ("fp32", "right in 5 of 5: It is Paris, of course.") in found


def test_only_what_is_shown_is_defined(records, everything):
    basic, full = (dict(words.definitions(build_table(found))) for found in (records, everything))
    assert "Whole session" in full
    assert "Whole session" not in basic
    assert {"Ratio", "Units"} <= set(basic)


def test_conditions_tell_which_rows_ran_where(table):
    found = dict(facts.conditions(table))
    assert "torch 2.13.0 for bnb-int8 and bnb-fp4" in found["Runtime"]
    assert "64 sequences" in found["Text for perplexity"]
    assert "60 sequences, 5 rounds" in found["Text for latency per sentence"]
    assert "AMD EPYC 7B13" in found["Machine"]


def test_answers_are_told_where_none_was_expected(everything):
    kept = [record for record in everything if record.metric != "response_correct"]
    found = facts.answers(build_table(kept))
    assert found[:2] == (("Prompt", "What is the capital of France?"), ("fp32", "It is Paris, of course."))


def test_warnings_of_sessions_are_told_once_with_their_rows(everything, table):
    few = build_table([record for record in everything if record.row in {"fp32", "fp16"}])
    assert facts.said(few) == (
        ("all rows", "a buffer was copied"),
        ("all rows", "a setting is going away"),
    )
    assert facts.said(table) == ()


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1.0"), (0.34, "0.34"), (0.03857, "0.039"), (0.001, "0.0010"), (0.0009, "< 0.001"), (0.0, "< 0.001")],
)
def test_small_chances_are_told_as_such(p, text):
    assert numbers.chance(McNemar(lost=1, gained=2, p=p)) == text
    assert numbers.changed(McNemar(lost=1234, gained=2, p=p)) == f"p {text} (1,234 lost, 2 gained)"


def test_what_was_asked_of_tasks_is_told(full):
    found = dict(facts.conditions(full))
    arc = found["Questions of ARC-Challenge and ARC-Challenge, normalized"]
    assert arc.startswith("400 questions, test split, 0-shot, task version 1.0, questions and prompts sha256 ")
    assert "400 questions, train split, 5-shot" in found["Questions of GSM8K, strict and GSM8K, flexible"]


def test_other_splits_and_cut_contexts_are_told(full, table):
    assert facts.task_notes(full) == (
        "HellaSwag and PIQA were scored on their validation split.",
        "GSM8K was scored on its train split.",
        "12 contexts of ARC-Challenge were cut from the left: longer than the model's context.",
    )
    assert facts.task_notes(table) == ()


def test_a_split_that_no_file_names_is_not_told(everything):
    kept = [r for r in everything if r.metric in {"piqa_acc", "mmlu_acc"} and r.row in {"fp32", "nf4"}]
    table = build_table([r.model_copy(update={"facts": r.facts | {"split": ""}}) for r in kept])
    assert facts.task_notes(table) == ()
    found = dict(facts.conditions(table))
    assert found["Questions of PIQA"].startswith("400 questions, 0-shot, task version 1.0, ")
    assert found["Questions of MMLU"].startswith("400 questions, 5-shot, task version 1.0, ")


def test_a_context_cut_for_one_row_is_told_of_that_row(everything):
    kept = [r for r in everything if r.metric == "mmlu_acc" and r.row in {"fp32", "fp16", "nf4"}]
    cut = [r.model_copy(update={"facts": r.facts | {"truncated": 1 if r.row == "nf4" else 0}}) for r in kept]
    assert facts.task_notes(build_table(cut)) == (
        "1 context of MMLU was cut from the left for nf4: longer than the model's context.",
    )


def test_what_is_skipped_has_no_notes(everything):
    skipped = {"samples": (), "columns": (), "facts": {}, "skipped": "no"}
    kept = [r for r in everything if r.metric == "arc_challenge_acc"]
    (alone, *others) = kept
    table = build_table([alone, *(r.model_copy(update=skipped) for r in others)])
    assert facts.task_notes(table) == (
        "12 contexts of ARC-Challenge were cut from the left: longer than the model's context.",
    )
    assert facts.gap_sentence(gaps(table)[0], table).endswith("no")


def test_names_of_tasks_keep_their_letters(everything):
    kept = [r for r in everything if r.row in {"fp32", "nf4"} and r.metric in {"mmlu_acc", "perplexity"}]
    gone = [r for r in kept if (r.row, r.metric) != ("nf4", "mmlu_acc")]
    table = build_table(gone)
    assert [facts.gap_sentence(gap, table) for gap in gaps(table)] == ["nf4, MMLU: no record"]


def test_terms_of_tasks_are_explained_where_there_are_tasks(records, everything):
    basic, full = (dict(words.definitions(build_table(found))) for found in (records, everything))
    assert "from right in the baseline to wrong" in full["p"]
    assert "at least as uneven if the row were neither better nor worse" in full["p"]
    assert "bootstrap interval over questions" in full["Accuracy"]
    assert not {"p", "Accuracy"} & set(basic)


def test_the_legend_of_runs_names_digests_of_tokens_only(everything):
    again = [r.model_copy(update={"run": "b"}) for r in everything]
    for _, text in facts.runs(build_table([*everything, *again])):
        assert text.endswith("token ids sha256 3c3c3c3c, 71717171, 9f9f9f9f")
