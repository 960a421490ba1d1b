"""A repository with two artifacts and a baseline, and commands that stand in for what a CI machine has on its path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORDS = "The fox jumps over the lazy dog and then the other dog comes back. The quick brown fox was there!\n"
BUDGET = 'text = "text.txt"\nwindow = 16\nbudgets.perplexity = {{ at_most = {at_most!r}, of = "fp32" }}\n'


def put(path, text):
    """A command."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def qexport(*words, cwd, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "qexport", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def gated(fp32, tmp_path_factory) -> Path:
    """Budgets in ``pass.toml``, ``fail.toml`` and ``undecided.toml``, the last of which is the ratio itself."""
    home = tmp_path_factory.mktemp("gated")
    shutil.copytree(fp32("gpt2").path, home / "artifacts" / "fp32")
    (home / "text.txt").write_text(WORDS * 12)
    int8 = ("--recipe", "int8-dynamic", "--engine", "ort", "-o", "artifacts/int8")
    qexport("quantize", "artifacts/fp32", *int8, cwd=home)
    for name, at_most in (("pass", 1.5), ("fail", 0.5)):
        (home / f"{name}.toml").write_text(BUDGET.format(at_most=at_most))
    gate = ("gate", "artifacts/fp32", "artifacts/int8", "--baseline", "gate.json", "--config", "pass.toml")
    qexport(*gate, "--update", cwd=home)
    qexport(*gate, "-o", "first", cwd=home)
    report = json.loads((home / "first" / "gate.json").read_text())
    shutil.rmtree(home / "first")
    [ratio] = [
        check["found"]["value"]
        for row in report["rows"]
        for check in row["checks"]
        if (row["name"], check["what"]) == ("int8", "perplexity")
    ]
    (home / "undecided.toml").write_text(BUDGET.format(at_most=ratio))
    return home


@pytest.fixture
def home(gated, tmp_path, monkeypatch) -> Path:
    """A copy that a test may write to, which is where it stands."""
    copy = shutil.copytree(gated, tmp_path / "home")
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def path(tmp_path) -> Path:
    """A folder with the command qexport, ahead of the system's."""
    put(tmp_path / "bin" / "qexport", f'#!/bin/sh\nexec "{sys.executable}" -m qexport "$@"\n')
    return tmp_path / "bin"


def lines(path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
