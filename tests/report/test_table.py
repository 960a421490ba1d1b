from __future__ import annotations

import numpy as np
import pytest

from qexport.core.errors import InputError, NotComparable
from qexport.core.record import Conditions, Measurement, Published
from qexport.core.stats import McNemar
from qexport.report.figures import (
    Accuracy,
    Answer,
    Count,
    Estimate,
    Latency,
    NotMeasured,
    Repeated,
    Size,
    Skipped,
    plain,
    plain_ratio,
    unstable,
)
from qexport.report.table import COLUMN, COLUMNS, Gap, build_table, gaps
from tests.report.conftest import with_all_resamples

HERE = Conditions(machine="one", threads=2, provider="cpu", text_sha256="ab")


def record(row, metric, samples, columns=None, conditions=HERE, **more):
    return Measurement(
        row=row,
        model="m",
        recipe=row.split()[0],
        metric=metric,
        columns=columns or (metric,),
        samples=samples,
        conditions=conditions,
        **more,
    )


def likelihoods(row, nll, tokens, metric="perplexity", **more):
    return record(row, metric, list(zip(nll, tokens, strict=True)), ("nll_nats", "tokens"), **more)


def answered(row, correct, metric="gsm8k_strict", **more):
    return record(row, metric, [(float(right),) for right in correct], ("correct",), **more)


def latencies(row, samples, **more):
    return record(row, "latency_s", samples, ("latency_s", "tokens", "round"), **more)


def test_perplexity_by_hand():
    tokens = [10.0, 30.0]
    table = build_table(
        [
            likelihoods("fp32", [10.0, 60.0], tokens),
            likelihoods("int8-static (all)", [12.0, 62.0], tokens),
            likelihoods("fp32", [10.0, 60.0], tokens, metric="sentence_perplexity"),
        ]
    )
    fp32, int8 = (row.figure("perplexity") for row in table.rows)
    assert isinstance(fp32, Estimate)
    assert isinstance(int8, Estimate)
    assert fp32.interval.value == pytest.approx(np.exp(70 / 40))
    assert fp32.ratio is None
    assert int8.ratio is not None
    assert int8.ratio.value == pytest.approx(np.exp(4 / 40))
    assert (fp32.sequences, fp32.tokens) == (2, 40)
    sentence = table.rows[0].figure("sentence_perplexity")
    assert isinstance(sentence, Estimate)
    assert sentence.interval.value == pytest.approx((np.e + np.e**2) / 2)


def test_ratio_interval_is_paired(table):
    fp32, int8 = (row.figure("perplexity") for row in table.rows[:2])
    assert isinstance(fp32, Estimate)
    assert isinstance(int8, Estimate)
    assert int8.ratio is not None
    unpaired = (fp32.interval.high - fp32.interval.low) / fp32.interval.value
    assert int8.ratio.high - int8.ratio.low < unpaired / 10  # the text's own spread is gone
    assert int8.ratio.low < 1.0212 < int8.ratio.high  # what the factory put in


def test_latency_is_paired_by_round_and_position():
    fp32 = [(1.0, 5.0, 0.0), (3.0, 9.0, 0.0), (2.0, 5.0, 1.0), (6.0, 9.0, 1.0)]
    # half of fp32 sentence by sentence, with the rounds the other way round
    int8 = [(1.0, 5.0, 1.0), (3.0, 9.0, 1.0), (0.5, 5.0, 0.0), (1.5, 9.0, 0.0)]
    figure = build_table([latencies("fp32", fp32), latencies("int8-static", int8)]).rows[1].figure("latency_s")
    assert isinstance(figure, Latency)
    assert figure.ratio is not None
    assert (figure.ratio.low, figure.ratio.value, figure.ratio.high) == (0.5, 0.5, 0.5)
    assert figure.p50 == 1.25


def test_sizes_have_plain_ratios():
    table = build_table([record("fp32", "disk_bytes", [(400.0,)]), record("bnb-int8", "disk_bytes", [(100.0,)])])
    assert table.rows[0].figure("disk_bytes") == Size(value=400.0, ratio=None)
    assert table.rows[1].figure("disk_bytes") == Size(value=100.0, ratio=0.25)


@pytest.mark.parametrize(
    ("name", "value"),
    [("machine", "two"), ("threads", 4), ("provider", "cuda"), ("text_sha256", "cd"), ("batch", 8), ("isa", ("avx2",))],
)
def test_unlike_conditions_are_named(name, value):
    other = HERE.model_copy(update={name: value})
    measured = [likelihoods("fp32", [1.0], [2.0]), likelihoods("bnb-int8", [1.0], [2.0], conditions=other)]
    with pytest.raises(NotComparable, match=rf"perplexity: {name} differs, .* for bnb-int8 and .* for fp32"):
        build_table(measured)


def test_runtime_may_differ():
    other = HERE.model_copy(update={"runtime": "torch 2.13.0", "versions": {"torch": "2.13.0"}})
    table = build_table([likelihoods("fp32", [1.0], [2.0]), likelihoods("bnb-int8", [1.0], [2.0], conditions=other)])
    assert table.rows[1].measured


def test_skipped_rows_have_no_conditions_to_compare():
    skipped = Measurement(row="bnb-int8", model="m", recipe="bnb-int8", metric="perplexity", skipped="no torch")
    table = build_table([likelihoods("fp32", [1.0], [2.0]), skipped])
    assert table.rows[1].figure("perplexity") == Skipped("no torch")
    assert not table.rows[1].measured


@pytest.mark.parametrize(
    "other",
    [
        likelihoods("int8-static", [1.0, 2.0], [2.0, 4.0]),
        likelihoods("int8-static", [1.0, 2.0, 3.0], [2.0, 3.0, 4.0]),
    ],
    ids=["other lengths", "more windows"],
)
def test_unlike_windows_are_not_compared(other):
    with pytest.raises(NotComparable, match="perplexity: int8-static and fp32 were not measured on the same sequences"):
        build_table([likelihoods("fp32", [1.0, 2.0], [2.0, 3.0]), other])


def test_unlike_sentences_are_not_compared():
    fp32, other = [(1.0, 5.0, 0.0), (1.0, 6.0, 0.0)], [(1.0, 5.0, 0.0), (1.0, 7.0, 0.0)]
    with pytest.raises(NotComparable, match="latency_s"):
        build_table([latencies("fp32", fp32), latencies("int8-static", other)])


def test_one_run_of_one_model():
    one = likelihoods("fp32", [1.0], [2.0])
    with pytest.raises(NotComparable, match="two records of perplexity for fp32"):
        build_table([one, one])
    with pytest.raises(NotComparable, match="records of m and of n"):
        build_table([one, one.model_copy(update={"model": "n", "row": "bnb-int8"})])
    with pytest.raises(NotComparable, match="its stand-in"):
        build_table([one, one.model_copy(update={"stand_in": True, "row": "bnb-int8"})])
    with pytest.raises(InputError, match="no records"):
        build_table([])
    with pytest.raises(InputError, match="did you mean perplexity"):
        build_table([one.model_copy(update={"metric": "perplexitty"})])


def test_without_fp32_there_are_figures_and_no_ratios():
    table = build_table([likelihoods("bnb-int8", [1.0], [2.0]), likelihoods("bnb-nf4", [1.0], [2.0])])
    assert table.baselines == ()
    assert all(row.figure("perplexity").ratio is None for row in table.rows)


def test_published_figures_stand_beside_skipped_ones_too(table):
    rows = {row.label: row for row in table.rows}
    skipped = rows["bnb-nf4"].cells["sentence_perplexity"]
    assert skipped.figure == Skipped("bitsandbytes is not installed")
    assert skipped.published == Published(value=276.55, source="a table somebody published")
    assert rows["fp32"].cells["weight_bytes"].published is not None
    assert rows["fp32"].cells["peak_rss_bytes"].published is None


def test_gaps_are_told_once_each():
    skipped = [
        Measurement(row=row, model="m", recipe=row, metric=metric, skipped="no torch")
        for row in ("bnb-fp4", "bnb-nf4")
        for metric in ("perplexity", "latency_s")
    ]
    table = build_table([likelihoods("fp32", [1.0], [2.0]), *skipped])
    found = gaps(table)
    assert Gap(rows=("bnb-fp4", "bnb-nf4"), metrics=("latency_s", "perplexity"), reason="no torch") in found
    assert table.rows[0].figure("disk_bytes") == NotMeasured()
    assert Gap(rows=("fp32",), metrics=("latency_s",), reason="no record") in found
    assert not any("disk_bytes" in gap.metrics for gap in found)  # nobody asked for it
    assert [column.metric for column in table.columns] == ["perplexity"]


def rounds(row, metric, values, tokens=96.0, **more):
    columns = (metric, "tokens", "round")
    return record(row, metric, [(value, tokens, float(n)) for n, value in enumerate(values)], columns, **more)


def test_what_is_measured_once_a_round_is_paired_by_round():
    table = build_table([rounds("fp32", "total_s", [4.0, 2.0, 8.0]), rounds("bnb-int8", "total_s", [2.0, 2.0, 2.0])])
    base, figure = (row.figure("total_s") for row in table.rows)
    assert (base.value, base.low, base.high, base.ratio) == (4.0, 2.0, 8.0, None)
    assert isinstance(figure, Repeated)
    assert (figure.ratio.value, figure.ratio.low, figure.ratio.high) == (0.5, 0.25, 1.0)


def test_rounds_without_a_pair_are_left_out_of_the_ratio():
    one, two = rounds("fp32", "load_s", [4.0]), rounds("bnb-int8", "load_s", [2.0, 9.0])
    assert build_table([one, two]).rows[1].figure("load_s").ratio.high == 0.5
    gone = two.model_copy(update={"samples": ((2.0, 96.0, 7.0),)})
    assert build_table([one, gone]).rows[1].figure("load_s").ratio is None


def test_sizes_of_several_rounds_are_their_median():
    columns = ("rss_increase_bytes", "round")
    fp32 = record("fp32", "rss_increase_bytes", [(400.0, 0.0), (410.0, 1.0), (900.0, 2.0)], columns)
    less = record("bnb-int8", "rss_increase_bytes", [(-5.0, 0.0)], columns)
    table = build_table([fp32, less])
    assert table.rows[0].figure("rss_increase_bytes") == Size(value=410.0, ratio=None)
    assert table.rows[1].figure("rss_increase_bytes") == Size(value=-5.0, ratio=None)


def test_counts_and_answers():
    facts = {"prompt": "2 + 2", "response": "It is 4.", "expected": "4"}
    table = build_table(
        [
            record("fp32", "response_tokens", [(5.0, 0.0), (7.0, 1.0), (9.0, 2.0)], ("response_tokens", "round")),
            record("fp32", "response_correct", [(1.0, 0.0), (0.0, 1.0)], ("response_correct", "round"), facts=facts),
        ]
    )
    (row,) = table.rows
    assert row.figure("response_tokens") == Count(value=7.0)
    answer = Answer(right=1, rounds=2, prompt="2 + 2", response="It is 4.", expected="4")
    assert row.figure("response_correct") == answer


@pytest.mark.parametrize("metric", [column.metric for column in COLUMNS if column.form == "latency"])
def test_every_latency_is_paired_by_place(metric):
    columns = (metric, "tokens", "round")
    fp32 = record("fp32", metric, [(1.0, 5.0, 0.0), (4.0, 9.0, 0.0)], columns)
    half = record("int8-static", metric, [(0.5, 5.0, 0.0), (2.0, 9.0, 0.0)], columns)
    assert build_table([fp32, half]).rows[1].figure(metric).ratio.value == 0.5


def test_a_slow_row_is_paired_in_the_rounds_it_took_part_in():
    columns = ("latency_s", "tokens", "round")
    fp32 = record("fp32", "latency_s", [(1.0, 5.0, 0.0), (9.0, 5.0, 1.0), (1.0, 5.0, 2.0)], columns)
    slow = record("fp8", "latency_s", [(3.0, 5.0, 0.0), (3.0, 5.0, 2.0)], columns)
    assert build_table([fp32, slow]).rows[1].figure("latency_s").ratio.value == 3.0
    apart = record("fp8", "latency_s", [(3.0, 5.0, 7.0)], columns)
    with pytest.raises(NotComparable, match="not measured on the same sequences"):
        build_table([fp32, apart])


def test_disturbed_batches_do_not_make_a_figure_unstable_where_a_quarter_was_left_alone():
    for step, disturbed, expected in ((0.01, 2, False), (0.01, 20, False), (0.2, 2, True)):
        steady = [(1.0 + step * number, 5.0, float(number)) for number in range(10)]
        samples = [*steady, *((3.0, 5.0, 10.0 + number) for number in range(disturbed))]
        assert unstable(build_table([latencies("fp32", samples)]).rows[0].figure("latency_s")) == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, 1.1], False), ([1.0, 1.2], True), ([1.0], False)], ids=["within", "apart", "one"]
)
def test_rounds_that_lie_apart_are_unstable(values, expected):
    assert unstable(build_table([rounds("fp32", "load_s", values)]).rows[0].figure("load_s")) == expected
    samples = [(value * length, length, float(n)) for n, value in enumerate(values) for length in (1.0, 5.0, 9.0)]
    assert unstable(build_table([latencies("fp32", samples)]).rows[0].figure("latency_s")) == expected


@pytest.mark.parametrize(
    ("recipes", "baseline"),
    [
        (["fp32", "fp16", "nf4"], "fp32"),
        (["torch-fp16", "fp32", "nf4"], "torch-fp16"),
        (["nf4", "bf16"], "bf16"),
        (["nf4"], None),
    ],
)
def test_the_baseline_is_the_first_measured_row_that_quantizes_nothing(recipes, baseline):
    table = build_table([likelihoods(recipe, [1.0], [2.0]) for recipe in recipes])
    assert [row.label for row in table.baselines] == ([baseline] if baseline else [])
    ratios = [row.figure("perplexity").ratio for row in table.rows if row.label != baseline]
    assert all((ratio is not None) == (baseline is not None) for ratio in ratios)


def test_a_baseline_that_was_skipped_is_none():
    skipped = Measurement(row="fp32", model="m", recipe="fp32", metric="perplexity", skipped="too large")
    table = build_table([skipped, likelihoods("fp16", [1.0], [2.0]), likelihoods("nf4", [2.0], [2.0])])
    assert [row.label for row in table.baselines] == ["fp16"]
    assert table.rows[2].figure("perplexity").ratio is not None


def test_units_follow_from_form():
    shown = {metric: (COLUMN[metric].unit, COLUMN[metric].per_unit) for metric in COLUMN}
    assert shown["disk_bytes"] == ("MB", 1e6)
    assert shown["first_token_s"] == ("ms", 1e-3)
    assert shown["total_s"] == ("s", 1.0)
    assert shown["tokens_per_s"] == ("tokens/s", 1.0)
    assert shown["perplexity"] == ("", 1.0)


def test_ratios_stay_within_a_run(two_runs, merged):
    table = merged
    assert [run.mark for run in table.runs] == ["A", "B"]
    assert [row.label for row in table.baselines] == ["fp32 · A", "fp32 · B"]
    assert [row.label for row in table.rows[7:9]] == ["bnb-nf4 · A", "fp32 · B"]
    alone = with_all_resamples([record for record in two_runs if record.run == table.runs[1].name])
    for row, same in zip(table.runs[1].rows, alone.rows, strict=True):
        assert row.name == same.label
        assert row.cells == same.cells


def test_a_table_of_two_models_keeps_them_apart(make):
    other = [record.model_copy(update={"model": "other", "run": "b"}) for record in make()]
    table = build_table([*make(run="a"), *other])
    assert table.models == ("reference", "other")
    assert [run.model for run in table.runs] == ["reference", "other"]


def test_within_a_run_unlike_conditions_stay_refused(two_runs):
    with pytest.raises(NotComparable, match="machine differs"):
        build_table([record.model_copy(update={"run": "", "row": f"{record.row} {record.run}"}) for record in two_runs])


def test_accuracy_by_hand():
    base = [1] * 12 + [0] * 8
    ours = [0] * 3 + [1] * 9 + [1] + [0] * 7
    table = build_table([answered("fp32", base), answered("nf4", ours)])
    fp32, nf4 = (row.figure("gsm8k_strict") for row in table.rows)
    assert isinstance(fp32, Accuracy)
    assert isinstance(nf4, Accuracy)
    assert (fp32.interval.value, fp32.questions, fp32.ratio, fp32.mcnemar) == (0.6, 20, None, None)
    assert nf4.interval.low < nf4.interval.value == 0.5 < nf4.interval.high
    assert (plain(nf4), plain_ratio(nf4), plain_ratio(fp32)) == (0.5, 10 / 12, None)
    assert nf4.ratio.low < 10 / 12 < nf4.ratio.high
    assert nf4.mcnemar == McNemar(lost=3, gained=1, p=2 * (1 + 4) / 16)
    assert COLUMN["gsm8k_strict"].higher_is_better


def test_a_baseline_without_a_right_answer_has_no_ratio():
    table = build_table([answered("fp32", [0] * 8), answered("nf4", [1] * 6 + [0] * 2)])
    figure = table.rows[1].figure("gsm8k_strict")
    assert figure.ratio is None
    assert figure.mcnemar == McNemar(lost=0, gained=6, p=2 / 64)
    assert plain_ratio(figure) is None


def test_unlike_questions_are_not_compared():
    fp32 = answered("fp32", [1, 0, 1])
    with pytest.raises(NotComparable, match="gsm8k_strict: nf4 and fp32 were not measured on the same questions"):
        build_table([fp32, answered("nf4", [1, 0])])
    other = HERE.model_copy(update={"text_sha256": "cd"})
    with pytest.raises(NotComparable, match="gsm8k_strict: text_sha256 differs"):
        build_table([fp32, answered("nf4", [1, 0, 1], conditions=other)])


def test_accuracies_without_their_column_are_refused():
    with pytest.raises(InputError, match="no column 'correct'"):
        build_table([record("fp32", "mmlu_acc", [(1.0,)])])
