from __future__ import annotations

import numpy as np
import pytest

from qexport.errors import InputError, NotComparable
from qexport.record import Conditions, Measurement, Published
from qexport.report.table import Estimate, Gap, Latency, NotMeasured, Size, Skipped, build_table, gaps

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


def test_ratio_interval_is_paired(records):
    table = build_table(records)
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
    with pytest.raises(InputError, match="no records"):
        build_table([])
    with pytest.raises(InputError, match="did you mean perplexity"):
        build_table([one.model_copy(update={"metric": "perplexitty"})])


def test_without_fp32_there_are_figures_and_no_ratios():
    table = build_table([likelihoods("bnb-int8", [1.0], [2.0]), likelihoods("bnb-nf4", [1.0], [2.0])])
    assert table.baseline is None
    assert all(row.figure("perplexity").ratio is None for row in table.rows)


def test_published_figures_stand_beside_skipped_ones_too(records):
    rows = {row.label: row for row in build_table(records).rows}
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
    unspoken = {
        (row, metric) for gap in found if gap.reason == "no record" for row in gap.rows for metric in gap.metrics
    }
    assert ("fp32", "disk_bytes") in unspoken
    assert ("fp32", "perplexity") not in unspoken
    assert [column.metric for column in table.columns] == ["perplexity"]
