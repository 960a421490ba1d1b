"""TOML files that people write, and what is said where they are wrong: one line, with the place."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.errors import InputError, near_names
from qexport.files import read_text

if TYPE_CHECKING:
    from pydantic import ValidationError


def read_toml(path: Path, *, otherwise: str = "check the path") -> dict[str, Any]:
    """The values of a TOML file.

    Args:
        path: the file.
        otherwise: what to do where it cannot be read.

    Raises:
        InputError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(read_text(path, otherwise=otherwise))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML ({error}); correct it there") from error


def first_reason(error: ValidationError, keys: Iterable[str]) -> str:
    """The first thing that is wrong, with its place, on one line; near names of a key that does not exist are among ``keys``."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        text = f"unknown key {place}; {near_names(str(first['loc'][-1]), keys)}"
    elif first["type"] == "missing":
        text = f"the key {place} is missing; add it"
    else:
        text = f"{place}: {reason}" if place else reason
        text += "" if ";" in reason else "; correct it"
    return " ".join(text.split())  # a key may hold a line break
