"""Budgets of distances from fp32: absolute figures, measured in the pass that scores perplexity."""

from __future__ import annotations

import shutil

import pytest

from qexport.core import stats
from qexport.core.artifact import load_artifact
from qexport.gating.baseline import read_baseline
from qexport.gating.bench import GateBench
from qexport.gating.budgets import DISTANCES
from qexport.gating.judge import Judge, wanted_rows
from qexport.gating.pages.markdown import markdown
from qexport.gating.pipeline import add_cpu, gate, gate_against, update
from qexport.report.figures import distance
from tests.gated import ON, ONE
from tests.measurement.tasks.conftest import changed
from tests.plants import fewer_merges

WIDE = {
    "kl_divergence": {"at_most": 10.0, "of": "fp32"},
    "same_top_share": {"at_least": 0.01, "of": "fp32"},
    "probability_change_rms": {"at_most": 1.0, "of": "fp32"},
}


def verdict(report, name="int8"):
    return next(row for row in report.rows if row.name == name)


@pytest.fixture
def run(gated):
    def run(budgets, *, paths=None, options=ONE, **settings):
        return gate(paths or gated.both, gated.baseline, gated.plan(budgets, **settings), options)

    return run


@pytest.fixture
def whole(gated):
    """The divergence over all windows, at the confidence of one look or of several."""
    bench = GateBench(gated.both, gated.plan(WIDE), ONE)
    bench.take(wanted_rows(bench, bench.plan))
    record = bench.records["int8", "kl_divergence"]
    return lambda looks=1: distance(record, confidence=1 - (1 - stats.CONFIDENCE) / looks)


def test_each_distance_is_held_to_its_budget_in_one_pass(run, asked):
    report = run(WIDE)
    assert report.exit_code == 0
    assert asked == [("fp32", "perplexity", 34), ("int8", "perplexity", 34)]
    checks = {check.what: check for check in verdict(report).checks}
    assert checks.keys() == {"structure", *DISTANCES}
    assert checks["kl_divergence"].message.startswith("KL divergence 0.")
    assert checks["kl_divergence"].message.endswith(", at most 10 allowed")
    assert " nats from fp32 (" in checks["kl_divergence"].message
    assert checks["same_top_share"].message.endswith(", at least 0.01 allowed")
    assert {check.what for check in verdict(report, "fp32").checks} == {"structure"}
    shown = {change.metric: change for change in verdict(report).changes}
    assert shown["kl_divergence"].now == checks["kl_divergence"].found.value
    assert (shown["kl_divergence"].of_fp32, shown["kl_divergence"].before) == (None, None)
    assert "KL divergence, nats" in markdown(report)


def test_three_verdicts(run, whole, asked):
    found = whole()
    outcomes = {
        bound: verdict(run({"kl_divergence": {"at_most": bound, "of": "fp32"}})).outcome
        for bound in (found.low / 2, found.value, found.high * 2)
    }
    assert list(outcomes.values()) == ["fail", "inconclusive", "pass"]


def test_more_windows_are_scored_beside_fp32_until_it_is_settled(run, whole, asked):
    budgets = {"kl_divergence": {"at_most": whole(looks=3).value, "of": "fp32"}}
    del asked[:]
    report = run(budgets, windows=12, options=ON)
    assert asked == [(name, "perplexity", count) for count in (12, 12, 10) for name in ("fp32", "int8")]
    (check,) = (check for check in verdict(report).checks if check.what == "kl_divergence")
    assert check.outcome == "inconclusive"
    assert check.found == whole(looks=3)
    assert "more text cannot settle it" in check.message


def test_a_distance_needs_fp32_and_its_tokens(run, gated, asked, tmp_path):
    alone = verdict(run(WIDE, paths=[gated.int8]))
    assert "no fp32 artifact was given" in alone.checks[1].message
    other = changed(load_artifact(gated.int8), tmp_path / "int8", fewer_merges).path
    report = run(WIDE, paths=[gated.fp32, other])
    assert "fed other tokens than fp32" in " ".join(check.message for check in verdict(report).checks)


def test_a_baseline_holds_no_distances_and_is_not_asked_for_them(gated, run, asked, tmp_path):
    path = tmp_path / "gate.json"
    made, _ = update(gated.both, path, gated.plan(WIDE), ONE)
    assert {metric for row in made.rows.values() for metric in row.samples} == {"perplexity"}
    assert gate(gated.both, path, gated.plan(WIDE), ONE).exit_code == 0
    before = path.read_bytes()
    add_cpu(gated.both[::-1], path, gated.plan(WIDE), ONE)
    assert path.read_bytes() == before


def test_artifacts_of_another_commit_are_no_base_of_a_distance(gated, asked, tmp_path):
    base = tmp_path / "base"
    for path in gated.both:
        shutil.copytree(path, base / path.name)
    config = gated.config(tmp_path / "budgets.toml", "")
    report = gate_against(gated.both, [base], config, gated.plan(WIDE), ONE)
    assert report.exit_code == 0


def test_rows_that_are_measured_are_judged(gated, asked):
    bench = GateBench(gated.both, gated.plan({}, recipes={"int8-dynamic": WIDE}), ONE)
    wanted = wanted_rows(bench, bench.plan)
    assert wanted == {"perplexity": ["fp32", "int8"]}
    bench.take(wanted)
    assert Judge(bench, read_baseline(gated.baseline), bench.plan).undecided() == {}
