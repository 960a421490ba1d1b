from __future__ import annotations

import shutil

import pytest

from qexport import quantization
from qexport.core.artifact import load_artifact
from qexport.core.errors import InputError
from qexport.core.selection import parse_selector
from qexport.inputs.text import Text, load_text
from qexport.quantization import pipeline
from qexport.quantization.calibration import MinMax
from qexport.quantization.recipes import recipe
from qexport.quantization.schemes.int8 import Static

ORT = {"engine": "ort"}
DYNAMIC = {"engine": "ort", "smooth": False, "outlier_channels": False}
WORDS = "the quick brown fox jumps over the lazy dog and then the other dog comes back to the fox again"
STORIES = Text("stories", tuple(f"Story {number}: {WORDS}. It was {number}!" for number in range(12)))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))


def test_a_plan_of_an_artifact_counts_a_tied_table_once(fp32):
    plan = quantization.plan(str(fp32("gpt2").path), parse_selector("all"))
    before, after = plan.total_bytes
    tied = next(node for node in plan.selection.nodes if node.tied)
    assert before == 4 * plan.parameters
    assert sum(node.parameters for node in plan.selection.nodes) == plan.parameters + tied.parameters
    assert before / 4 < after < before / 3


@pytest.mark.parametrize("name", ["fp32", "bnb-nf4"])
def test_a_recipe_without_a_choice_of_nodes_has_no_plan(fp32, name):
    with pytest.raises(InputError, match="no choice of nodes"):
        quantization.plan(str(fp32("gpt2").path), recipe_name=name)


def test_quantize_tells_what_was_asked_found_and_calibrated(fp32, tmp_path):
    parent = fp32("llama")
    made = quantization.quantize(
        str(parent.path), tmp_path / "out", selector=parse_selector("attention"), options=ORT, text=STORIES
    )
    manifest = load_artifact(tmp_path / "out", verify=True).manifest
    assert manifest == made.manifest
    assert (manifest.recipe, manifest.engine, manifest.parent_sha256) == ("int8-static", "ort", parent.sha256)
    assert manifest.selection.rules == "--nodes attention"
    assert [node.name for node in manifest.selection.nodes] == [node.name for node in manifest.quantized]
    assert (manifest.calibration.text, manifest.calibration.method) == (
        "stories",
        "smoothquant, outlier channels, minmax",
    )
    assert manifest.calibration.windows == 12
    side = {info.path for info in parent.manifest.files} - {"model.onnx"}
    assert side <= {info.path for info in manifest.files}
    for name in side:
        assert (made.path / name).read_bytes() == (parent.path / name).read_bytes()


def test_quantize_takes_the_bundled_text_where_none_is_given(fp32, tmp_path):
    made = quantization.quantize(
        str(fp32("gpt2").path), tmp_path / "out", selector=parse_selector("attention"), options=ORT
    )
    assert made.manifest.calibration.text == load_text(pipeline.bundled(pipeline.CALIBRATION_TEXT)).origin
    assert 0 < made.manifest.calibration.windows <= pipeline.CALIBRATION_WINDOWS


def test_choices_reach_the_scheme_and_the_manifest(fp32, tmp_path):
    options = {"engine": "ort", "method": "entropy", "symmetric": True, "grid": "int8-reduced"}
    made = quantization.quantize(str(fp32("gpt2").path), tmp_path / "out", options=options, text=STORIES)
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
        quantization.quantize(str(fp32("gpt2").path), tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_quantized_artifact_is_not_quantized_again(fp32, tmp_path):
    made = quantization.quantize(str(fp32("gpt2").path), tmp_path / "out", recipe_name="int8-dynamic", options=DYNAMIC)
    with pytest.raises(InputError, match=r"is quantized already \(int8-dynamic\)"):
        quantization.quantize(str(made.path), tmp_path / "again", recipe_name="int8-dynamic", options=DYNAMIC)
    with pytest.raises(InputError, match="is quantized already"):
        quantization.plan(str(made.path), None)


# Choices that come too late, and outputs that hold the model


@pytest.mark.parametrize("choice", [{"exporter": "optimum"}, {"revision": "v9"}])
@pytest.mark.parametrize("verb", ["quantize", "plan"])
def test_an_artifact_is_not_exported_again(fp32, tmp_path, choice, verb):
    model = str(fp32("gpt2").path)
    with pytest.raises(InputError, match=r"leave --(exporter|revision) out"):
        if verb == "plan":
            quantization.plan(model, **choice)
        else:
            quantization.quantize(model, tmp_path / "out", recipe_name="w8a16-rtn", **choice)


def test_the_exporter_that_made_it_may_be_named(fp32):
    assert quantization.plan(str(fp32("gpt2").path), exporter="fused").nodes


def test_a_model_is_not_replaced_by_its_child(fp32, tmp_path):
    folder = shutil.copytree(fp32("gpt2").path, tmp_path / "models" / "a")
    for output in (folder, folder / "..", tmp_path / "models" / "b" / ".." / "a"):
        with pytest.raises(InputError, match="holds the model itself"):
            quantization.quantize(str(folder), output, recipe_name="w8a16-rtn", overwrite=True)
    assert load_artifact(folder, verify=True).manifest.recipe == "fp32"
