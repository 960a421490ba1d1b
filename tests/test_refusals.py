"""Each refusal says what to do next, and none lets a library's words stand alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "qexport"
OURS = {"InputError", "SelectionError", "NotComparable", "UnsupportedHere", "ProviderUnavailable"}
"""ContractError and ParityError add their way out themselves."""
PASSED_ON = (
    "reason",
    "first_reason",
    "_what_is_missing",
    "left_by_training",
    "wrapped",
    "error",
    "near_names",
    "_WORDS",
)
"""Names of what ends a message and has a way out of its own."""


def said(node):
    """A message's words, with braces for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(said(part) for part in node.values)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return f"{{{ast.unparse(node)}}}"


def refusals():
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) in OURS:
                yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", said(node.exc.args[0])


def test_there_are_many():
    assert len(list(refusals())) > 250


def test_each_says_what_to_do():
    without = [f"{place} {words}" for place, words in refusals() if ";" not in words and not passes_on(words)]
    assert without == []


def passes_on(words):
    end = words.rpartition("{")[2].rstrip("}) ")
    return any(name in end for name in PASSED_ON)


@pytest.mark.parametrize("message", ["a graph is broken", "a graph is broken; export again"])
def test_a_broken_promise_is_to_be_reported_unless_there_is_a_way_out(message):
    from qexport.core.errors import ContractError

    assert str(ContractError(message)).count(";") == 1
