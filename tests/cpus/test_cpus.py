"""The bundled model on other CPUs, by emulation: what drifts, what saturates, and what the gate says there."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from qexport import quantization
from qexport.core import stats
from qexport.core.artifact import load_artifact
from qexport.gating.baseline import read_baseline
from qexport.gating.bench import GateOptions
from qexport.gating.explained import explained_nats
from qexport.gating.pipeline import add_cpu, gate, update
from qexport.inputs.text import load_text
from tests.cpus.conftest import CALIBRATION, measured_on
from tests.plants import planted, scaled, scales

pytestmark = pytest.mark.slow

ONE = GateOptions(threads=1)


@pytest.fixture(scope="session")
def plan(short_plan):
    return short_plan


@pytest.fixture(scope="session")
def here(rows, plan, tmp_path_factory):
    """The baseline of this CPU."""
    path = tmp_path_factory.mktemp("here") / "gate.json"
    update(list(rows.values()), path, plan, ONE)
    return path


@pytest.fixture(scope="session")
def there(rows, plan, emulated, tmp_path_factory):
    """The baseline of the emulated CPU."""
    path = tmp_path_factory.mktemp("there") / "gate.json"
    with measured_on(emulated):
        update(list(rows.values()), path, plan, ONE)
    return path


def said(report):
    return {row.name: [check.message for check in row.checks if check.outcome != "pass"] for row in report.rows}


def test_a_cpu_is_another_class_and_an_emulator_cannot_hide_it(here, there, emulated):
    mine, other = read_baseline(here), read_baseline(there)
    assert len(mine.cpus) == len(other.cpus) == 1
    assert mine.cpus.keys() != other.cpus.keys()


@pytest.mark.parametrize("made", ["here", "there"])
def test_clean_artifacts_pass_with_the_baseline_of_the_other_cpu(rows, plan, here, there, emulated, *, made):
    if made == "here":
        with measured_on(emulated):
            report = gate(list(rows.values()), here, plan, ONE)
    else:
        report = gate(list(rows.values()), there, plan, ONE)
    assert report.exit_code == 0, said(report)
    assert any("are not in the baseline" in note for note in report.notes)


def test_artifacts_drift_between_cpus_by_no_more_than_is_said(rows, here, there, emulated):
    fma = emulated.cpu.fma
    mine, other = read_baseline(here), read_baseline(there)
    drifts = {}
    for name, path in rows.items():
        (nll, tokens), (base, _) = (np.array(each.record(name, "perplexity").samples).T for each in (other, mine))
        drifts[name] = stats.drift(nll, base, tokens).value / explained_nats(load_artifact(path).manifest, fma=fma)
    assert max(drifts.values()) <= 1.0, drifts
    assert max(drifts.values()) > 0.0, "kernels that differ in nothing are one class"


@pytest.mark.parametrize("row", ["int8-dynamic", "int8-static", "w8a16-rtn", "w4a16-rtn", "w4a16-gptq", "nf4", "fp8"])
def test_a_scale_off_by_two_percent_fails_with_the_baseline_of_the_other_cpu(
    rows, plan, here, emulated, tmp_path, *, row
):
    artifact = load_artifact(rows[row])
    name = next(each for each in scales(artifact.path) if ".mlp." in each or "wte" not in each)
    changed = planted(artifact, tmp_path / row, files=scaled(name)).path
    with measured_on(emulated):
        report = gate([rows["fp32"], changed], here, plan, ONE)
    (found,) = (each for each in report.rows if each.name == row)
    assert "drift" in {check.what for check in found.checks if check.outcome == "fail"}, found


def test_weights_that_saturate_are_refused_where_they_do(rows, plan, here, emulated, tmp_path):
    full = quantization.quantize(
        str(rows["fp32"]),
        tmp_path / "int8-dynamic",
        recipe_name="int8-dynamic",
        options={"grid": "int8"},
        text=load_text(CALIBRATION),
    )
    with measured_on(emulated):
        report = gate([rows["fp32"], full.path], here, plan, ONE)
    (row,) = (each for each in report.rows if each.name == "int8-dynamic")
    failed = [check.message for check in row.checks if check.what == "kernels"]
    assert bool(failed) == (emulated.cpu.title == "AVX2 without VNNI")
    assert any("int8-dynamic: int8 weights on the full grid" in note for note in report.notes)


def test_a_cpu_is_added_and_then_judged_as_at_home(rows, plan, here, emulated, tmp_path):
    path = shutil.copy(here, tmp_path / "gate.json")
    with measured_on(emulated):
        made = add_cpu(list(rows.values()), path, plan, ONE)
        report = gate(list(rows.values()), path, plan, ONE)
    assert len(made.cpus) == 2
    assert (report.exit_code, report.notes) == (0, ())


@pytest.mark.real_child
def test_the_whole_gate_in_children_on_another_cpu(rows, plan, here, emulated, *, tmp_path, monkeypatch):
    """As ``qexport gate`` goes there: a fresh process for each row, whose interpreter is emulated."""
    import os
    import sys

    from tests.cpus.emulator import QEMU

    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {QEMU} -cpu {emulated.cpu.model} "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setenv("OPENBLAS_CORETYPE", emulated.cpu.blas)
    monkeypatch.setattr(sys, "executable", os.fspath(interpreter))
    report = gate([rows["fp32"], rows["int8-dynamic"]], here, plan, ONE)
    judged = [row for row in report.rows if row.name in ("fp32", "int8-dynamic")]
    assert {row.outcome for row in judged} == {"pass"}, said(report)
