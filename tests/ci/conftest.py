"""A repository with two artifacts and a baseline, and commands that stand in for what a CI machine has on its path."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

WORDS = "The fox jumps over the lazy dog and then the other dog comes back. The quick brown fox was there!\n"
BUDGET = 'text = "text.txt"\nwindow = 16\nbudgets.perplexity = {{ at_most = {at_most!r}, of = "fp32" }}\n'


def put(path, text):
    """A command."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def qexport(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "qexport", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def gated(fp32, tmp_path_factory) -> Path:
    """Budgets in ``pass.toml``, ``fail.toml`` and ``undecided.toml``, the last of which is the ratio itself.

    Its gates take most of a minute, so all workers of a run share them.
    """
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "gated"
    with FileLock(home.with_suffix(".lock")):
        if not (home / "undecided.toml").exists():
            _set_up(home, fp32("gpt2").path)
    return home


def _set_up(home, artifact):
    shutil.copytree(artifact, home / "artifacts" / "fp32")
    (home / "text.txt").write_text(WORDS * 12)
    int8 = ("--recipe", "int8-dynamic", "--engine", "ort", "-o", "artifacts/int8")
    qexport("quantize", "artifacts/fp32", *int8, cwd=home)
    for name, at_most in (("pass", 1.5), ("fail", 0.5)):
        (home / f"{name}.toml").write_text(BUDGET.format(at_most=at_most))
    gate = ("gate", "artifacts/fp32", "artifacts/int8", "--baseline", "gate.json", "--config", "pass.toml")
    qexport(*gate, "--update", cwd=home)
    stored = json.loads((home / "gate.json").read_text())
    nats = {name: sum(row["samples"]["perplexity"]) for name, row in stored["rows"].items()}
    ratio = math.exp((nats["int8"] - nats["fp32"]) / sum(stored["feeds"]["perplexity"]["tokens"]))
    (home / "undecided.toml").write_text(BUDGET.format(at_most=ratio))


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
