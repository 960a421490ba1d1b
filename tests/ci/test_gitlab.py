"""The script of the GitLab template, run by bash."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.ci.conftest import put

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = yaml.safe_load((ROOT / "docs" / "ci" / "gate.gitlab-ci.yml").read_text())
JOB = TEMPLATE[".qexport-gate"]
REPORTS = {"gate.md", "junit.xml", "code-quality.json", "gate.json"}


@pytest.fixture
def job(tmp_path, path):
    """``job(ARTIFACTS=...)`` runs the script with these variables; pip notes what it is asked, and installs nothing."""
    put(path / "pip", f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/pip"\n')

    def run(**variables):
        given = {"PACKAGE": "qexport[cpu]", **variables}
        script = "\n".join(JOB["script"])
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": f"{path}:{os.defpath}",
                "HOME": str(tmp_path),
                "LC_ALL": "C.UTF-8",
                "GITLAB_CI": "true",
                **JOB["variables"],
                **{f"QEXPORT_{name}": value for name, value in given.items()},
            },
        )

    return run


@pytest.fixture
def folder(tmp_path, path, monkeypatch):
    """Where artifacts are only names, and the gate notes what it is asked and leaves with 4."""
    put(
        path / "qexport",
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('asked.json', 'w'))\nsys.exit(4)\n",
    )
    for name in ("artifacts/fp32", "artifacts/with space", "-o"):
        (tmp_path / "home" / name).mkdir(parents=True)
    (tmp_path / "home" / "artifacts" / "README.md").write_text("")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.slow
@pytest.mark.parametrize(("budgets", "code"), [("pass", 0), ("fail", 1), ("undecided", 4)])
def test_the_job_leaves_with_the_exit_code_of_the_gate(job, home, tmp_path, budgets, code):
    # Budgets come from the repository's own pyproject.toml: the template has no variable for another file.
    text, window, budget = (home / f"{budgets}.toml").read_text().splitlines()
    (home / "pyproject.toml").write_text(f"[tool.qexport.gate]\n{text}\n{window}\n{budget}\n")
    done = job(ARTIFACTS="artifacts/*", BASELINE="gate.json")
    assert done.returncode == code, done.stdout + done.stderr
    assert {entry.name for entry in (home / "qexport-gate").iterdir()} == REPORTS
    assert (tmp_path / "pip").read_text().splitlines() == ["install", "--disable-pip-version-check", "qexport[cpu]"]
    assert "::error" not in done.stdout
    for written in JOB["artifacts"]["reports"].values():
        assert (home / written).is_file()
    assert "allow_failure" not in JOB, "an inconclusive verdict would pass"


def test_what_the_gate_is_asked(job, folder):
    done = job(ARTIFACTS=" artifacts/* \n -o", BASELINE="my gate.json")
    assert done.returncode == 4, done.stderr
    asked = ["gate", "--baseline", "my gate.json", "-o", "qexport-gate", "--add-windows", "--"]
    found = ["artifacts/fp32", "artifacts/with space", "-o"]
    assert json.loads((folder / "asked.json").read_text()) == [*asked, *found]
    job(ARTIFACTS="artifacts/fp32", AGAINST="the base")
    asked = json.loads((folder / "asked.json").read_text())
    assert asked[:3] == ["gate", "--against", "the base"]
    job(ARTIFACTS="artifacts/fp32", BASELINE="gate.json", ADD_WINDOWS="false")
    assert "--add-windows" not in json.loads((folder / "asked.json").read_text())


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ARTIFACTS": "none/*"}, "QEXPORT_ARTIFACTS: no folder is called or matches none/*; a space in a name is"),
        ({"ARTIFACTS": "artifacts/with space"}, "matches artifacts/with; a space in a name is written as ?"),
        ({"ARTIFACTS": "$(touch run)"}, "matches $(touch;"),
        ({"ARTIFACTS": ""}, "QEXPORT_ARTIFACTS is empty"),
        ({"BASELINE": ""}, "QEXPORT_BASELINE is empty, and so is QEXPORT_AGAINST"),
        ({"AGAINST": "base"}, "QEXPORT_AGAINST is given too"),
        ({"PACKAGE": ""}, "QEXPORT_PACKAGE is empty"),
        ({"ADD_WINDOWS": "yes"}, "QEXPORT_ADD_WINDOWS: 'yes' is neither 'true' nor 'false'"),
    ],
)
def test_variables_that_cannot_be_are_refused_before_anything_is_installed(job, folder, tmp_path, variables, said):
    done = job(**{"ARTIFACTS": "artifacts/fp32", "BASELINE": "gate.json", **variables})
    assert done.returncode == 2
    assert done.stderr.startswith("qexport gate: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (tmp_path / "pip").exists()
    assert not (folder / "asked.json").exists()
    assert not (folder / "run").exists()


def test_a_failed_installation_ends_the_job(job, folder, path):
    put(path / "pip", "#!/bin/sh\nexit 1\n")
    assert job(ARTIFACTS="artifacts/fp32", BASELINE="gate.json").returncode == 1
    assert not (folder / "asked.json").exists()


def test_the_form():
    assert list(TEMPLATE) == [".qexport-gate"]
    assert JOB["artifacts"]["when"] == "always"
    assert JOB["artifacts"]["reports"].keys() == {"junit", "codequality"}
    used = set(re.findall(r"\$\{?(QEXPORT_\w+)", "\n".join(JOB["script"])))
    assert used == {name for name in JOB["variables"] if name.startswith("QEXPORT_")}
    assert all(isinstance(value, str) for value in JOB["variables"].values())


def test_the_readme_sets_variables_that_it_has():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci" / "README.md").read_text(), re.DOTALL)
    [pipeline] = [each for each in map(yaml.safe_load, blocks) if "include" in each]
    assert pipeline["gate"]["extends"] in TEMPLATE
    assert pipeline["gate"]["variables"].keys() <= JOB["variables"].keys()
