"""Verdicts of figures that are given: no artifact is run here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qexport import quantization
from qexport.core import stats
from qexport.core.record import Conditions, Measurement
from qexport.gating.baseline import Ran, read_baseline
from qexport.gating.bench import GateBench, GateOptions
from qexport.gating.explained import EXPLAINED_NATS
from qexport.gating.judge import Judge, wanted_rows
from qexport.measurement.conditions import identity
from qexport.runtime.session import SATURATES
from tests.gated import ONE

ON = GateOptions(threads=1, add_windows=True)
BASELINE = {"at_most": 1.001, "of": "baseline"}
EXACT = stats.Interval(value=1.0, low=1.0, high=1.0)


class Case:
    """A bench whose records are put there, and the judge of it."""

    def __init__(self, gated, budgets, *, baseline=None, paths=None, options=ONE, **settings):
        self.plan = gated.plan(budgets, **settings)
        self.bench = GateBench(paths or gated.both, self.plan, options)
        self.stored = read_baseline(baseline or gated.baseline)
        self.judge = Judge(self.bench, self.stored, self.plan)

    def put(self, name, metric, samples, *, columns=("nll_nats", "tokens"), facts=None, conditions=None):
        row = self.stored.rows.get(name)
        ran = row.ran if row else Ran()
        same = {"runtime": ran.runtime, "kernel_class": row.kernel_class if row else ""}
        given = conditions.model_dump(exclude_defaults=True) if conditions else {}
        kernels = {"nodes_on_cpu": 9} | {f"{kind}_run": count for kind, count in ran.kernels.items()}
        self.bench.records[name, metric] = Measurement(
            row=name,
            metric=metric,
            columns=columns,
            samples=tuple(tuple(map(float, sample)) for sample in samples),
            facts=kernels | (facts or {}),
            conditions=Conditions(**same | given),
            **identity(self.bench.artifacts[name]),
        )

    def put_stored(
        self, name, metric="perplexity", *, count=None, plus=0.0, alternating=0.0, conditions=None, facts=None
    ):
        """What the baseline has of a row, with so many nats more in each window."""
        record = self.stored.record(name, metric, count)
        change = [plus + alternating * (-1) ** index for index in range(len(record.samples))]
        shifted = [(nll + more, tokens) for (nll, tokens), more in zip(record.samples, change, strict=True)]
        self.put(name, metric, shifted, conditions=conditions, facts=facts)

    def skip(self, name, metric, reason):
        self.bench.records[name, metric] = Measurement(
            row=name, metric=metric, skipped=reason, **identity(self.bench.artifacts[name])
        )

    def row(self, name="int8"):
        return self.judge.row(name)

    def check(self, what, name="int8", of=None):
        (check,) = [check for check in self.row(name).checks if check.what == what and (of is None or check.of == of)]
        return check


def wanted_of(found):
    return wanted_rows(found.bench, found.plan)


@pytest.fixture
def case(gated):
    return lambda *given, **named: Case(gated, *given, **named)


@pytest.fixture
def reviewed(edited, case):
    """A case whose baseline was changed."""
    return lambda budgets, change, **named: case(budgets, baseline=edited(change), **named)


# What a gate wants to know


def test_only_rows_with_a_budget_are_measured_and_fp32_where_it_divides(case):
    assert wanted_of(case({"perplexity": BASELINE})) == {"perplexity": ["fp32", "int8"]}
    of_fp32 = {"at_most": 1.1, "of": "fp32"}
    assert wanted_of(case({"perplexity": of_fp32})) == {"perplexity": ["fp32", "int8"]}
    mine = {"int8-dynamic": {"weight_bytes": BASELINE, "drift": {"at_most": 0.1, "of": "baseline"}}}
    assert wanted_of(case({}, recipes=mine)) == {"perplexity": ["int8"], "weight_bytes": ["int8"]}
    mine["int8-dynamic"]["latency_s"] = of_fp32
    assert wanted_of(case({}, recipes=mine)) == {
        "perplexity": ["int8"],
        "weight_bytes": ["int8"],
        "latency_s": ["fp32", "int8"],
    }
    mine["fp8"] = {"disk_bytes": BASELINE}
    assert wanted_of(case({}, recipes=mine))["disk_bytes"] == []


def test_only_likelihoods_that_are_not_settled_go_on(case):
    def budgets(at_most):
        return {
            "perplexity": [BASELINE, {"at_most": at_most, "of": "fp32"}],
            "drift": {"at_most": 50.0, "of": "baseline"},
        }

    first = case(budgets(2.0), options=ON, windows=8)
    first.put_stored("fp32", count=8)
    first.put_stored("int8", count=8)
    found = case(budgets(first.check("perplexity", of="fp32").found.value), options=ON, windows=8)
    found.put_stored("fp32", count=8)
    found.put_stored("int8", count=8)
    assert found.check("perplexity", of="fp32").outcome == "inconclusive"
    assert found.judge.undecided() == {"perplexity": ["fp32", "int8"]}
    found.put_stored("int8", count=8, alternating=3.0)
    assert found.check("perplexity", of="baseline").outcome == "inconclusive"
    (rows,) = found.judge.undecided().values()
    assert sorted(rows) == ["fp32", "int8"]
    found.put_stored("int8", count=8, plus=30.0)
    assert found.row().outcome == "fail"
    assert found.judge.undecided() == {}


def test_what_is_no_likelihood_has_no_more_text(answers):
    found, put = answers
    put("fp32", "1" * 12)
    put("int8", "0" + "1" * 11)
    assert found.row().outcome == "inconclusive"
    assert found.judge.undecided() == {}


# Figures


def test_what_did_not_change_is_exactly_one_and_no_drift(case):
    found = case({"perplexity": {"at_least": 1.0, "at_most": 1.0, "of": "baseline"}, "drift": BASELINE})
    for name in ("fp32", "int8"):
        found.put_stored(name)
        assert found.row(name).outcome == "pass"
        assert found.check("perplexity", name).found == EXACT
        assert found.check("drift", name).found == stats.Interval(value=0.0, low=0.0, high=0.0)


def test_figures_are_those_of_stats(case):
    found = case(
        {
            "perplexity": [BASELINE, {"at_most": 1.5, "of": "fp32"}],
            "drift": BASELINE,
            "sentence_perplexity": [BASELINE, {"at_most": 1.5, "of": "fp32"}],
        }
    )
    rng = np.random.default_rng(0)
    for metric in ("perplexity", "sentence_perplexity"):
        for name in ("fp32", "int8"):
            samples = found.stored.record(name, metric).samples
            found.put(name, metric, [(nll + rng.normal(0, 0.2), count) for nll, count in samples])

    def nll(record):
        return np.array(record.samples)[:, 0]

    tokens = np.array(found.stored.feeds["perplexity"].tokens)
    now, exact = (found.bench.records[name, "perplexity"] for name in ("int8", "fp32"))
    before = found.stored.record("int8", "perplexity")
    assert found.check("perplexity", of="baseline").found == stats.perplexity_ratio(nll(now), nll(before), tokens)
    assert found.check("perplexity", of="fp32").found == stats.perplexity_ratio(nll(now), nll(exact), tokens)
    assert found.check("drift").found == stats.drift(nll(now), nll(before), tokens)
    counts = np.array(found.stored.feeds["sentence_perplexity"].tokens)
    now, exact = (found.bench.records[name, "sentence_perplexity"] for name in ("int8", "fp32"))
    each, base = np.exp(nll(now) / counts), np.exp(nll(exact) / counts)
    assert found.check("sentence_perplexity", of="fp32").found == stats.mean_ratio(each, base)


def test_a_row_is_compared_with_the_windows_it_was_scored_on(case):
    found = case({"perplexity": BASELINE}, windows=5)
    found.put_stored("int8", count=5)
    assert found.check("perplexity").found == EXACT
    (change,) = found.row().changes
    first = found.stored.record("int8", "perplexity", 5).samples
    ours = math.exp(sum(nll for nll, _ in first) / sum(count for _, count in first))
    assert change.now == change.before == pytest.approx(ours)


def test_looks_share_the_chance_of_an_error(case):
    """Each look may err: five looks of 95 percent would be one of 77."""
    plain, looking = (
        case({"perplexity": {"at_most": 1.5, "of": "baseline"}}, windows=4, options=options) for options in (ONE, ON)
    )
    for found in (plain, looking):
        found.put_stored("int8", count=4, plus=0.1, alternating=0.3)
    assert looking.bench.lengths("int8", "perplexity") == (4, 8, 16, 32, 34)
    samples = np.array(plain.bench.records["int8", "perplexity"].samples)
    before = np.array(plain.stored.record("int8", "perplexity", 4).samples)
    given = (samples[:, 0], before[:, 0], samples[:, 1])
    assert plain.check("perplexity").found == stats.perplexity_ratio(*given)
    assert looking.check("perplexity").found == stats.perplexity_ratio(*given, confidence=1 - 0.05 / 5)


def test_sizes_are_divided_as_they_are(case):
    budgets = {"weight_bytes": [{"at_most": 1.0, "of": "baseline"}, {"at_most": 0.5, "of": "fp32"}]}
    found = case(budgets)
    (before,) = found.stored.rows["int8"].samples["weight_bytes"]
    found.put("int8", "weight_bytes", [[before]], columns=("weight_bytes",))
    found.put("fp32", "weight_bytes", [[2 * before]], columns=("weight_bytes",))
    assert [check.outcome for check in found.row().checks] == ["pass"] * 3
    found.put("int8", "weight_bytes", [[before + 1]], columns=("weight_bytes",))
    assert [check.outcome for check in found.row().checks] == ["pass", "fail", "fail"]  # one byte is one too many
    ratio = (before + 1) / before
    assert found.check("weight_bytes", of="baseline").found == stats.Interval(value=ratio, low=ratio, high=ratio)


PIQA = {"piqa_acc": [{"at_least": 0.9, "of": "baseline"}, {"at_least": 0.9, "of": "fp32"}]}
ANSWERS = "110110111011"


def answered(values):
    """Answers to a task in the baseline."""
    values["feeds"]["piqa_acc"] = {"text": "piqa.jsonl", "sha256": "a" * 64, "plan_sha256": "b" * 64}
    for row in values["rows"].values():
        row["samples"]["piqa_acc"] = ANSWERS


@pytest.fixture
def answers(reviewed):
    """A case with a task, and how answers are put there."""
    found = reviewed(PIQA, answered)

    def put(name, bits=ANSWERS, *, text="piqa.jsonl", sha256="a" * 64, plan="b" * 64):
        conditions = Conditions(text=text, text_sha256=sha256)
        samples = [[float(bit)] for bit in bits]
        found.put(name, "piqa_acc", samples, columns=("correct",), conditions=conditions, facts={"plan_sha256": plan})

    return found, put


def test_accuracies_are_compared_question_by_question(answers):
    found, put = answers
    for name in ("fp32", "int8"):
        put(name)
    assert found.row().outcome == "pass"
    assert found.check("piqa_acc", of="fp32").found == EXACT
    put("int8", "0" * 12)
    for of in ("baseline", "fp32"):
        check = found.check("piqa_acc", of=of)
        assert check.outcome == "fail"
        assert check.found == stats.Interval(value=0.0, low=0.0, high=0.0)
    put("fp32", "0" * 12)
    check = found.check("piqa_acc", of="fp32")
    assert check.outcome == "fail"
    assert "too few right answers" in check.message
    put("fp32", "1" * 12)
    put("int8", "0" + "1" * 11)
    check = found.check("piqa_acc", of="fp32")
    assert check.outcome == "inconclusive"
    assert check.found == stats.accuracy_ratio([0] + [1] * 11, [1] * 12)
    needed = check.bounds.samples_needed(check.found, 12)
    assert f"about {needed - 12:,} more questions would settle it" in check.message
    (change,) = found.row().changes
    assert (change.now, change.before) == (11 / 12, 9 / 12)


@pytest.mark.parametrize("other", [{"sha256": "c" * 64}, {"plan": "c" * 64}], ids=" ".join)
def test_other_questions_are_not_compared(answers, other):
    found, put = answers
    put("fp32")
    put("int8", **other)
    assert found.row("fp32").outcome == "pass"
    for check in found.row().checks[1:]:
        assert check.outcome == "fail"
        assert check.found is None
        assert "other" in check.message
        assert "\n" not in check.message


def test_fewer_questions_than_before_are_not_compared(answers):
    found, put = answers
    put("fp32", ANSWERS + "1")
    put("int8", ANSWERS + "1")
    assert found.check("piqa_acc", of="baseline").outcome == "fail"


def test_times_are_paired_with_fp32(case):
    def timed(*seconds):
        return [(second, 5, 0) for second in seconds]

    found = case({"latency_s": {"at_most": 1.2, "of": "fp32"}})
    columns = ("latency_s", "tokens", "round")
    found.put("fp32", "latency_s", timed(1.0, 2.0, 3.0), columns=columns)
    found.put("int8", "latency_s", timed(1.1, 2.2, 3.3), columns=columns)
    assert found.check("latency_s").outcome == "pass"
    assert found.check("latency_s").found.value == pytest.approx(1.1)
    found.put("int8", "latency_s", timed(1.0, 2.2, 6.0), columns=columns)
    check = found.check("latency_s")
    assert check.outcome == "inconclusive"
    assert "more rounds" in check.message
    (change,) = found.row().changes
    assert (change.before, change.of_baseline) == (None, None)
    assert change.of_fp32 == check.found
    assert [check.what for check in found.row("fp32").checks] == ["structure"]


@pytest.mark.parametrize(("size_bytes", "outcome"), [(119.0, "pass"), (121.0, "fail")])
def test_memory_is_divided_by_fp32_of_the_same_run(case, size_bytes, outcome):
    found = case({"peak_rss_bytes": {"at_most": 1.2, "of": "fp32"}})
    found.put("fp32", "peak_rss_bytes", [(100.0,)], columns=("peak_rss_bytes",))
    found.put("int8", "peak_rss_bytes", [(size_bytes,)], columns=("peak_rss_bytes",))
    assert found.check("peak_rss_bytes").outcome == outcome
    (change,) = found.row().changes
    assert (change.before, change.of_baseline) == (None, None)


# What does not settle


def test_how_many_more_windows_would_settle_it(case):
    found = case({"perplexity": BASELINE}, windows=8)
    found.put_stored("int8", count=8, plus=0.05, alternating=0.5)
    check = found.check("perplexity")
    assert check.outcome == "inconclusive"
    needed = check.bounds.samples_needed(check.found, 8)
    assert f"about {needed - 8:,} more windows would settle it" in check.message
    there = "the text has 26 more, taken with --add-windows" if needed - 8 <= 26 else "the text has only 26 more"
    assert f"({there})" in check.message
    found.put_stored("int8", plus=0.005, alternating=0.5)
    check = found.check("perplexity")
    assert check.outcome == "inconclusive"
    assert "more windows would settle it (the text is used up: give more text)" in check.message


def test_sentences_are_called_sentences(case):
    found = case({"sentence_perplexity": BASELINE}, sentences=8)
    found.put_stored("int8", "sentence_perplexity", count=8, alternating=0.5)
    assert "more sentences would settle it (the text has only 24 more)" in found.check("sentence_perplexity").message


def test_a_ratio_on_its_bound_is_never_settled(case):
    found = case({"perplexity": {"at_most": 1.0, "of": "baseline"}}, window=24)
    tokens = found.stored.feeds["perplexity"].tokens
    record = found.stored.record("int8", "perplexity")
    samples = [(nll, count) for nll, count in record.samples]
    one, other = 0, next(index for index, count in enumerate(tokens) if index and count == tokens[0])
    samples[one] = (samples[one][0] + 2.0, samples[one][1])
    samples[other] = (samples[other][0] - 2.0, samples[other][1])
    found.put("int8", "perplexity", samples)
    check = found.check("perplexity")
    assert check.found.value == pytest.approx(1.0, abs=1e-15)
    if check.found.value == 1.0:
        assert "it lies on the bound, so more text cannot settle it" in check.message
    assert check.outcome == "inconclusive"


# What fails closed


def test_a_skipped_row_fails_with_its_reason(case):
    found = case({"perplexity": [BASELINE, {"at_most": 1.1, "of": "fp32"}], "drift": BASELINE})
    found.put_stored("fp32")
    found.skip("int8", "perplexity", "killed by signal 9")
    assert [check.outcome for check in found.row().checks] == ["pass", "fail", "fail", "fail"]
    for check in found.row().checks[1:]:
        assert check.message.endswith("was not measured: killed by signal 9")
        assert check.bounds is not None
    assert found.row().changes == ()
    found.put_stored("int8")
    found.skip("fp32", "perplexity", "out of memory")
    check = found.check("perplexity", of="fp32")
    assert (check.outcome, check.message) == (
        "fail",
        "perplexity: fp32 was not measured (out of memory); take its budget out, or measure it elsewhere",
    )


def test_no_fp32_to_divide_by_fails(case, gated):
    found = case({"perplexity": {"at_most": 1.1, "of": "fp32"}}, paths=[gated.int8])
    found.put_stored("int8")
    check = found.check("perplexity")
    assert check.outcome == "fail"
    assert "no fp32 artifact was given that can be read, to divide by; name one" in check.message


def test_a_figure_that_the_baseline_has_not_fails(reviewed):
    found = reviewed({"perplexity": BASELINE}, lambda values: values["rows"]["int8"]["samples"].pop("perplexity"))
    found.put("int8", "perplexity", [(1.0, 1)])
    check = found.check("perplexity")
    assert check.outcome == "fail"
    assert "the baseline has no such figure; if it is meant, approve it with `qexport gate --update`" in check.message


def test_a_figure_that_is_no_number_fails(case):
    found = case({"perplexity": {"at_most": 1e6, "of": "baseline"}})
    found.put_stored("int8")
    samples = list(found.bench.records["int8", "perplexity"].samples)
    found.put("int8", "perplexity", [(math.nan, samples[0][1]), *samples[1:]])
    assert found.check("perplexity").outcome == "fail"
    assert "\n" not in found.check("perplexity").message


def test_a_figure_that_is_infinite_fails(case):
    found = case({"perplexity": {"at_most": 1e6, "of": "baseline"}})
    found.put_stored("int8")
    samples = list(found.bench.records["int8", "perplexity"].samples)
    with np.errstate(all="ignore"):
        found.put("int8", "perplexity", [(math.inf, samples[0][1]), *samples[1:]])
        assert found.check("perplexity").outcome == "fail"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda feed: feed.update(text="mine.txt", sha256="0" * 64), "measured on another text than in the baseline"),
        (
            lambda feed: feed.update(sha256="0" * 64),
            "fed other tokens, of another tokenizer or text, than in the baseline",
        ),
        (lambda feed: feed["tokens"].__setitem__(0, 1), "fed other tokens"),
    ],
)
def test_other_text_than_the_baseline_fails(reviewed, change, words):
    found = reviewed({"perplexity": BASELINE, "drift": BASELINE}, lambda values: change(values["feeds"]["perplexity"]))
    found.put_stored("int8")
    for check in (found.check("perplexity"), found.check("drift")):
        assert check.outcome == "fail"
        assert words in check.message
        assert "`qexport gate --update`" in check.message
    (change,) = found.row().changes
    assert (change.before, change.of_baseline) == (None, None)


def test_a_text_may_be_called_otherwise(reviewed):
    """Its tokens are what is compared."""
    found = reviewed({"perplexity": BASELINE}, lambda values: values["feeds"]["perplexity"].update(text="mine.txt"))
    found.put_stored("int8")
    assert found.check("perplexity").outcome == "pass"


def test_a_row_without_artifact_and_one_without_baseline(case, reviewed, gated, tmp_path):
    found = case({"perplexity": BASELINE}, paths=[gated.fp32])
    row = found.row("int8")
    assert (row.outcome, row.recipe, row.changes) == ("fail", "", ())
    (check,) = row.checks
    assert check.what == "artifact"
    assert "missing: the baseline has this row" in check.message
    assert row.line == found.stored.lines["int8"] > 1

    found = reviewed({"perplexity": BASELINE}, lambda values: values["rows"].pop("int8"))
    found.put("int8", "perplexity", [(1.0, 1)])
    row = found.row()
    assert (row.outcome, row.line) == ("fail", 1)
    assert [check.what for check in row.checks] == ["baseline", "perplexity"]
    assert "has no row in the baseline" in row.checks[0].message

    found = case({"perplexity": BASELINE}, paths=[gated.fp32, tmp_path / "int8"])
    (check,) = found.row().checks
    assert "not an artifact" in check.message


# What an artifact is


def unlike(found, *whats):
    row = found.row()
    assert row.outcome == "fail"
    failed = [check for check in row.checks if check.outcome == "fail"]
    assert [check.what for check in failed] == list(whats)
    for check in failed:
        assert "\n" not in check.message
    return failed[0].message


SIZE = {"weight_bytes": {"at_most": 2.0, "of": "baseline"}}


@pytest.fixture
def structure(reviewed):
    """A case whose baseline was changed in what it says of int8."""

    def make(change):
        found = reviewed(SIZE, lambda values: change(values["rows"]["int8"]["structure"]))
        found.put("int8", "weight_bytes", [[1.0]], columns=("weight_bytes",))
        return found

    return make


@pytest.mark.parametrize(
    ("key", "what"),
    [("recipe", "recipe"), ("selection", "selection"), ("engine", "engine"), ("calibration", "calibration text")],
)
def test_what_was_made_in_another_way_fails(structure, key, what):
    message = unlike(structure(lambda was: was.update({key: "another"})), what)
    assert "in the baseline another" in message
    assert message.startswith(f"{what}: ")


def test_nothing_is_said_as_none(structure):
    assert "in the baseline none" in unlike(structure(lambda was: was.pop("engine")), "engine")


def test_an_artifact_as_it_was(structure):
    found = structure(lambda _was: None)
    assert found.row().outcome == "pass"
    assert found.check("structure").message == "11 quantized nodes, as in the baseline"


DYNAMIC = "int8 per channel, dynamic activations"


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ({"nodes": 24, "channels": 360}, "channels in float: none, in the baseline 360 in 24 nodes"),
        ({"nodes": 1, "channels": 4}, "channels in float: none, in the baseline 4 in 1 node"),
        ({"nodes": 0, "channels": 0}, None),
        (None, None),
    ],
)
def test_channels_in_float_that_are_gone(structure, before, message):
    found = structure(lambda was: was.update(float_channels=before))
    if message is None:
        assert found.row().outcome == "pass"
    else:
        assert unlike(found, "channels in float") == message


def test_nodes_that_are_no_longer_quantized(structure):
    names = [["transformer.h.", 2, 4, ".attn.c_attn/MatMul"], "transformer.h.2.mlp/MatMul"]
    message = unlike(structure(lambda was: was["quantized"][DYNAMIC].extend(names)), "quantized nodes")
    assert message.startswith("quantized nodes: 11, in the baseline 15; 4 no longer quantized: ")
    assert "transformer.h.2.attn.c_attn/MatMul" in message
    assert "and 1 more" in message


def test_nodes_that_were_not_quantized(structure):
    message = unlike(structure(lambda was: was["quantized"].pop(DYNAMIC)), "quantized nodes")
    assert "9 quantized and were not: " in message
    assert "and 6 more" in message
    assert "no longer" not in message


def test_nodes_quantized_in_another_way(structure):
    def static(was):
        was["quantized"]["int4 blocks of 32"] = was["quantized"].pop(DYNAMIC)

    message = unlike(structure(static), "quantized nodes")
    assert message.startswith("quantized nodes: 11, in the baseline 11; 9 quantized in another way: ")


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        (lambda ran: ran.update(providers=["cpu", "cuda"]), "providers", "cpu, in the baseline cpu, cuda"),
        (
            lambda ran: ran.update(kernels={"integer_matmuls": 8, "block_matmuls": 1}),
            "kernels that ran",
            "9 integer matmuls, in the baseline 1 block matmuls, 8 integer matmuls",
        ),
        (lambda ran: ran.pop("kernels"), "kernels that ran", "in the baseline none"),
    ],
)
def test_what_ran_otherwise_fails(reviewed, asked, change, what, words):
    found = reviewed({"perplexity": BASELINE}, lambda values: change(values["rows"]["int8"]["ran"]))
    found.bench.take({"perplexity": ["int8"]})
    assert words in unlike(found, what)


# What else a reader should know


def test_notes_of_another_machine_and_runtime(reviewed, case, asked):
    found = case({"perplexity": BASELINE})
    found.bench.take({"perplexity": ["fp32", "int8"]})
    assert list(found.judge.notes()) == []

    def elsewhere(values):
        for row in values["rows"].values():
            row["kernel_class"] = "e" * 12
            row["ran"]["runtime"] = "onnxruntime 1.0"

    found = reviewed({"perplexity": BASELINE}, elsewhere)
    found.bench.take({"perplexity": ["fp32", "int8"]})
    one, other = found.judge.notes()
    assert "are not in the baseline: 2 rows are held to the budgets of fp32" in one
    assert "add this CPU with `qexport gate --add-cpu`" in one
    assert other.startswith("run by onnxruntime 1.")
    assert other.endswith("in the baseline by onnxruntime 1.0")
    assert found.row().outcome == "pass"  # it is said, and is no failure


# Kernels of another CPU

DRIFT = {"drift": {"at_most": 0.0002, "of": "baseline"}}
STRANGE = Conditions(machine="Other CPU", isa=("avx2",), kernel_class="f" * 12)


def other_bytes(values):
    values["rows"]["int8"]["sha256"] = "0" * 64


def test_the_same_bytes_on_other_kernels_pass_whatever_they_drift(case):
    found = case(DRIFT | {"perplexity": BASELINE})
    found.put_stored("int8", plus=0.3, conditions=STRANGE)
    for what in ("drift", "perplexity"):
        check = found.check(what)
        assert check.outcome == "pass"
        assert "the artifact has the baseline's bytes, so this CPU's kernels explain it" in check.message
    found.put_stored("int8", plus=0.3)
    assert found.check("drift").outcome == found.check("perplexity").outcome == "fail"  # on the baseline's own kernels


@pytest.mark.parametrize(("share", "outcome"), [(0.9, "pass"), (1.1, "fail")])
def test_other_bytes_on_other_kernels_are_held_to_what_kernels_explain(reviewed, monkeypatch, share, outcome):
    monkeypatch.setitem(EXPLAINED_NATS, "8-bit activations", (0.001, 0.001))
    found = reviewed(DRIFT, other_bytes)
    bound = math.hypot(0.0002, 0.001)
    record = found.stored.record("int8", "perplexity")
    shifted = [(nll + share * bound * tokens, tokens) for nll, tokens in record.samples]
    found.put("int8", "perplexity", shifted, conditions=STRANGE)
    check = found.check("drift")
    assert check.outcome == outcome
    assert check.bounds.at_most == bound
    assert "kernels of another CPU explain 0.001 nats per token more" in check.message


def test_a_row_is_compared_with_the_class_that_it_ran_on(reviewed):
    def measured_there(values):
        other_bytes(values)
        row = values["rows"]["int8"]
        nll = [nll + 1.0 for nll in row["samples"]["perplexity"]]
        row["elsewhere"] = {STRANGE.kernel_class: {"ran": row["ran"], "samples": {"perplexity": nll}}}
        values["cpus"][STRANGE.kernel_class] = {"machine": "Other CPU", "isa": ["avx2"]}

    found = reviewed(DRIFT, measured_there)
    found.put_stored("int8", plus=1.0, conditions=STRANGE)
    assert found.check("drift").found.value == pytest.approx(0.0, abs=1e-9)
    assert list(found.judge.notes()) == []
    found.put_stored("int8", plus=1.0)
    assert found.check("drift").outcome == "fail"
    nearest = STRANGE.model_copy(update={"kernel_class": "e" * 12})
    found.put_stored("int8", plus=1.0, conditions=nearest)
    assert found.check("drift").outcome == "pass"  # a third class, with the flags of the second


def test_weights_that_saturate_fail_where_they_do_and_are_said_where_they_may(case, gated, tmp_path):
    path = tmp_path / "int8"
    quantization.quantize(str(gated.fp32), path, recipe_name="int8-dynamic", options={"engine": "ort", "grid": "int8"})
    found = case(DRIFT, paths=[gated.fp32, path])
    found.put_stored("int8")
    assert found.row().outcome == "pass"
    (note,) = found.judge.notes()
    assert note.startswith("int8: int8 weights on the full grid")
    assert "--weights int8-paired" in note
    found.put_stored("int8", facts={SATURATES: 1})
    assert found.check("kernels").outcome == "fail"
    assert "saturate on this CPU" in found.check("kernels").message
    paired = case(DRIFT)
    paired.put_stored("int8", facts={SATURATES: 1})
    assert paired.row().outcome == "pass"


def test_every_figure_stands_beside_what_it_was(case):
    found = case({"perplexity": BASELINE, "weight_bytes": BASELINE})
    for name in ("fp32", "int8"):
        found.put_stored(name)
        found.put(name, "weight_bytes", [found.stored.rows[name].samples["weight_bytes"]], columns=("weight_bytes",))
    (fp32, bytes_of_fp32), (int8, bytes_of_int8) = (found.row(name).changes for name in ("fp32", "int8"))
    assert [change.metric for change in (int8, bytes_of_int8)] == ["perplexity", "weight_bytes"]
    assert int8.now == int8.before
    assert int8.of_baseline == EXACT
    assert int8.of_fp32.value == pytest.approx(int8.now / fp32.now)
    assert bytes_of_int8.of_fp32.value == bytes_of_int8.now / bytes_of_fp32.now
    assert (fp32.of_fp32, bytes_of_fp32.of_fp32) == (None, None)
    assert fp32.of_baseline == EXACT


def test_a_row_that_went_on_beside_an_fp32_that_did_not(case):
    """fp32 is as it was at the first look, so its windows are fewer than those of the row that was inconclusive."""
    found = case({"perplexity": BASELINE}, windows=4, options=ON)
    found.put_stored("fp32", count=4)
    found.put_stored("int8", count=8, alternating=0.5)
    row = found.row()
    assert row.outcome == "inconclusive"
    (change,) = row.changes
    if change.of_fp32 is not None:
        nll, base = (found.bench.records[name, "perplexity"].samples[:4] for name in ("int8", "fp32"))
        (nll, tokens), (base, _) = np.array(nll).T, np.array(base).T
        assert change.of_fp32 == stats.perplexity_ratio(nll, base, tokens)
