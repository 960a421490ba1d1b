"""Writes files that a reader never sees half written, and reads JSON that somebody else wrote."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qexport.core.errors import InputError


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 beside ``path`` and then rename it. Whatever stops this, ``path`` keeps its old content."""
    write_all({path: text})


def write_all(texts: Mapping[Path, str]) -> None:
    """Write several texts in the way of :func:`write_whole`: a full disk leaves all files unchanged."""
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in texts}
    for path in texts:
        _sweep(path)
    for path in texts:
        if path.is_dir():  # refused before the first file is replaced
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    try:
        for path, text in texts.items():
            beside[path].write_text(text, encoding="utf-8", newline="\n")
        for path, place in beside.items():
            place.replace(path)
    finally:
        for place in beside.values():
            place.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove the leftovers of killed processes beside a file."""
    begin = f".{path.name}."
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        pid = left.name.removeprefix(begin)
        if left.name.startswith(begin) and pid.isdecimal() and not is_alive(int(pid)):
            left.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """True if a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def read_text(path: Path, *, otherwise: str = "check the path") -> str:
    """The content of a text file that somebody wrote, without a byte order mark.

    Args:
        path: the file.
        otherwise: the advice if the file cannot be read.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); convert it first") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {otherwise}") from error


def parse_json(text: str | bytes, place: object, *, way_out: str = "write it again") -> Any:
    """The value that a JSON text holds.

    Args:
        text: the JSON text; bytes must be UTF-8.
        place: the file, and the line if the file has several texts, for the message.
        way_out: the advice of the message.

    Raises:
        InputError: the text is no JSON, or is nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{place}: cannot be read as JSON (it is nested too deep); {way_out}") from error
    except ValueError as error:  # covers bytes that are not UTF-8
        raise InputError(f"{place}: cannot be read as JSON ({error}); {way_out}") from error


def read_json(path: Path, *, way_out: str = "save the model again") -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        InputError: the file cannot be read, is no JSON, or does not hold an object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {way_out}") from error
    value = parse_json(content.removeprefix(b"\xef\xbb\xbf"), path, way_out=way_out)
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no JSON object; {way_out}")
    return value
