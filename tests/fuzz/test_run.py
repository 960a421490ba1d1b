"""The fuzzer itself: right inputs are done, a fault is seen, and a handful of each kind goes well."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import mutate, run, targets

pytestmark = pytest.mark.slow
EACH = 6


@pytest.fixture(scope="module")
def prepared():
    with run.prepared() as made:
        yield made


def test_right_inputs_are_done(prepared, monkeypatch):
    """Otherwise a refusal would say nothing of what was spoiled."""
    right, work = prepared
    monkeypatch.setattr(targets, "spoiled", lambda content, _: content)
    monkeypatch.setattr(targets, "spoiled_header", lambda content, _: content)
    found = {kind.name: run.outcome(kind, 0, work) for kind in targets.targets(right) if kind.name != "options"}
    assert set(found.values()) == {("done", "")}


def test_spoiled_inputs_are_refused_in_one_line_or_done(prepared):
    right, work = prepared
    found = {
        f"{kind.name}:{number}": run.outcome(kind, number, work)
        for kind in targets.targets(right)
        for number in range(EACH)
    }
    assert {name: said for name, (what, said) in found.items() if what not in ("refused", "done")} == {}
    assert sum(what == "refused" for what, _ in found.values()) > len(found) / 3


def test_a_fault_and_a_hang_are_seen(prepared, monkeypatch):
    _, work = prepared

    def broken(_):
        raise TypeError("planted")

    kind = targets.Target(name="planted", spoil=lambda _folder, _draw: None, read=broken)
    what, said = run.outcome(kind, 0, work)
    assert what == "traceback"
    assert "exit 70: qexport: a fault of qexport itself, TypeError: planted" in said


@pytest.mark.parametrize("seed", range(20))
def test_a_number_makes_the_same_input_again(seed):
    content = (targets.REFERENCE / "config.json").read_bytes()
    assert mutate.spoiled(content, random.Random(seed)) == mutate.spoiled(content, random.Random(seed))
