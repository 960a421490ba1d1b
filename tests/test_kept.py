"""A stale, damaged or half-made entry of the tests' own cache is never used."""

from __future__ import annotations

import json
import os

import pytest

from tests import kept as store
from tests.kept import is_of_this_run, kept, sources


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_TEST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module and another that it imports, as the whole of a repository."""
    root = tmp_path / "code"
    (root / "some").mkdir(parents=True)
    (root / "some" / "__init__.py").write_text("")
    (root / "some" / "one.py").write_text("def f():\n    from some.other import g\n    return g\n")
    (root / "some" / "other.py").write_text("g = 1\n")
    (root / "some" / "apart.py").write_text("h = 1\n")
    monkeypatch.setattr(store, "ROOT", root)
    store._state.cache_clear()
    yield root / "some"
    store._state.cache_clear()


def make(folder):
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text("made")


def never(_folder):
    pytest.fail("made again")


MODULES = ("some.one",)


def test_an_entry_is_made_once(code):
    place = kept("thing", make, MODULES)
    assert (place / "inside" / "file").read_text() == "made"
    assert kept("thing", never, MODULES) == place
    assert kept("another", make, MODULES) != place


def test_imports_are_followed_wherever_they_stand(code):
    assert {path.name for path in sources(MODULES)} == {"__init__.py", "one.py", "other.py"}


@pytest.mark.parametrize("name", ["one.py", "other.py", "__init__.py"])
def test_other_code_makes_another_entry(code, name):
    place = kept("thing", make, MODULES)
    with (code / name).open("a") as handle:
        handle.write("# changed\n")
    store._state.cache_clear()
    assert kept("thing", make, MODULES) != place


def test_code_that_takes_no_part_does_not(code):
    place = kept("thing", make, MODULES)
    (code / "apart.py").write_text("h = 2\n")
    store._state.cache_clear()
    assert kept("thing", never, MODULES) == place


def test_other_versions_make_another_entry(code, monkeypatch):
    place = kept("thing", make, MODULES)
    monkeypatch.setattr(store, "_version", lambda library: f"9.9 of {library}")
    store._state.cache_clear()
    assert kept("thing", make, MODULES) != place


def test_another_model_makes_another_entry(code, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"\x00")
    place = kept("thing", make, MODULES, model)
    assert kept("thing", never, MODULES, model) == place
    (model / "weights").write_bytes(b"\x01")
    assert kept("thing", make, MODULES, model) != place


@pytest.mark.parametrize(
    "spoil",
    [
        lambda place: (place / "inside" / "file").write_text("changed"),
        lambda place: (place / "inside" / "file").unlink(),
        lambda place: (place / "more").write_text(""),
        lambda place: place.with_name(f"{place.name}.json").unlink(),
    ],
    ids=["changed", "gone", "more", "without a note"],
)
def test_an_entry_that_is_not_as_it_was_made_is_made_again(code, spoil):
    place = kept("thing", make, MODULES)
    spoil(place)
    again = kept("thing", make, MODULES)
    assert [path.name for path in again.rglob("*")] == ["inside", "file"]
    assert (again / "inside" / "file").read_text() == "made"


def test_what_fails_half_way_leaves_nothing(code):
    def fail(folder):
        make(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        kept("thing", fail, MODULES)
    assert [path.suffix for path in store._home().iterdir()] == [".lock"]
    assert kept("thing", make, MODULES).is_dir()


def test_the_run_that_made_an_entry_is_known(code, monkeypatch):
    place = kept("thing", make, MODULES)
    assert is_of_this_run(place)
    monkeypatch.setattr(store, "RUN", "another")
    assert kept("thing", never, MODULES) == place
    assert not is_of_this_run(place)


def test_an_entry_that_nobody_used_for_long_goes_once_there_is_another(code):
    old = kept("thing", make, MODULES)
    other = kept("another", make, MODULES)
    for place in (old, other):
        note = place.with_name(f"{place.name}.json")
        assert json.loads(note.read_text())["files"].keys() == {"inside/file"}
        os.utime(note, (0, 0))
    (code / "one.py").write_text("f = 2\n")
    store._state.cache_clear()
    new = kept("thing", make, MODULES)
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
