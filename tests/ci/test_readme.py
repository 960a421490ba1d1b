"""The lines of docs/gate.md that adopt the gate, copied into an empty repository."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)


def test_they_are_ten():
    assert [kind for kind, _ in BLOCKS] == ["toml", "console", "yaml"]
    assert sum(len(block.strip().splitlines()) for _, block in BLOCKS) == 10


def test_the_readme_links_the_page_with_the_same_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/gate.md)" in readme
    assert "\nqexport gate build/* --baseline gate.json\n" in readme


@pytest.mark.slow
def test_they_adopt_it(path, tmp_path):
    (_, budgets), (_, once), (_, workflow) = BLOCKS
    home = tmp_path / "repository"
    home.mkdir()
    (home / "pyproject.toml").write_text(f'[project]\nname = "mine"\nversion = "1"\n\n{budgets}')
    env = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"

    def bash(script, *, code=0):
        words = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    assert "gate.json: 2 rows" in bash(once)
    made, gate = yaml.safe_load(workflow)
    assert made["run"].split(" && ") == once.splitlines()[:2]
    asked = gate["with"]
    assert asked.keys() <= yaml.safe_load((ROOT / "action.yml").read_text())["inputs"].keys()
    command = f"qexport gate {asked['artifacts']} --baseline {asked['baseline']}"
    assert command in SECTION
    last = bash(command).strip().splitlines()[-1]
    assert last == "gate: all 2 rows pass (baseline gate.json)"
    assert last in PAGE
    bash("qexport quantize build/fp32 -o build/int8 --nodes attention --overwrite")
    assert "in the baseline --nodes all" in bash(command, code=1)
