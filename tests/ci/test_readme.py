"""The lines of the README that adopt the gate, copied into an empty repository."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.search(r"## Gate a pull request\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[
    1
]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.DOTALL)


def test_they_are_ten():
    assert [kind for kind, _ in BLOCKS] == ["toml", "console", "yaml"]
    assert sum(len(block.strip().splitlines()) for _, block in BLOCKS) == 10


@pytest.mark.slow
def test_they_adopt_it(path, tmp_path):
    """The model alone is another one: ``path/to/model`` is the bundled one."""
    (_, budgets), (_, once), (_, workflow) = BLOCKS
    home = tmp_path / "repository"
    home.mkdir()
    (home / "pyproject.toml").write_text(f'[project]\nname = "mine"\nversion = "1"\n\n{budgets}')
    env = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"

    def bash(script, *, code=0):
        words = ["bash", "-euo", "pipefail", "-c", script.replace("path/to/model", "reference")]
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
    assert "gate: all 2 rows pass" in bash(command)
    bash("qexport quantize build/fp32 -o build/int8 --nodes attention --overwrite")
    assert "in the baseline --nodes all" in bash(command, code=1)
