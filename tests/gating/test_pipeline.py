"""The whole gate on tiny artifacts that are really run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qexport.cli.app import app
from qexport.core import stats
from qexport.core.artifact import load_artifact
from qexport.core.errors import InputError, UnsupportedHere
from qexport.gating.baseline import read_baseline
from qexport.gating.pipeline import add_cpu, gate, gate_against, update
from qexport.gating.verdict import Bounds
from qexport.measurement import probing
from tests import decoders
from tests.gated import NO_GRAPH, ON, ONE, QUESTIONS, write_text
from tests.measurement.tasks.conftest import changed
from tests.plants import fewer_merges, scaled, scales

SAME = {"at_least": 0.9999, "at_most": 1.0001, "of": "baseline"}
DRIFT = {"at_most": 0.1, "of": "baseline"}
OF_FP32 = {"at_most": 1.2, "of": "fp32"}
EXACT = stats.Interval(value=1.0, low=1.0, high=1.0)


def outcomes(report):
    return {row.name: row.outcome for row in report.rows}


def failures(report):
    """What fails, by row: what was checked and the message."""
    return {
        row.name: {check.what: check.message for check in row.checks if check.outcome == "fail"}
        for row in report.rows
        if row.outcome == "fail"
    }


def check_of(report, row, what, of=None):
    (found,) = [
        check
        for one in report.rows
        for check in one.checks
        if one.name == row and check.what == what and of in {None, check.of}
    ]
    return found


@pytest.fixture
def run(gated):
    """The gate with some budgets, on the shared artifacts and baseline unless others are given."""

    def run(budgets, *, paths=None, baseline=None, options=ONE, **settings):
        return gate(paths or gated.both, baseline or gated.baseline, gated.plan(budgets, **settings), options)

    return run


@pytest.fixture
def spoiled(gated, tmp_path):
    """A copy of int8 in a folder of that name, with something changed and the manifest made to agree."""

    def spoil(change, name="int8"):
        return changed(load_artifact(gated.folder / name), tmp_path / "spoiled" / name, change).path

    return spoil


def off_scale(folder):
    """One scale of the artifact is off by 2 %."""
    scaled(scales(folder)[0])(folder)


# Nothing changed


def test_what_did_not_change_passes_and_is_exactly_what_it_was(gated, run):
    """Measured again, in processes of their own."""
    budgets = {
        "perplexity": {"at_least": 1.0, "at_most": 1.0, "of": "baseline"},
        "drift": {"at_most": 1e-9, "of": "baseline"},
        "disk_bytes": {"at_least": 1.0, "at_most": 1.0, "of": "baseline"},
    }
    report = run(budgets)
    assert outcomes(report) == {"fp32": "pass", "int8": "pass"}
    assert (report.exit_code, report.model, report.notes) == (0, "gpt2", ())
    assert report.baseline == str(gated.baseline)
    for name in ("fp32", "int8"):
        assert check_of(report, name, "perplexity").found == EXACT
        assert check_of(report, name, "disk_bytes").found == EXACT
        assert check_of(report, name, "drift").found == stats.Interval(value=0.0, low=0.0, high=0.0)
    lines = gated.baseline.read_text().split("\n")
    for row in report.rows:
        assert lines[row.line - 1].strip().startswith(f'"{row.name}": ')
        assert {change.metric: change.before == change.now for change in row.changes} == {
            "perplexity": True,
            "disk_bytes": True,
        }


def test_the_order_of_artifacts_does_not_matter(gated, run, asked):
    one = run({"perplexity": [SAME, OF_FP32]})
    other = run({"perplexity": [SAME, OF_FP32]}, paths=gated.both[::-1])
    assert sorted(one.rows, key=lambda row: row.name) == sorted(other.rows, key=lambda row: row.name)
    assert one.outcome == "pass"


def test_sizes_and_sentences(run, asked):
    budgets = {
        "weight_bytes": [{"at_most": 0.5, "of": "fp32"}, SAME],
        "disk_bytes": [{"at_most": 0.1, "of": "fp32"}],
        "sentence_perplexity": [SAME, OF_FP32],
    }
    report = run(budgets)
    assert outcomes(report) == {"fp32": "pass", "int8": "fail"}
    assert failures(report)["int8"].keys() == {"disk_bytes"}
    assert "allowed" in failures(report)["int8"]["disk_bytes"]
    assert check_of(report, "int8", "sentence_perplexity", "baseline").found == EXACT
    assert report.exit_code == 1
    assert run({"disk_bytes": [{"at_most": 0.9, "of": "fp32"}]}).exit_code == 0


# Rows


def test_a_row_that_is_missing_fails(gated, run, asked):
    report = run({"perplexity": SAME}, paths=[gated.fp32])
    assert outcomes(report) == {"fp32": "pass", "int8": "fail"}
    assert "missing: the baseline has this row" in failures(report)["int8"]["artifact"]
    assert "qexport gate --update" in failures(report)["int8"]["artifact"]


def test_a_row_that_is_new_fails(gated, run, asked, tmp_path):
    copy = shutil.copytree(gated.int8, tmp_path / "int8-new")
    report = run({"perplexity": [SAME, OF_FP32]}, paths=[*gated.both, copy])
    assert outcomes(report) == {"fp32": "pass", "int8": "pass", "int8-new": "fail"}
    told = failures(report)["int8-new"]
    assert "has no row in the baseline" in told["baseline"]
    assert "the baseline has no such figure" in told["perplexity"]
    assert check_of(report, "int8-new", "perplexity", "fp32").outcome == "pass"


@pytest.mark.parametrize("how", ["altered", "truncated", "no artifact"])
def test_an_artifact_that_is_not_what_its_manifest_says_fails(gated, run, asked, tmp_path, how):
    copy = shutil.copytree(gated.int8, tmp_path / "int8")
    weights = max(copy.glob("model.onnx*"), key=lambda file: file.stat().st_size)
    content = bytearray(weights.read_bytes())
    if how == "altered":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif how == "truncated":
        weights.write_bytes(content[:-1])
    else:
        (copy / "qexport.json").unlink()
    report = run({"perplexity": SAME}, paths=[gated.fp32, copy])
    assert outcomes(report) == {"fp32": "pass", "int8": "fail"}
    reason = "not an artifact" if how == "no artifact" else "altered since its manifest was written"
    assert reason in failures(report)["int8"]["artifact"]
    assert [name for name, _, _ in asked] == ["fp32"]  # it is not run
    assert report.rows[1].line > 1


def test_another_selection_under_the_same_name_fails(gated, run, attention, asked):
    report = run({"weight_bytes": {"at_most": 5.0, "of": "baseline"}}, paths=[gated.fp32, attention])
    assert outcomes(report) == {"fp32": "pass", "int8": "fail"}
    told = failures(report)["int8"]
    assert told.keys() == {"selection", "quantized nodes"}
    assert "--nodes attention" in told["selection"]
    assert any("approve it with `qexport gate --update`" in note for note in report.notes)
    assert "quantized nodes: 4, in the baseline 11; 7 no longer quantized" in told["quantized nodes"]


# Fails closed


def test_no_fp32_to_divide_by(gated, run, asked):
    report = run({"perplexity": OF_FP32}, paths=[gated.int8])
    assert outcomes(report) == {"int8": "fail", "fp32": "fail"}
    assert "no fp32 artifact was given that can be read" in failures(report)["int8"]["perplexity"]


def test_text_that_changed(gated, run, asked, tmp_path):
    other = write_text(tmp_path / "text.txt", seed=1)
    report = run({"perplexity": [{"at_most": 9.0, "of": "baseline"}, OF_FP32]}, text=other)
    assert outcomes(report) == {"fp32": "fail", "int8": "fail"}
    for told in failures(report).values():
        assert "fed other tokens" in told["perplexity"]
        assert "than in the baseline" in told["perplexity"]
    assert check_of(report, "int8", "perplexity", "fp32").outcome == "pass"  # both are fed the same
    other.write_text(gated.text.read_text() + "\n<|endoftext|>\nThe quick brown fox was not there.")
    longer = shutil.copy(other, tmp_path / "longer.txt")
    for change, words in (
        ({"text": other}, "fed other tokens"),
        ({"text": longer}, "measured on another text"),
        ({"window": 16}, "fed other tokens"),
    ):
        report = run({"perplexity": {"at_most": 9.0, "of": "baseline"}}, paths=[gated.int8], **change)
        assert report.rows[0].outcome == "fail"
        assert words in failures(report)["int8"]["perplexity"]


def test_a_text_that_was_renamed_is_the_same_text(gated, run, asked, tmp_path):
    renamed = Path(shutil.copy(gated.text, tmp_path / "renamed.txt"))
    report = run({"perplexity": {"at_most": 1.0, "of": "baseline"}}, text=renamed)
    assert outcomes(report) == {"fp32": "pass", "int8": "pass"}


def test_another_tokenizer(gated, run, spoiled):
    """Rewritten with a manifest that agrees: the ids are others, so the figures are of another text."""

    other = spoiled(fewer_merges)
    report = run(
        {"perplexity": [{"at_most": 9.0, "of": "baseline"}, {"at_most": 9.0, "of": "fp32"}]}, paths=[gated.fp32, other]
    )
    assert outcomes(report) == {"fp32": "pass", "int8": "fail"}
    of_baseline, of_fp32 = (check_of(report, "int8", "perplexity", of) for of in ("baseline", "fp32"))
    assert (of_baseline.outcome, of_fp32.outcome) == ("fail", "fail")
    assert "tokenizer" in of_baseline.message
    assert "int8 is fed other tokens than fp32; its tokenizer is another one" in of_fp32.message


def test_a_graph_that_does_not_run(gated, run, asked, spoiled):
    broken = spoiled(lambda folder: (folder / "model.onnx").write_bytes(NO_GRAPH))
    budgets = {"perplexity": [SAME, OF_FP32], "latency_s": OF_FP32, "weight_bytes": SAME}
    report = run(budgets, paths=[gated.fp32, broken], sentences=1, rounds=1)
    assert outcomes(report) == {"fp32": "pass", "int8": "fail"}
    told = failures(report)["int8"]
    assert told.keys() == {"perplexity", "latency_s"}
    assert "cannot load it" in told["perplexity"]
    assert "was not timed" in told["latency_s"]


def test_an_fp32_that_does_not_run(gated, run, asked, spoiled):
    broken = spoiled(lambda folder: (folder / "model.onnx").write_bytes(NO_GRAPH), name="fp32")
    report = run({"perplexity": [SAME, OF_FP32]}, paths=[broken, gated.int8])
    assert outcomes(report) == {"fp32": "fail", "int8": "fail"}
    assert failures(report)["int8"].keys() == {"perplexity"}
    assert "fp32 was not measured" in failures(report)["int8"]["perplexity"]
    assert check_of(report, "int8", "perplexity", "baseline").outcome == "pass"


# Input that cannot be used


def refused(message, run, *given, error=InputError, **named):
    with pytest.raises(error, match=message) as caught:
        run(*given, **named)
    assert "\n" not in str(caught.value)


def test_what_cannot_stand_side_by_side(gated, run, tmp_path, asked):
    other = decoders.save(tmp_path / "other", decoders.bigram(np.eye(3))).path
    refused(
        r"gate\.json: is of gpt2, and the artifacts are of hand-made; name the baseline of hand-made",
        *(run, {"perplexity": SAME}),
        paths=[other],
    )
    refused("artifacts of several models", run, {"perplexity": SAME}, paths=[gated.int8, other])
    copy = shutil.copytree(gated.fp32, tmp_path / "b" / "fp32")
    refused("two artifacts are in folders of this name", run, {"perplexity": SAME}, paths=[gated.fp32, copy])
    copy = copy.rename(tmp_path / "exact")
    refused("fp32 and exact are both fp32", run, {"perplexity": SAME}, paths=[gated.fp32, copy])
    refused("no baseline there", run, {"perplexity": SAME}, baseline=tmp_path / "none.json")
    budgets = {"int8-statik": {"perplexity": SAME}}
    refused("int8-statik: unknown recipe; did you mean int8-static", run, {}, recipes=budgets)
    refused("fp8: has budgets, and no artifact of this recipe was given", run, {}, recipes={"fp8": {"drift": DRIFT}})
    assert asked == []


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU here")
def test_a_provider_that_is_not_there(gated, run, asked):
    from qexport.gating.bench import GateOptions

    cuda = GateOptions(provider="cuda")
    refused("--provider cuda", run, {"perplexity": SAME}, options=cuda, error=UnsupportedHere)
    assert asked == []


# Times


def test_times_pass_under_wide_bounds_and_fail_under_impossible_ones(run, asked):
    wide, impossible = ({"latency_s": {"at_most": most, "of": "fp32"}} for most in (1e6, 1e-6))
    passed = run(wide, sentences=2, rounds=1)
    assert outcomes(passed) == {"fp32": "pass", "int8": "pass"}
    change = passed.rows[1].changes[0]
    assert (change.metric, change.before, change.of_baseline) == ("latency_s", None, None)
    assert change.of_fp32 == check_of(passed, "int8", "latency_s").found
    failed = run(impossible, sentences=2, rounds=1)
    assert outcomes(failed) == {"fp32": "pass", "int8": "fail"}
    faster = run({"latency_s": {"at_least": 1e6, "of": "fp32"}}, sentences=2, rounds=1)
    assert outcomes(faster) == {"fp32": "pass", "int8": "fail"}


# Tasks


@pytest.mark.slow
def test_accuracies_of_a_task(gated, run, asked, tmp_path):
    metric = "piqa_acc_norm"
    budgets = {metric: [{"at_least": 0.1, "of": "baseline"}, {"at_least": 0.1, "of": "fp32"}]}
    path = tmp_path / "gate.json"
    made, before = update(gated.both, path, gated.plan(budgets), ONE)
    assert before is None
    assert set(json.loads(path.read_text())["rows"]["int8"]["samples"][metric]) == {"0", "1"}
    assert made.feeds[metric].text == "piqa_validation.jsonl"
    report = run(budgets, baseline=path)
    assert outcomes(report) == {"fp32": "pass", "int8": "pass"}
    assert check_of(report, "int8", metric, "baseline").found.value == 1.0

    failed = run({metric: {"at_least": 500.0, "of": "baseline"}}, baseline=path)
    assert outcomes(failed) == {"fp32": "fail", "int8": "fail"}

    for tasks in ({"limit": 11}, {"limit": 12, "num_fewshot": 1}, {"limit": 12, "system_instruction": "Think."}):
        other = run(budgets, baseline=path, tasks={"data": QUESTIONS} | tasks)
        assert outcomes(other) == {"fp32": "fail", "int8": "fail"}
        assert check_of(other, "int8", metric, "baseline").found is None
        assert "than in the baseline" in check_of(other, "int8", metric, "baseline").message


# What noise does not decide


@pytest.fixture
def intervals(gated):
    """The ratios of int8 to fp32 over the first windows, by what the baseline has of them."""
    stored = read_baseline(gated.baseline)
    tokens = np.array(stored.feeds["perplexity"].tokens)
    now, before = (np.array(stored.rows[name].samples["perplexity"]) for name in ("int8", "fp32"))

    def take(*counts, looks=1):
        confidence = 1 - (1 - stats.CONFIDENCE) / looks
        return [stats.perplexity_ratio(now[:n], before[:n], tokens[:n], confidence=confidence) for n in counts]

    return take


@pytest.fixture
def straddled(intervals):
    """Bounds that 4 windows leave open, and that all of them keep."""
    few, everything = intervals(4, 34, looks=5)
    if few.high > everything.high:
        bounds = {"at_most": (few.high + everything.high) / 2}
    else:
        bounds = {"at_least": (few.low + everything.low) / 2}
    assert Bounds(**bounds).judge(few) == "inconclusive"
    assert Bounds(**bounds).judge(everything) == "pass"
    return bounds


@pytest.fixture
def like_fp32(edited):
    """A baseline whose int8 was fp32."""

    def change(values):
        rows = values["rows"]
        rows["int8"]["samples"]["perplexity"] = rows["fp32"]["samples"]["perplexity"]

    return edited(change)


def test_few_windows_do_not_decide_and_more_do(run, asked, straddled, intervals):
    budgets = {"perplexity": {"of": "fp32"} | straddled}
    report = run(budgets, windows=4)
    assert outcomes(report) == {"fp32": "pass", "int8": "inconclusive"}
    assert report.exit_code == 4
    check = check_of(report, "int8", "perplexity")
    needed = check.bounds.samples_needed(check.found, 4)
    assert f"about {needed - 4:,} more windows would settle it" in check.message
    assert "the text has 30 more, taken with --add-windows" in check.message
    assert asked == [("fp32", "perplexity", 4), ("int8", "perplexity", 4)]

    del asked[:]
    report = run(budgets, windows=4, options=ON)
    assert outcomes(report) == {"fp32": "pass", "int8": "pass"}
    # Each window once, fp32's beside it; no more than are needed.
    taken = [count for name, _, count in asked if name == "int8"]
    assert taken == [4, 4, 8, 16, 2][: len(taken)]
    assert len(taken) > 1
    assert [count for name, _, count in asked if name == "fp32"] == taken
    assert [check_of(report, "int8", "perplexity").found] == intervals(sum(taken), looks=5)


def test_the_windows_of_later_looks_are_those_of_one_look(run, asked, intervals):
    """What is measured piece by piece is what is measured all at once."""
    (whole,) = intervals(34)
    for look in intervals(12, 24, looks=3):  # never settled, so all of it is taken
        assert look.low < whole.value < look.high
    budgets = {"perplexity": {"at_most": whole.value, "of": "fp32"}}
    pieces = run(budgets, windows=12, options=ON)
    assert asked == [(name, "perplexity", count) for count in (12, 12, 10) for name in ("fp32", "int8")]
    at_once = run(budgets)
    assert asked[6:] == [(name, "perplexity", 34) for name in ("fp32", "int8")]
    for piecemeal, whole_row in zip(pieces.rows, at_once.rows, strict=True):
        (one,), (other,) = piecemeal.changes, whole_row.changes
        assert (one.now, one.before) == (other.now, other.before)
        if one.of_fp32 is not None:
            assert one.of_fp32.value == other.of_fp32.value
            assert one.of_fp32.low < other.of_fp32.low, "several looks share one risk"
    message = check_of(pieces, "int8", "perplexity").message
    assert "it lies on the bound, so more text cannot settle it" in message


def test_a_row_that_goes_on_alone(run, asked, straddled, like_fp32):
    """It is inconclusive against the baseline, while fp32 is settled and needs no more."""
    budgets = {"perplexity": [{"of": "baseline"} | straddled, {"at_least": 0.1, "at_most": 9.0, "of": "fp32"}]}
    report = run({}, recipes={"int8-dynamic": budgets}, baseline=like_fp32, windows=4, options=ON)
    assert outcomes(report) == {"fp32": "pass", "int8": "pass"}
    assert sum(count for name, _, count in asked if name == "int8") > 4


def test_a_row_that_goes_on_where_no_budget_is_of_fp32(run, asked, straddled, like_fp32):
    report = run({"perplexity": {"of": "baseline"} | straddled}, baseline=like_fp32, windows=4, options=ON)
    assert outcomes(report)["int8"] == "pass"
    assert sum(count for name, _, count in asked if name == "int8") > 4


def test_drift_goes_on_too(run, asked, like_fp32):
    first = run({"drift": {"at_most": 9.0, "of": "baseline"}}, baseline=like_fp32, windows=4)
    found = check_of(first, "int8", "drift").found
    assert 0.0 < found.low < found.value < found.high
    del asked[:]
    budgets = {"drift": {"at_most": found.value, "of": "baseline"}}
    report = run(budgets, baseline=like_fp32, windows=4, options=ON)
    assert outcomes(report)["fp32"] == "pass"
    taken = [count for name, _, count in asked if name == "int8"]
    assert taken == [4, 4, 8, 16, 2][: len(taken)]
    assert len(taken) > 1
    assert sum(taken) == 34 or check_of(report, "int8", "drift").outcome != "inconclusive"


def test_text_that_is_used_up_is_said(run, asked, intervals):
    (whole,) = intervals(34)
    between = (whole.value + whole.high) / 2  # within the interval of the whole text
    for options in (ONE, ON):
        report = run({"perplexity": {"at_most": between, "of": "fp32"}}, options=options)
        assert outcomes(report) == {"fp32": "pass", "int8": "inconclusive"}
        check = check_of(report, "int8", "perplexity")
        assert check.found == whole
        needed = check.bounds.samples_needed(whole, 34)
        words = f"about {needed - 34:,} more windows would settle it (the text is used up: give more text)"
        assert words in check.message


# Writing the baseline


def test_update_writes_what_then_passes(gated, run, asked, tmp_path):
    path = tmp_path / "gate.json"
    budgets = {"perplexity": SAME, "disk_bytes": SAME, "latency_s": {"at_most": 1.1, "of": "fp32"}}
    made, before = update(gated.both[::-1], path, gated.plan(budgets, windows=2), ONE)
    assert before is None
    assert {probe for _, probe, _ in asked} == {"perplexity", "files"}  # times are of one run only
    assert {count for _, probe, count in asked if probe == "perplexity"} == {34}  # all of the text
    found = read_baseline(path)
    assert found.model_copy(update={"lines": {}}) == made
    assert list(found.rows) == ["fp32", "int8"]
    assert made.rows["int8"].samples.keys() == {"perplexity", "disk_bytes"}
    assert made.feeds.keys() == {"perplexity"}
    assert made.rows == {
        name: row.model_copy(
            update={"samples": {metric: row.samples[metric] for metric in ("perplexity", "disk_bytes")}}
        )
        for name, row in read_baseline(gated.baseline).rows.items()
    }
    for text in (path.read_text(), gated.baseline.read_text()):
        assert str(tmp_path.parent) not in text
        assert str(gated.folder) not in text
        assert "/tmp" not in text
    report = run({"perplexity": SAME, "disk_bytes": SAME}, baseline=path, windows=2)
    assert report.exit_code == 0


def test_update_again_is_the_same_bytes_and_tells_what_was(gated, asked, tmp_path):
    path = tmp_path / "gate.json"
    plan = gated.plan({"perplexity": SAME})
    made, _ = update(gated.both, path, plan, ONE)
    first = path.read_bytes()
    again, before = update(gated.both, path, plan, ONE)
    assert again == made
    assert before.rows == made.rows
    assert path.read_bytes() == first
    update([gated.fp32], path, plan, ONE)
    assert list(read_baseline(path).rows) == ["fp32"]


def test_nothing_is_written_where_anything_is_wrong(gated, asked, spoiled, tmp_path):
    path = tmp_path / "gate.json"
    path.write_text("what was there")
    plan = gated.plan({"perplexity": SAME})
    copy = shutil.copytree(gated.int8, tmp_path / "a" / "int8")
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-1] + b"?")
    broken = spoiled(lambda folder: (folder / "model.onnx").write_bytes(NO_GRAPH))

    def no_merges(folder):
        values = json.loads((folder / "tokenizer.json").read_text())
        values["model"]["merges"] = values["model"]["merges"][:5]
        (folder / "tokenizer.json").write_text(json.dumps(values))

    other = changed(load_artifact(gated.int8), tmp_path / "b" / "int8", no_merges).path
    for paths, error, message in (
        ([gated.fp32, copy], InputError, "int8: .*altered since its manifest was written.*; nothing was written"),
        ([gated.fp32, tmp_path / "gone"], InputError, "gone: .*not an artifact.*; nothing was written"),
        (
            [gated.fp32, broken],
            UnsupportedHere,
            r"int8: perplexity was not measured, so nothing was written \(.*cannot load",
        ),
        ([gated.fp32, other], InputError, "int8: gets other tokens than fp32.*; nothing was written"),
        ([gated.fp32, gated.fp32], InputError, "two artifacts"),
    ):
        refused(message, update, paths, path, plan, ONE, error=error)
        assert path.read_text() == "what was there"
    assert {entry.name for entry in tmp_path.iterdir()} == {"gate.json", "a", "b", "spoiled"}
    refused("cannot be written", update, [gated.fp32], tmp_path / "none" / "gate.json", plan, ONE)


# Against another commit


@pytest.fixture
def against(gated):
    """The gate of the shared artifacts against those of a base commit."""

    def run(budgets, base, *, paths=None, **settings):
        return gate_against(paths or gated.both, base, Path("budgets.toml"), gated.plan(budgets, **settings), ONE)

    return run


def test_the_same_artifacts_are_measured_once_and_pass(gated, against, asked):
    report = against({"perplexity": [SAME, OF_FP32], "drift": {"at_most": 1e-9, "of": "baseline"}}, [gated.folder])
    assert outcomes(report) == {"fp32": "pass", "int8": "pass"}
    assert (report.baseline, report.place, report.notes) == (str(gated.folder), "budgets.toml", ())
    assert sorted(row for row, probe, _ in asked if probe == "perplexity") == ["fp32", "int8"]


def test_what_changed_since_the_base_is_measured_on_both_sides(gated, against, asked, spoiled):
    plan = {"drift": {"at_most": 1e-6, "of": "baseline"}}
    report = against(plan, gated.both, paths=[gated.fp32, spoiled(off_scale)])
    assert failures(report).keys() == {"int8"}
    assert failures(report)["int8"].keys() == {"drift"}
    assert sorted(row for row, probe, _ in asked if probe == "perplexity") == ["fp32", "int8", "int8"]


def test_another_selection_than_the_base_fails(gated, against, asked, attention):
    report = against({"perplexity": OF_FP32}, [gated.fp32, attention])
    assert "quantized and were not" in failures(report)["int8"]["quantized nodes"]
    assert "--nodes attention" in failures(report)["int8"]["selection"]


def test_rows_that_one_side_lacks(gated, against, asked):
    report = against({"perplexity": SAME}, gated.both, paths=[gated.fp32])
    assert "missing: the baseline has this row" in failures(report)["int8"]["artifact"]
    report = against({"perplexity": SAME}, [gated.fp32])
    assert failures(report).keys() == {"int8"}
    assert "has no row in the baseline" in failures(report)["int8"]["baseline"]


def test_windows_grow_on_both_sides(gated, spoiled, asked):
    budgets = {"perplexity": {"at_most": 1.0, "of": "baseline"}}
    plan = gated.plan(budgets, windows=4)
    gate_against([gated.fp32, spoiled(off_scale)], gated.both, Path("budgets.toml"), plan, ON)
    counts = {}
    for row, probe, count in asked:
        if probe == "perplexity":
            counts.setdefault(row, []).append(count)
    assert counts["int8"][:2] == [4, 4]
    assert counts["int8"][0::2] == counts["int8"][1::2]  # head and base, look by look


def test_a_base_that_cannot_be_used_is_one_line(gated, against, asked, spoiled, tmp_path):
    plan = {"perplexity": SAME}
    refused("neither an artifact nor a folder of artifacts", against, plan, [tmp_path])
    altered = shutil.copytree(gated.int8, tmp_path / "a" / "int8")
    (altered / "model.onnx").write_bytes((altered / "model.onnx").read_bytes()[:-1] + b"?")
    refused("--against int8: .*altered since its manifest was written", against, plan, [gated.fp32, altered])
    broken = spoiled(lambda folder: (folder / "model.onnx").write_bytes(NO_GRAPH))
    message = "int8: perplexity was not measured, so the base cannot be compared with"
    refused(message, against, plan, [gated.fp32, broken], error=UnsupportedHere)


# Another CPU

ELSEWHERE = "f" * 12


@pytest.fixture
def elsewhere(asked, monkeypatch):
    """Measurements come from another class of kernels, on which every window costs 0.02 nats more."""
    here = probing.measure

    def moved(record):
        conditions = record.conditions.model_copy(update={"kernel_class": ELSEWHERE, "machine": "Other CPU"})
        samples = record.samples
        if record.metric == "perplexity":
            samples = tuple((nll + 0.02, tokens) for nll, tokens in samples)
        return record.model_copy(update={"conditions": conditions, "samples": samples})

    monkeypatch.setattr(probing, "measure", lambda job: [moved(record) for record in here(job)])


TIGHT = {"drift": {"at_most": 1e-6, "of": "baseline"}, "perplexity": {"at_most": 1.0001, "of": "baseline"}}


def test_a_clean_commit_passes_on_a_cpu_that_the_baseline_does_not_know(run, elsewhere):
    report = run(TIGHT)
    assert report.exit_code == 0
    (note,) = report.notes
    assert note.startswith("the kernels of this CPU (Other CPU) are not in the baseline: 2 rows")
    assert "the artifact has the baseline's bytes" in check_of(report, "int8", "drift").message


def test_a_change_fails_on_a_cpu_that_the_baseline_does_not_know(gated, run, elsewhere, spoiled):
    report = run(TIGHT, paths=[gated.fp32, spoiled(off_scale)])
    assert outcomes(report) == {"fp32": "pass", "int8": "fail"}


def test_a_cpu_is_added_to_a_baseline_beside_the_others(gated, run, elsewhere, tmp_path):
    path = shutil.copy(gated.baseline, tmp_path / "gate.json")
    before = read_baseline(path)
    made = add_cpu(gated.both, path, gated.plan(TIGHT, windows=2), ONE)
    found = read_baseline(path)
    assert found.model_copy(update={"lines": {}}) == made.model_copy(update={"lines": {}})
    assert found.cpus.keys() == {*before.cpus, ELSEWHERE}
    for name, row in found.rows.items():
        assert row.model_copy(update={"elsewhere": {}}) == before.rows[name]
        assert row.elsewhere[ELSEWHERE].samples.keys() == {"perplexity"}
    report = run(TIGHT, baseline=path)
    assert (report.exit_code, report.notes) == (0, ())
    assert check_of(report, "int8", "drift").found.value == pytest.approx(0.0, abs=1e-5)
    again = path.read_bytes()
    add_cpu(gated.both, path, gated.plan(TIGHT), ONE)  # of this CPU once more
    assert path.read_bytes() == again


def test_a_cpu_is_not_added_where_something_changed(gated, elsewhere, spoiled, tmp_path):
    path = shutil.copy(gated.baseline, tmp_path / "gate.json")
    before = path.read_bytes()
    for paths, message in (
        ([gated.fp32, spoiled(off_scale)], "int8: drift .*; nothing was written, since a CPU is added"),
        ([gated.fp32], "int8: missing.*; nothing was written"),
    ):
        refused(message, add_cpu, paths, path, gated.plan(TIGHT), ONE)
        assert path.read_bytes() == before


# The command


@pytest.fixture
def config(gated, tmp_path):
    return lambda budgets: gated.config(tmp_path / "budgets.toml", budgets)


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def qexport(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, (result.stdout, result.stderr)
    return result


def failure(*words):
    """The one line on stderr of a command that ends with code 3."""
    result = qexport(*words, code=3)
    assert result.stdout == ""
    assert result.stderr.startswith("qexport: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    return result.stderr


PASSING = 'budgets.perplexity = { at_most = 1.0001, of = "baseline" }\n'
FAILING = 'budgets.disk_bytes = { at_most = 0.1, of = "fp32" }\n'


def strict(text):
    def no(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=no)


def test_exit_codes_and_what_is_printed(gated, config, asked, straddled):
    given = ("gate", *gated.both, "--baseline", gated.baseline, "--threads", 1, "--config")
    passed = qexport(*given, config(PASSING), code=0)
    assert "int8" in passed.stdout
    assert passed.stderr == ""
    failed = qexport(*given, config(FAILING), code=1)
    assert "allowed" in failed.stdout
    ((side, bound),) = straddled.items()
    some = config(f'windows = 4\nbudgets.perplexity = {{ {side} = {bound}, of = "fp32" }}\n')
    open_ = qexport(*given, some, code=4)
    assert "more windows would settle it" in open_.stdout
    qexport(*given, some, "--add-windows", code=0)


def test_against_is_asked_in_place_of_a_baseline(gated, config, asked):
    given = ("gate", *gated.both, "--threads", 1, "--config", config(PASSING))
    assert "baseline " + str(gated.folder) in qexport(*given, "--against", gated.folder, code=0).stdout.replace(
        "\n", ""
    )
    assert "give --baseline FILE, or --against DIR" in qexport(*given, code=2).stderr.replace("\n", " ")
    both = failure(*given, "--against", gated.folder, "--baseline", gated.baseline)
    assert "leave --baseline, --update and --add-cpu out" in both
    assert "takes all of the text and writes the baseline" in failure(
        *given, "--baseline", gated.baseline, "--add-cpu", "--update"
    )


def test_json_is_strict_and_alone(gated, config, asked, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    given = ("gate", *gated.both, "--baseline", gated.baseline, "--threads", 1, "--json", "--config")
    passed = strict(qexport(*given, config(PASSING)).stdout)
    assert (passed["outcome"], passed["model"]) == ("pass", "gpt2")
    assert [row["name"] for row in passed["rows"]] == ["fp32", "int8"]
    failed = strict(qexport(*given, config(FAILING), code=1).stdout)
    assert failed["outcome"] == "fail"
    (check,) = [check for row in failed["rows"] for check in row["checks"] if check["outcome"] == "fail"]
    assert check["what"] == "disk_bytes"
    assert check["bounds"]["at_most"] == 0.1


def test_files_and_what_services_ask_for(gated, config, asked, monkeypatch, tmp_path):
    summary, folder = tmp_path / "summary.md", tmp_path / "out" / "gate"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    given = ("gate", *gated.both, "--baseline", gated.baseline, "--threads", 1, "-o", folder, "--config")
    quiet = qexport(*given, config(FAILING), code=1)
    assert "::error" not in quiet.stdout
    assert set(os.listdir(folder)) == {"gate.md", "gate.json", "junit.xml", "code-quality.json"}
    assert strict((folder / "gate.json").read_text())["outcome"] == "fail"
    (entry,) = strict((folder / "code-quality.json").read_text())
    assert entry["location"]["lines"]["begin"] == read_baseline(gated.baseline).lines["int8"]
    assert summary.read_text().startswith("before\n")
    assert (folder / "gate.md").read_text() in summary.read_text()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    told = qexport(*given, config(FAILING), code=1).stdout.splitlines()
    (line,) = [line for line in told if line.startswith("::")]
    assert line.startswith("::error file=")
    assert "int8" in line
    assert summary.read_text().count("before") == 1
    told = qexport(*given, config(PASSING)).stdout
    assert "::" not in told
    assert strict((folder / "gate.json").read_text())["outcome"] == "pass"


def test_update_says_what_changed(gated, config, asked, attention, tmp_path):
    path = tmp_path / "gate.json"

    def updated(*paths):
        words = ("gate", *paths, "--baseline", path, "--config", config(PASSING), "--threads", 1, "--update")
        result = qexport(*words)
        assert result.stderr == ""
        assert result.stdout.count("\n") == 1
        assert result.stdout.startswith(f"{path}: ")
        return result.stdout.removeprefix(f"{path}: ")

    assert updated(*gated.both) == "2 rows; commit it, so that it is reviewed\n"
    assert updated(*gated.both).startswith("2 rows; ")
    assert updated(gated.fp32, attention).startswith("2 rows, 1 changed (int8); ")
    assert updated(gated.int8).startswith("1 rows, 1 changed (int8), 1 dropped (fp32); ")
    assert updated(*gated.both).startswith("2 rows, 1 new (fp32); ")
    again = ("gate", *gated.both, "--baseline", path, "--config", config(PASSING), "--threads", 1)
    qexport(*again, code=0)
    for option in ("--add-windows", "-o"):
        extra = (option,) if option == "--add-windows" else (option, tmp_path / "out")
        assert "--update: takes all of the text" in failure(*again, "--update", *extra)


def test_input_that_cannot_be_used_is_one_line(gated, config, asked, tmp_path, monkeypatch):
    good = config(PASSING)
    given = ("gate", *gated.both, "--baseline", gated.baseline, "--config")
    assert "none.toml: cannot be read (No such file or directory)" in failure(*given, tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text('budgets.perplexitie = { at_most = 1.0, of = "fp32" }\n')
    assert "did you mean" in failure(*given, bad)
    none = ("gate", *gated.both, "--config", good, "--baseline")
    assert "no baseline there; write one with" in failure(*none, tmp_path / "none.json")
    (tmp_path / "gate.json").write_text("{\n\n")
    assert "not a baseline" in failure(*none, tmp_path / "gate.json")
    assert "two artifacts" in failure("gate", gated.fp32, gated.fp32, "--baseline", gated.baseline, "--config", good)
    monkeypatch.chdir(tmp_path)
    assert "pyproject.toml: cannot be read" in failure("gate", gated.fp32, "--baseline", gated.baseline)
    (tmp_path / "pyproject.toml").write_text("tool = 3\n")
    assert "has no [tool.qexport.gate]" in failure("gate", gated.fp32, "--baseline", gated.baseline)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failure(*given, good, "-o", tmp_path / "file", "--threads", 1)


def test_a_summary_that_cannot_be_written_is_one_line(gated, config, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    words = ("gate", *gated.both, "--baseline", gated.baseline, "--config", config(PASSING), "--threads", 1)
    assert "Is a directory" in failure(*words)
