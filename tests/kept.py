"""Tiny models and exports that are kept from one run of the tests to the next, and shared by the workers of a run.

An export takes seconds, and depends on nothing but the model and the code that makes it. So the key is a digest of both:
of the model's files, of the modules of this repository that take part, found by their imports, and of the versions of the
libraries. A change of any of them makes another key. ``QEXPORT_TEST_CACHE`` names the folder.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("ml_dtypes", "numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "optimum", "optimum-onnx")
LIBRARIES += ("safetensors", "tokenizers", "torch", "transformers")
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()} {time.time()}"
UNUSED_S = 14 * 24 * 3600.0
"""An entry under another key that nobody used for so long is removed."""


def kept(name: str, make: Callable[[Path], object], modules: tuple[str, ...], given: Path | None = None) -> Path:
    """The folder that ``make`` fills once for each state of ``modules``, all that they import, and the folder ``given``.

    Nothing in it must be written to. An entry whose files are not those that were made is made again.
    """
    state = _state(modules) + (json.dumps(_digests(given)) if given else "")
    place = _home() / f"{name}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"
    note = _note(place)
    with FileLock(place.with_name(f"{place.name}.lock")):
        if not note.is_file() or json.loads(note.read_text())["files"] != _digests(place):
            note.unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".unfinished-") as unfinished:
                folder = Path(unfinished) / "made"
                folder.mkdir()
                make(folder)
                folder.rename(place)
            part = note.with_suffix(".part")
            part.write_text(json.dumps({"run": RUN, "files": _digests(place)}))
            part.replace(note)
            _remove_unused(name)
        os.utime(note)
    return place


def is_of_this_run(place: Path) -> bool:
    """True if a worker of this run of the tests made this folder of :func:`kept`."""
    return bool(json.loads(_note(place).read_text())["run"] == RUN)


def _note(place: Path) -> Path:
    """Beside an entry that is whole: the run that made it, and the digests of its files."""
    return place.with_name(f"{place.name}.json")


def _home() -> Path:
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("QEXPORT_TEST_CACHE") or users / "qexport-tests")
    home.mkdir(parents=True, exist_ok=True)
    return home


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _remove_unused(name: str) -> None:
    for note in _home().glob(f"{name}-{'[0-9a-f]' * 16}.json"):
        if time.time() - note.stat().st_mtime > UNUSED_S:
            note.unlink(missing_ok=True)
            shutil.rmtree(note.with_suffix(""), ignore_errors=True)


@cache
def _state(modules: tuple[str, ...]) -> str:
    state = hashlib.sha256(f"{platform.python_version()} {platform.machine()}".encode())
    for library in LIBRARIES:
        state.update(f"{library} {_version(library)}\n".encode())
    for path in sorted(sources((*modules, __name__))):  # this module too: it says what an entry looks like
        content = path.read_bytes()
        state.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return state.hexdigest()


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # such as onnxruntime where onnxruntime-gpu is installed
        return ""


def sources(modules: tuple[str, ...]) -> set[Path]:
    """The files of these modules, and of all of this repository that they import, wherever the import stands."""
    found: set[Path] = set()
    names, seen = list(modules), set()
    while names:
        name = names.pop()
        path = _file(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        found.add(path)
        names += [name.rpartition(".")[0], *_imported(path)]
    return found


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if module and candidate.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names]
            yield from (node.module, *(f"{node.module}.{name}" for name in names), *_behind_face(node.module, names))
            for name in names:  # a whole room, whose names are attributes
                yield from _behind_face(f"{node.module}.{name}")


def _behind_face(room: str, names: Iterable[str] | None = None) -> Iterator[str]:
    """The modules that a room's stub takes some names from; None for all names."""
    stub = ROOT.joinpath(*room.split("."), "__init__.pyi")
    if stub.is_file():
        for node in ast.parse(stub.read_bytes()).body:
            if isinstance(node, ast.ImportFrom):
                there = {alias.name for alias in node.names}
                taken = there if names is None else there & set(names)
                yield from (
                    (f"{room}.{node.module}",) if node.module and taken else (f"{room}.{name}" for name in taken)
                )
