from __future__ import annotations

import shutil

import pytest

from qexport import pipeline
from qexport.artifact import load_artifact
from qexport.calibration import MinMax
from qexport.errors import InputError, SelectionError, UnsupportedHere
from qexport.inputs.experiment import Experiment, Row, TextPaths
from qexport.inputs.text import Text, load_text
from qexport.measure import METRICS
from qexport.pipeline import CompareOptions
from qexport.recipes import recipe
from qexport.record import read_records
from qexport.runtime import ProviderUnavailable
from qexport.schemes.int8 import Static
from qexport.selection import parse_selector

ORT = {"engine": "ort"}
DYNAMIC = {"engine": "ort", "smooth": False}
WORDS = "the quick brown fox jumps over the lazy dog and then the other dog comes back to the fox again"
STORIES = Text("stories", tuple(f"Story {number}: {WORDS}. It was {number}!" for number in range(12)))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path):
    """Evaluation and calibration text as files, apart from each other."""
    paths = TextPaths(evaluation=tmp_path / "evaluation.txt", calibration=tmp_path / "calibration.txt")
    paths.evaluation.write_text("\n<|endoftext|>\n".join(STORIES.documents[:6]))
    paths.calibration.write_text("\n<|endoftext|>\n".join(STORIES.documents[6:]))
    return paths


@pytest.fixture
def experiment(tiny, texts):
    rows = (Row(recipe="fp32"), Row(recipe="int8-static", nodes="attention"))
    return Experiment(
        title="A tiny table", model=str(tiny("gpt2")), rows=rows, text=texts, window=32, windows=3, sentences=4
    )


def test_a_plan_of_an_artifact_counts_a_tied_table_once(fp32):
    plan = pipeline.plan(str(fp32("gpt2").path), parse_selector("all"))
    before, after = plan.total_bytes
    tied = next(node for node in plan.selection.nodes if node.tied)
    assert before == 4 * plan.parameters
    assert sum(node.parameters for node in plan.selection.nodes) == plan.parameters + tied.parameters
    assert before / 4 < after < before / 3


@pytest.mark.parametrize("name", ["fp32", "bnb-nf4"])
def test_a_recipe_without_a_choice_of_nodes_has_no_plan(fp32, name):
    with pytest.raises(InputError, match="no choice of nodes"):
        pipeline.plan(str(fp32("gpt2").path), recipe_name=name)


def test_quantize_tells_what_was_asked_found_and_calibrated(fp32, tmp_path):
    parent = fp32("llama")
    made = pipeline.quantize(
        str(parent.path), tmp_path / "out", selector=parse_selector("attention"), options=ORT, text=STORIES
    )
    manifest = load_artifact(tmp_path / "out", verify=True).manifest
    assert manifest == made.manifest
    assert (manifest.recipe, manifest.engine, manifest.parent_sha256) == ("int8-static", "ort", parent.sha256)
    assert manifest.selection.rules == "--nodes attention"
    assert [node.name for node in manifest.selection.nodes] == [node.name for node in manifest.quantized]
    assert (manifest.calibration.text, manifest.calibration.method) == (
        "stories",
        "smoothquant, percentile(percent=99.99)",
    )
    assert manifest.calibration.windows == 12
    side = {info.path for info in parent.manifest.files} - {"model.onnx"}
    assert side <= {info.path for info in manifest.files}
    for name in side:
        assert (made.path / name).read_bytes() == (parent.path / name).read_bytes()


def test_quantize_takes_the_bundled_text_where_none_is_given(fp32, tmp_path):
    made = pipeline.quantize(
        str(fp32("gpt2").path), tmp_path / "out", selector=parse_selector("attention"), options=ORT
    )
    assert made.manifest.calibration.text == load_text(pipeline.bundled(pipeline.CALIBRATION_TEXT)).origin
    assert 0 < made.manifest.calibration.windows <= pipeline.CALIBRATION_WINDOWS


def test_choices_reach_the_scheme_and_the_manifest(fp32, tmp_path):
    options = {"engine": "ort", "method": "entropy", "symmetric": True, "grid": "int8-reduced"}
    made = pipeline.quantize(str(fp32("gpt2").path), tmp_path / "out", options=options, text=STORIES)
    settings = made.manifest.settings
    assert (settings["weights"], settings["method"], settings["symmetric"]) == ("int8-reduced", "entropy", True)
    applied = recipe("int8-static").configured({"method": "minmax"}).scheme
    assert (applied.activations, applied.symmetric) == (Static(method=MinMax()), False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe_name": "int8-dynamic", "options": {"method": "entropy"}}, "static activations"),
        ({"recipe_name": "int8-dynamic", "options": {"symmetric": True}}, "static activations"),
        ({"recipe_name": "int8-dynamic", "options": DYNAMIC, "text": STORIES}, "learns nothing from calibration text"),
        ({"recipe_name": "w4a16-rtn", "text": STORIES}, "learns nothing from calibration text"),
        ({"recipe_name": "bnb-nf4", "text": STORIES}, "learns nothing from calibration text"),
        ({"recipe_name": "bnb-nf4", "options": {"grid": "int8"}}, "bnb-nf4: the option grid is not for this recipe"),
        ({"recipe_name": "w4a16-rtn", "options": {"engine": "ort"}}, "the option engine is not for this recipe"),
        ({"recipe_name": "w4a16-rtn", "options": {"block_size": 48}}, "the option block_size: 48: Input should be 16"),
        ({"recipe_name": "bnb-nf4", "selector": parse_selector("attention")}, "leave --nodes out"),
        ({"recipe_name": "fp16", "selector": parse_selector("attention")}, "leave --nodes out"),
        ({"recipe_name": "bnb-nf4"}, "start from the model itself"),
        ({"recipe_name": "fp32"}, "use `qexport export`"),
        ({"recipe_name": "int8-statik"}, "unknown recipe; did you mean int8-static"),
        ({"options": {"engine": "orz"}}, "the option engine: 'orz': Input should be 'inc'"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(fp32, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        pipeline.quantize(str(fp32("gpt2").path), tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_artifact_is_not_quantized_again(fp32, tmp_path):
    made = pipeline.quantize(str(fp32("gpt2").path), tmp_path / "out", recipe_name="int8-dynamic", options=DYNAMIC)
    with pytest.raises(InputError, match=r"is quantized already \(int8-dynamic\)"):
        pipeline.quantize(str(made.path), tmp_path / "again", recipe_name="int8-dynamic", options=DYNAMIC)
    with pytest.raises(InputError, match="is quantized already"):
        pipeline.plan(str(made.path), None)


def test_an_artifact_can_be_made_in_the_place_of_its_parent(fp32, tmp_path):
    shutil.copytree(fp32("gpt2").path, tmp_path / "model")
    made = pipeline.quantize(
        str(tmp_path / "model"), tmp_path / "model", recipe_name="int8-dynamic", options=DYNAMIC, overwrite=True
    )
    assert load_artifact(made.path, verify=True).manifest.recipe == "int8-dynamic"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_compare_measures_every_row_and_writes_the_whole_report(experiment, tmp_path):
    options = CompareOptions(engine="ort", rounds=2, threads=1, keep_artifacts=True)
    folder = tmp_path / "reports" / "tiny"
    records = pipeline.compare(experiment, folder, options=options)
    labels = ["fp32", "int8-static (attention)"]
    assert [(record.metric, record.row) for record in records] == [(name, row) for name in METRICS for row in labels]
    assert {record.metric for record in records if record.skipped} == {"peak_device_bytes"}
    assert read_records(folder / "records.jsonl") == records
    names = {entry.name for entry in folder.iterdir()}
    assert {"report.md", "report.html", "records.jsonl", "artifacts"} <= names
    assert [name for name in names if name.endswith(".png")]
    assert [entry.name for entry in folder.parent.iterdir()] == ["tiny"]
    kept = load_artifact(folder / "artifacts" / "int8-static-attention", verify=True)
    assert len(kept.manifest.quantized) == 4
    latency = next(record for record in records if record.metric == "latency_s" and record.row == labels[1])
    assert {row[2] for row in latency.samples} == {0.0, 1.0}
    quality = {record.row: record for record in records if record.metric == "perplexity"}
    assert len({record.conditions.text_sha256 for record in quality.values()}) == 1
    assert quality[labels[1]].facts["integer_matmuls_run"] == 4
    with pytest.raises(InputError, match="--overwrite"):
        pipeline.compare(experiment, folder, options=options)


def test_a_row_that_cannot_run_here_is_skipped_with_its_reason(experiment, fp32, tmp_path, monkeypatch):
    def refuse(*_given, **_named):
        raise UnsupportedHere("no such engine on this machine")

    monkeypatch.setattr(pipeline, "_apply_onnx", refuse)
    (wanted,) = pipeline._wanted_rows(experiment, CompareOptions(engine="ort"))[1:]
    built = pipeline._build_row(
        wanted, source=None, fp32=fp32("gpt2"), calibration=STORIES, work=tmp_path, provider="cpu"
    )
    assert (built.artifact, built.skipped) == (None, "no such engine on this machine")
    skipped = pipeline._skipped(built, "perplexity", "gpt2")
    assert (skipped.row, skipped.recipe, skipped.skipped) == (wanted.label, "int8-static", built.skipped)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([Row(recipe="int8-statik")], InputError, "unknown recipe"),
        ([Row(recipe="fp32"), Row(recipe="int8-static", nodes="atention")], SelectionError, "unknown role"),
        ([Row(recipe="bnb-nf4", nodes="attention")], InputError, "no choice of nodes"),
        ([Row(recipe="fp32", nodes="attention")], InputError, "no choice of nodes"),
        ([Row(recipe="int8-static"), Row(recipe="int8-static", nodes=" all")], InputError, "two rows would be called"),
        ([Row(recipe="fp8", options={"block_size": 32})], InputError, "fp8: the option block_size is not for"),
    ],
)
def test_the_rows_are_read_before_any_work_is_done(experiment, tmp_path, monkeypatch, *, rows, error, message):
    monkeypatch.setattr(pipeline, "_locate", lambda *_given: pytest.fail("work was begun"))
    changed = experiment.model_copy(update={"rows": tuple(rows)})
    with pytest.raises(error, match=message):
        pipeline.compare(changed, tmp_path / "report", options=CompareOptions(engine="ort"))


def test_text_that_calibration_has_seen_is_not_measured_on(experiment, tmp_path):
    seen = Text("seen", (*STORIES.documents[:3], "another one entirely"))
    unseen = Text("unseen", STORIES.documents[2:])
    with pytest.raises(InputError, match="seen and unseen: 1 documents are in both"):
        pipeline.compare(
            experiment, tmp_path / "report", evaluation=seen, calibration=unseen, options=CompareOptions(engine="ort")
        )
    assert not (tmp_path / "report").exists()


def test_a_provider_that_is_not_there_is_an_error(experiment, tmp_path):
    from qexport import cuda

    if cuda.device_names():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderUnavailable, match="--provider cuda"):
        pipeline.compare(experiment, tmp_path / "report", options=CompareOptions(provider="cuda", engine="ort"))
    assert not (tmp_path / "report").exists()


def test_a_failure_leaves_no_work_behind(experiment, tmp_path, monkeypatch):
    def fail(*_given, **_named):
        raise InputError("stop here")

    monkeypatch.setattr(pipeline, "_export", fail)
    (tmp_path / "runs").mkdir()
    killed = tmp_path / "runs" / ".report.work.new-999999999"
    killed.mkdir()  # what a killed run left
    with pytest.raises(InputError, match="stop here"):
        pipeline.compare(experiment, tmp_path / "runs" / "report", options=CompareOptions(engine="ort"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_experiment_is_found_by_file_name_or_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = pipeline.experiment_for(None)
    assert reference == pipeline.experiment_for("reference")
    assert reference.rows[0].recipe == "fp32"
    (tmp_path / "mine.toml").write_text('title = "Mine"\nmodel = "somebody/model"\nrows = [{recipe = "fp32"}]\n')
    assert pipeline.experiment_for("mine.toml").model == "somebody/model"
    assert pipeline.experiment_for("somebody/other").model == "somebody/other"
    with pytest.raises(InputError, match=r"absent\.toml: cannot be read"):
        pipeline.experiment_for("absent.toml")
