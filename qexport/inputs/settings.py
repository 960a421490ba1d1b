"""TOML files of users, and one-line messages with the place of an error."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.core import InputError, near_names, read_text

if TYPE_CHECKING:
    from pydantic import ValidationError


def read_toml(path: Path, *, otherwise: str = "check the path") -> dict[str, Any]:
    """The values of a TOML file.

    Args:
        path: the file.
        otherwise: the way out if the file cannot be read.

    Raises:
        InputError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(read_text(path, otherwise=otherwise))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML ({error}); correct it there") from error


def first_reason(error: ValidationError, keys: Iterable[str]) -> str:
    """The first error with its place, on one line; names close to an unknown key are taken from ``keys``."""
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
