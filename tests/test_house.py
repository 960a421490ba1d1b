"""The house keeps its shape: rooms with faces, imports downwards, small files, plain words (docs/decisions/0020)."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "qexport"
ROOMS = sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.pyi").is_file())
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "template" not in path.parts]
MOST_ROOMS, MOST_FLOORS, MOST_ARROWS, MOST_LINES, MOST_AT_THE_TOP = 16, 9, 55, 500, 4

BANNED_OPENINGS = re.compile(r"(?:What|Whether|Who|Whose|Which|So many)\b")
BANNED_WORDS = re.compile(r"\b(?:told|besides|as it is|so many)\b", re.IGNORECASE)


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def face(room):
    """The names that a room hands out."""
    stub = PACKAGE / room / "__init__.pyi"
    return {alias.asname or alias.name for node in tree(stub).body for alias in node.names}


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def taken(path):
    """The room and the name of everything that a module takes from other rooms; a module of theirs by its dotted name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[1], alias.name) for alias in node.names if alias.name[:8] == "qexport.")
        elif isinstance(node, ast.ImportFrom) and node.module == "qexport":
            yield from ((alias.name, "") for alias in node.names if alias.name in ROOMS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qexport."):
            room, *inside = node.module.split(".")[1:]
            if room in ROOMS and room != room_of(path):
                yield from ((room, node.module if inside else alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_of_another_room_is_imported_but_what_its_face_hands_out(path):
    for room, name in taken(path):
        assert not name or name in face(room) or (name == "qexport.core.version"), f"{room} hands out no {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_hands_out_nothing_that_nobody_takes(room):
    used = {name for path in MODULES if room_of(path) != room for other, name in taken(path) if other == room}
    as_attributes = {
        node.attr
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == room
    }
    assert face(room) <= used | as_attributes


@pytest.mark.parametrize("room", ROOMS)
def test_everything_in_a_face_can_be_had(room):
    package = __import__(f"qexport.{room}", fromlist=["_"])
    for name in face(room):
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_the_rooms_are_few_and_the_arrows_between_them_run_down():
    arrows = {(room_of(path), room) for path in MODULES if room_of(path) for room, _ in taken(path)}
    arrows |= {
        ("api" if path.stem == "api" else "top", room)
        for path in MODULES
        if not room_of(path)
        for room, _ in taken(path)
    }
    floors: dict[str, int] = {}

    def floor(room, above=()):
        assert room not in above, f"a circle: {' -> '.join((*above, room))}"
        if room not in floors:
            floors[room] = 1 + max(
                (floor(below, (*above, room)) for start, below in arrows if start == room), default=0
            )
        return floors[room]

    assert max(map(floor, ROOMS)) <= MOST_FLOORS
    assert len(ROOMS) <= MOST_ROOMS
    assert len(arrows) <= MOST_ARROWS


def test_files_are_short_and_few_lie_at_the_top():
    assert [path.name for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES] == []
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_TOP


def words_of(path):
    """The docstrings of a module, and all its other texts that people read: help, messages."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(path)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_words_are_plain(path):
    found = [
        f"{line}: {text[:80]!r}"
        for line, text in words_of(path)
        if BANNED_OPENINGS.match(text) or BANNED_WORDS.search(text)
    ]
    assert found == []
