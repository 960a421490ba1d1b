"""The gate bites: regressions planted into the reference model's INT8, under the budgets that the project has for itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from filelock import FileLock
from onnx import numpy_helper

from qexport import exporting, quantization
from qexport.core.artifact import SelectionInfo, load_artifact
from qexport.core.selection import parse_selector
from qexport.gating.bench import GateOptions
from qexport.gating.budgets import load_gate_plan
from qexport.gating.pipeline import gate, update
from qexport.inputs.text import load_text
from tests import plants
from tests.plants import planted, scaled, shifted

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
CALIBRATION = ROOT / "models" / "reference" / "held_out_calibration.jsonl"
ROW = "int8-static"
LAYER = "transformer.h.1.mlp.c_fc"


@pytest.fixture(scope="module")
def plan():
    """The project's own budgets, of the rows that are here."""
    own = load_gate_plan(ROOT / "pyproject.toml")
    return own.model_copy(update={"recipes": {ROW: own.recipes[ROW]}})


@pytest.fixture(scope="module")
def good(plan, tmp_path_factory):
    """A folder with fp32, int8-static and the baseline of both; all workers of a run share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "planted"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "gate.json").exists():
            exporting.export("reference", folder / "fp32")
            quantize(folder / "fp32", folder / ROW)
            update([folder / "fp32", folder / ROW], folder / "gate.json", plan, GateOptions())
    return folder


def quantize(fp32, folder, *, nodes="all", exclude=(), text=CALIBRATION):
    selector = parse_selector(nodes, exclude=exclude)
    return quantization.quantize(str(fp32), folder, selector=selector, text=load_text(text))


@pytest.fixture
def verdict(good, plan):
    """The verdict of the gate on a folder in the place of the row that the baseline has."""

    def judge(folder):
        report = gate([good / "fp32", folder], good / "gate.json", plan, GateOptions())
        fp32, row = report.rows
        assert fp32.outcome == "pass", fp32
        assert report.outcome == row.outcome
        return row

    return judge


def failed(row):
    """What failed; a check that is merely inconclusive has not caught anything."""
    return {check.what for check in row.checks if check.outcome == "fail"}


def test_nothing_planted_passes_and_is_exactly_what_it_was(good, verdict):
    row = verdict(good / ROW)
    assert row.outcome == "pass"
    found = {(check.what, check.of): check.found.value for check in row.checks if check.found}
    assert found["perplexity", "baseline"] == 1.0
    assert found["drift", "baseline"] == 0.0


def test_made_again_it_passes_too(good, verdict, tmp_path):
    assert verdict(quantize(good / "fp32", tmp_path / ROW).path).outcome == "pass"


@pytest.mark.parametrize(
    "layer", ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc", "transformer.h.2.mlp.c_fc"]
)
def test_one_layers_scale_off_by_two_percent(good, verdict, tmp_path, layer):
    row = verdict(planted(load_artifact(good / ROW), tmp_path / ROW, files=scaled(f"{layer}.weight_scale")).path)
    assert "drift" in failed(row), row
    assert failed(row) <= {"drift", "perplexity"}, row


@pytest.mark.parametrize("layer", ["transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_proj"])
def test_a_zero_point_off_by_one(good, verdict, tmp_path, layer):
    row = verdict(planted(load_artifact(good / ROW), tmp_path / ROW, files=shifted(f"{layer}.weight_zero_point")).path)
    assert "drift" in failed(row), row
    assert failed(row) <= {"drift", "perplexity"}, row


def claims_all(good):
    """A manifest that says what was asked of the good one."""

    def change(manifest):
        asked = load_artifact(good / ROW).manifest.selection
        return manifest.model_copy(update={"selection": SelectionInfo(rules=asked.rules, nodes=asked.nodes)})

    return change


def test_one_layer_left_in_fp32(good, verdict, tmp_path):
    made = quantize(good / "fp32", tmp_path / "made", exclude=[LAYER])
    row = verdict(planted(made, tmp_path / ROW, manifest=claims_all(good)).path)
    assert failed(row) >= {"quantized nodes", "kernels that ran"}
    assert any(f"1 no longer quantized: {LAYER}" in check.message for check in row.checks)


def test_one_layer_left_in_fp32_and_the_manifest_lies(good, verdict, tmp_path):
    made = quantize(good / "fp32", tmp_path / "made", exclude=[LAYER])
    lie = load_artifact(good / ROW).manifest
    row = verdict(planted(made, tmp_path / ROW, manifest=lambda _: lie).path)
    assert "perplexity" in failed(row)
    assert any("12 integer matmuls ran where the manifest names 13" in check.message for check in row.checks)


def test_attention_where_all_was_asked(good, verdict, tmp_path):
    made = quantize(good / "fp32", tmp_path / ROW, nodes="attention")
    assert failed(verdict(made.path)) >= {"selection", "quantized nodes", "disk_bytes"}


def test_attention_where_the_manifest_says_that_all_was_asked(good, verdict, tmp_path):
    made = quantize(good / "fp32", tmp_path / "made", nodes="attention")
    row = verdict(planted(made, tmp_path / ROW, manifest=claims_all(good)).path)
    assert failed(row) >= {"quantized nodes", "kernels that ran", "disk_bytes"}


def test_calibrated_on_the_wrong_text(good, verdict, tmp_path):
    made = quantize(good / "fp32", tmp_path / ROW, text=ROOT / "calibration" / "calibration.jsonl")
    assert "calibration text" in failed(verdict(made.path))


def test_calibrated_on_the_wrong_text_and_the_manifest_lies(good, verdict, tmp_path):
    made = quantize(good / "fp32", tmp_path / "made", text=ROOT / "calibration" / "calibration.jsonl")
    right = load_artifact(good / ROW).manifest.calibration
    row = verdict(
        planted(made, tmp_path / ROW, manifest=lambda own: own.model_copy(update={"calibration": right})).path
    )
    assert "drift" in failed(row), row


def truncate(folder):
    path = folder / "model.onnx"
    os.truncate(path, path.stat().st_size // 2)


def test_a_truncated_weight_file(good, verdict, tmp_path):
    folder = shutil.copytree(good / ROW, tmp_path / ROW)
    truncate(folder)
    (check,) = verdict(folder).checks
    assert check.outcome == "fail"
    assert "altered since its manifest was written" in check.message


def test_a_truncated_weight_file_that_the_manifest_agrees_with(good, verdict, tmp_path):
    row = verdict(planted(load_artifact(good / ROW), tmp_path / ROW, files=truncate).path)
    assert failed(row) == {"artifact"}


def test_a_swapped_tokenizer(good, verdict, tmp_path):
    """Two tokens have each other's ids."""

    def swap(folder):
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        ids = tokenizer["model"]["vocab"]
        first, second = sorted(ids, key=ids.get)[-2:]
        ids[first], ids[second] = ids[second], ids[first]
        path.write_text(json.dumps(tokenizer))

    row = verdict(planted(load_artifact(good / ROW), tmp_path / ROW, files=swap).path)
    assert failed(row) >= {"perplexity", "drift"}
    assert any("fed other tokens, of another tokenizer" in check.message for check in row.checks)


def test_the_plants_are_what_they_say(good, tmp_path):
    names = plants.scales(good / ROW)
    assert len(names) >= 13
    assert len(plants.zero_points(good / ROW)) >= 13
    changed = planted(load_artifact(good / ROW), tmp_path / ROW, files=scaled(names[0]))
    before, after = (tensors(folder) for folder in (good / ROW, changed.path))
    assert before.keys() == after.keys()
    assert [name for name in before if not np.array_equal(before[name], after[name])] == [names[0]]
    np.testing.assert_allclose(after[names[0]], 1.02 * before[names[0]], rtol=1e-6)


def tensors(folder):
    model = onnx.load(folder / "model.onnx")
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
