from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qexport import quantization
from qexport.comparison import evaluation
from qexport.comparison.evaluation import EvalOptions, evaluate_artifacts, plan_of, rows_of
from qexport.core.errors import InputError, NotComparable, UnsupportedHere
from qexport.core.record import read_records
from qexport.inputs.experiment import Tasks
from qexport.measurement import bench, memory
from qexport.measurement.answers import Apart
from qexport.measurement.tasks.evaluate import RowIdentity, evaluate
from qexport.measurement.tasks.load import load_task
from tests import decoders
from tests.measurement.tasks.conftest import Direct

DATA = Path(__file__).resolve().parent.parent / "data" / "tasks"
PLAN = Tasks(data=DATA, limit=3, gen_kwargs={"max_gen_toks": 8})
SCORED = Tasks(data=DATA, limit=3)
"""Of tasks that generate nothing."""
ONE = EvalOptions(threads=1)


@pytest.fixture(scope="session")
def int8(fp32, tmp_path_factory):
    """The tiny GPT-2 with integer matrix products."""
    folder = tmp_path_factory.mktemp("int8") / "int8"
    return quantization.quantize(str(fp32("gpt2").path), folder, recipe_name="int8-dynamic", options={"engine": "ort"})


@pytest.fixture
def asked(monkeypatch):
    """How many requests a child was given, each time."""
    told = []
    real = Apart._ask

    def counted(self, question, advance):
        told.append(len(question.passages) + len(question.prompts))
        return real(self, question, advance)

    monkeypatch.setattr(Apart, "_ask", counted)
    return told


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr(bench, "evaluate", lambda *_given: pytest.fail("work was begun"))


@pytest.mark.real_child
@pytest.mark.slow
def test_artifacts_are_asked_apart_and_reported_side_by_side(fp32, int8, tmp_path):
    folder = tmp_path / "reports" / "tiny"
    folder.parent.mkdir()
    artifacts = {"fp32": fp32("gpt2"), "int8-dynamic (all)": int8}
    names = ["gsm8k", "arc_easy"]
    records = evaluate_artifacts([each.path for each in artifacts.values()], names, folder, plan=PLAN, options=ONE)
    metrics = ["gsm8k_strict", "gsm8k_flexible", "arc_easy_acc", "arc_easy_acc_norm"]
    assert [(record.row, record.metric) for record in records] == [(row, name) for row in artifacts for name in metrics]
    assert not [record for record in records if record.skipped]
    assert len({record.run for record in records}) == 1

    assert read_records(folder / "records.jsonl") == records
    assert {"report.md", "report.html"} <= {entry.name for entry in folder.iterdir()}
    assert "ARC-Easy" in (folder / "report.md").read_text()
    assert [entry.name for entry in folder.parent.iterdir()] == ["tiny"]  # the answers are gone

    tasks = {name: load_task(name, PLAN) for name in names}
    for row, artifact in artifacts.items():
        mine = [record for record in records if record.row == row]
        here = evaluate(artifact, tasks, PLAN, Direct(artifact), RowIdentity(run=mine[0].run, row=row))
        for record, same in zip(mine, here, strict=True):
            versions = record.conditions.versions
            assert versions.keys() >= {"onnxruntime", "numpy"}
            told = same.conditions.model_copy(update={"versions": versions})
            assert record == same.model_copy(update={"conditions": told})
    for metric in metrics:
        assert len({record.conditions.text_sha256 for record in records if record.metric == metric}) == 1
    integer = {record.row: record.facts.get("integer_matmuls_run", 0) for record in records}
    assert integer["int8-dynamic (all)"] > 0 == integer["fp32"]

    with pytest.raises(InputError, match="--overwrite"):
        evaluate_artifacts([fp32("gpt2").path], names, folder, plan=PLAN, options=ONE)
    assert read_records(folder / "records.jsonl") == records


@pytest.mark.slow
def test_an_artifact_in_torch(fp32, tiny, tmp_path):
    nf4 = quantization.quantize(str(tiny("gpt2")), tmp_path / "nf4", recipe_name="bnb-nf4")
    paths = [fp32("gpt2").path, nf4.path]
    records = evaluate_artifacts(paths, ["arc_easy", "gsm8k"], tmp_path / "report", plan=PLAN, options=ONE)
    rows = {record.row: record for record in records if record.metric == "arc_easy_acc"}
    assert list(rows) == ["fp32", "bnb-nf4"]
    assert not [record for record in records if record.skipped]
    assert rows["fp32"].conditions.text_sha256 == rows["bnb-nf4"].conditions.text_sha256
    assert rows["bnb-nf4"].conditions.runtime.startswith("torch ")
    tasks = {"arc_easy": load_task("arc_easy", PLAN)}
    (here, _) = evaluate(nf4, tasks, PLAN, Direct(nf4), RowIdentity(run="", row="bnb-nf4"))
    assert here.samples == rows["bnb-nf4"].samples


# Going on


def test_what_was_answered_is_not_asked_again(fp32, tmp_path, monkeypatch, asked):
    """Cut short behind its answers, then gone on with: with more questions, and at first with other threads."""
    given = ([fp32("gpt2").path], ["piqa"], tmp_path / "tiny")
    monkeypatch.setattr(evaluation, "write_report", lambda *_given, **_named: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        evaluate_artifacts(*given, plan=SCORED, options=ONE)
    assert asked == [6]
    assert os.listdir(tmp_path) == ["tiny.answers"]
    with pytest.raises(InputError, match=r"tiny\.answers: .*cut short; go on with --resume, or .* --overwrite"):
        evaluate_artifacts(*given, plan=SCORED, options=ONE)

    more = SCORED.model_copy(update={"limit": 4})
    with pytest.raises(NotComparable, match=r"cannot be resumed, .* other conditions .*; start anew with --overwrite"):
        evaluate_artifacts(*given, plan=more, options=replace(ONE, resume=True, threads=2))
    assert asked == [6, 2]
    monkeypatch.setattr(evaluation, "write_report", lambda *_given, **_named: None)
    records = evaluate_artifacts(*given, plan=more, options=replace(ONE, resume=True))
    assert asked == [6, 2, 2]
    assert [len(record.samples) for record in records] == [4, 4]
    assert os.listdir(tmp_path) == []


def test_answers_that_were_spoiled_are_one_clear_line(fp32, tmp_path):
    artifact = fp32("gpt2")
    answers = tmp_path / "tiny.answers" / f"{artifact.sha256}.jsonl"
    answers.parent.mkdir()
    answers.write_text('{"key":"a","log_likelihood":-1.0,"greedy":true}\n{}{\n')
    with pytest.raises(InputError, match=r"\.jsonl:2: not an answer of qexport; remove the file"):
        evaluate_artifacts([artifact.path], ["piqa"], tmp_path / "tiny", plan=SCORED, options=replace(ONE, resume=True))


def test_a_finished_report_is_not_made_again_by_going_on(fp32, tmp_path, no_work):
    """Its answers are gone: going on would ask everything again, for hours perhaps."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "records.jsonl").write_text("")
    with pytest.raises(InputError, match="--overwrite"):
        evaluate_artifacts(
            [fp32("gpt2").path], ["piqa"], tmp_path / "tiny", plan=SCORED, options=replace(ONE, resume=True)
        )


def test_an_artifact_that_cannot_run_here_is_skipped_and_the_others_are_not(fp32, int8, tmp_path, monkeypatch):
    real = memory.require_fit

    def require(artifact, provider):
        if artifact.sha256 == int8.sha256:
            raise UnsupportedHere("it does not fit")
        real(artifact, provider)

    monkeypatch.setattr(memory, "require_fit", require)
    paths = [int8.path, fp32("gpt2").path]
    records = evaluate_artifacts(paths, ["piqa"], tmp_path / "tiny", plan=SCORED, options=ONE)
    assert [(record.row, record.skipped) for record in records] == [
        *[("int8-dynamic (all)", "it does not fit")] * 2,
        *[("fp32", None)] * 2,
    ]
    assert "it does not fit" in (tmp_path / "tiny" / "report.md").read_text()


# Before anything is asked


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["arc_esy"], r"arc_esy: no such task here; did you mean arc_easy"),
        (["arc_easy", "piqa", "arc_easy"], "arc_easy: is there twice; leave one out"),
        ([], "no task is named"),
        ([""], "no such task"),
    ],
)
def test_tasks_that_mean_nothing(fp32, tmp_path, no_work, names, message):
    with pytest.raises(InputError, match=message):
        evaluate_artifacts([fp32("gpt2").path], names, tmp_path / "report", plan=PLAN)
    assert list(tmp_path.iterdir()) == []


def test_answers_that_do_not_fit_are_said_before_anything_is_asked(fp32, tmp_path, asked):
    """lm-eval itself would have all choices scored first."""
    plan = PLAN.model_copy(update={"gen_kwargs": {}})
    with pytest.raises(InputError, match="256 new tokens do not fit into the model's context of 64"):
        evaluate_artifacts([fp32("gpt2").path], ["piqa", "gsm8k"], tmp_path / "report", plan=plan, options=ONE)
    assert asked == []


def test_artifacts_that_do_not_stand_side_by_side(fp32, tmp_path, no_work):
    def refused(message, *paths):
        with pytest.raises(InputError, match=message):
            evaluate_artifacts(paths, ["piqa"], tmp_path / "report", plan=SCORED)

    other = decoders.save(tmp_path / "other", decoders.bigram(np.eye(3)))
    several = "artifacts of several models, gpt2 and hand-made; evaluate each model by itself"
    refused(several, fp32("gpt2").path, other.path)
    refused("fp32 in gpt2-fused: is there twice; name each artifact once", *[fp32("gpt2").path] * 2)
    refused("not an artifact", tmp_path)
    refused("not an artifact", tmp_path / "absent")
    assert os.listdir(tmp_path) == ["other"]


def test_rows_of_one_recipe_are_told_apart_by_their_folders(fp32, int8, tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(bench, "evaluate", lambda *given: places.append(given[-1]) or [])
    monkeypatch.setattr(evaluation, "write_report", lambda *_given, **_named: None)
    copies = [shutil.copytree(fp32("gpt2").path, tmp_path / name) for name in ("one", "two")]
    evaluate_artifacts([*copies, int8.path], ["piqa"], tmp_path / "report", plan=SCORED)
    assert [place.row for place in places] == ["fp32 in one", "fp32 in two", "int8-dynamic (all)"]
    assert len({place.run for place in places}) == 1


def test_a_folder_that_is_no_report_is_left_alone(fp32, tmp_path, no_work):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    for options in (ONE, replace(ONE, resume=True)):
        with pytest.raises(InputError, match="not a report"):
            evaluate_artifacts([fp32("gpt2").path], ["piqa"], tmp_path / "mine", plan=SCORED, options=options)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["diary.txt"]


# What was typed


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("max_gen_toks=128", {"max_gen_toks": 128}),
        ("max_gen_toks=8,until=Question:", {"max_gen_toks": 8, "until": "Question:"}),
        (" max_gen_toks=8", {"max_gen_toks": 8}),
        ("do_sample=false,temperature=0.0", {"do_sample": False, "temperature": 0.0}),
        ("do_sample=True,temperature=0.7", {"do_sample": True, "temperature": 0.7}),
        ("until==", {"until": "="}),
        ("until=The END", {"until": "The END"}),
        ('until="The END"', {"until": "The END"}),
    ],
)
def test_generation_settings_as_lm_eval_reads_them(text, settings):
    from lm_eval._cli.utils import key_val_to_dict

    found = plan_of(gen_kwargs=text).gen_kwargs
    assert found == settings
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in settings.items()
    }
    assert {name.strip(): value for name, value in key_val_to_dict(text).items()} == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gen_kwargs": "max_gen_toks"}, "--gen-kwargs max_gen_toks: 'max_gen_toks' is not KEY=VALUE"),
        ({"gen_kwargs": "max_gen_toks=8,"}, "'' is not KEY=VALUE"),
        ({"gen_kwargs": "=8"}, "'=8' is not KEY=VALUE"),
        ({"gen_kwargs": ""}, "is not KEY=VALUE"),
        ({"gen_kwargs": "until=null"}, "--gen-kwargs"),
        ({"limit": 0}, "--limit 0: .* greater than 0; correct it"),
        ({"limit": -0.5}, "--limit -0.5: .* greater than 0; correct it"),
        ({"limit": float("nan")}, "--limit nan"),
        ({"limit": float("inf")}, "--limit inf"),
        ({"num_fewshot": -1}, "--num-fewshot -1: .*; correct it"),
    ],
)
def test_a_plan_that_means_nothing(given, message):
    with pytest.raises(InputError, match=message) as caught:
        plan_of(**{"gen_kwargs": None} | given)
    assert "\n" not in str(caught.value)


def test_what_is_typed_makes_the_plan(tmp_path):
    given = {"data": tmp_path, "num_fewshot": 2, "limit": 0.5, "apply_chat_template": True, "seed": 7}
    plan = plan_of(gen_kwargs=None, **given)
    assert plan.model_dump(include=set(given)) == given
    assert plan_of(gen_kwargs=None) == Tasks()


def test_how_many_requests_at_once():
    assert rows_of("auto") is None
    assert rows_of("7") == 7
    for text in ("0", "-1", "x", "1.5", "", "auto:4", "²"):
        with pytest.raises(InputError, match=f"--batch-size {text}: neither auto nor a number above zero"):
            rows_of(text)
