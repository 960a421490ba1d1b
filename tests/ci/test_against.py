"""The workflow of docs/ci that holds a pull request against its base commit, run in a repository of two commits."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.ci.conftest import put

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ci" / "README.md").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load(re.search(r"## Against the base commit\n.*?```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
STEPS = WORKFLOW["jobs"]["gate"]["steps"]
BUILD = """#!/usr/bin/env bash
set -euo pipefail
mkdir -p "$1"
cp -r "$ARTIFACTS/fp32" "$1/fp32"
qexport --quiet quantize "$1/fp32" --recipe int8-dynamic --engine ort {} -o "$1/int8"
"""


@pytest.mark.slow
def test_a_pull_request_is_held_against_what_its_base_makes(gated, path, tmp_path):
    """git, the build, and the gate are real; the cache alone is left out, which holds what the step before it made."""
    home = tmp_path / "repository"
    home.mkdir()
    (home / "pyproject.toml").write_text(
        f'[tool.qexport.gate]\ntext = "{gated / "text.txt"}"\nwindow = 16\n'
        'budgets.drift = { at_most = 0.0001, of = "baseline" }\n'
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    env |= {"PATH": f"{path}{os.pathsep}{env['PATH']}", "ARTIFACTS": str(gated / "artifacts")}
    put(path / "git-commit-all", '#!/bin/sh\ngit add -A && git -c user.name=a -c user.email=a@b commit -q -m "$1"\n')

    def bash(script, *, code=0, **more):
        words = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(words, cwd=home, env=env | more, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    put(home / "build.sh", BUILD.format("--nodes all"))
    bash("git init -q && git-commit-all base")
    base = bash("git rev-parse HEAD").strip()
    (build_base,) = (step["run"] for step in STEPS if "worktree" in step.get("run", ""))
    (build_head,) = (step["run"] for step in STEPS if step.get("run", "").startswith("./build.sh"))
    (gate,) = (step["with"] for step in STEPS if "artifacts" in step.get("with", {}))
    command = f"qexport gate {gate['artifacts']} --against {gate['against']}"

    bash(build_base, BASE=base)
    assert not (home / ".base").exists()
    bash(build_head)
    assert "all 2 rows pass" in bash(command)
    put(home / "build.sh", BUILD.format("--weights int8-reduced"))
    bash(f"git-commit-all head; rm -rf head; {build_head}")
    assert "FAIL  int8" in bash(command, code=1)
