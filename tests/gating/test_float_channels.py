"""The gate sees that the channels in float of an artifact are gone."""

from __future__ import annotations

import json

import pytest

from qexport.gating.budgets import GatePlan
from qexport.gating.pipeline import gate, update
from tests.gated import ONE

PLAN = GatePlan.model_validate({"budgets": {"disk_bytes": {"at_most": 1.1, "of": "baseline"}}})


@pytest.fixture
def baseline(per_token_twin, tmp_path):
    """The baseline of the artifact with channels in float."""
    path = tmp_path / "gate.json"
    update([per_token_twin(channels=True).path], path, PLAN, ONE)
    return path


def judged(artifact, baseline):
    (row,) = gate([artifact.path], baseline, PLAN, ONE).rows
    return row


def test_an_artifact_with_its_channels_passes(per_token_twin, baseline):
    artifact = per_token_twin(channels=True)
    assert judged(artifact, baseline).outcome == "pass"
    counts = [len(node.float_channels) for node in artifact.manifest.quantized if node.float_channels]
    stored = json.loads(baseline.read_text())["rows"]["int8"]["structure"]
    assert stored["float_channels"] == {"nodes": len(counts), "channels": sum(counts)}


def test_an_artifact_without_its_channels_fails_and_says_so_in_one_line(per_token_twin, baseline):
    row = judged(per_token_twin(channels=False), baseline)
    (check,) = (check for check in row.checks if check.what == "channels in float")
    assert check.outcome == row.outcome == "fail"
    kept = json.loads(baseline.read_text())["rows"]["int8"]["structure"]["float_channels"]
    assert check.message == (f"channels in float: none, in the baseline {kept['channels']} in {kept['nodes']} nodes")


def test_a_baseline_that_counts_no_channels_is_read(per_token_twin, baseline):
    values = json.loads(baseline.read_text())
    del values["rows"]["int8"]["structure"]["float_channels"]
    baseline.write_text(json.dumps(values))
    assert judged(per_token_twin(channels=True), baseline).outcome == "pass"
    without = judged(per_token_twin(channels=False), baseline)
    assert "channels in float" not in {check.what for check in without.checks}


def test_an_artifact_whose_activations_are_not_rounded_has_no_count(outlier_twin, tmp_path):
    update([outlier_twin.path], tmp_path / "gate.json", PLAN, ONE)
    assert "float_channels" not in (tmp_path / "gate.json").read_text()
