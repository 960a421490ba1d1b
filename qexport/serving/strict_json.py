"""JSON from untrusted clients: UTF-8, unique keys, finite numbers, whole characters, and nesting within the stack."""

from __future__ import annotations

import json
from typing import Any, NoReturn

SHOWN_CHARACTERS = 80
"""The most characters of a request that an answer repeats."""


def loads(body: bytes) -> Any:
    """Read a JSON text.

    Raises:
        ValueError: the text is not JSON, or has a key twice, a number that is not finite, or half of a surrogate pair.
    """
    try:
        given = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
        if b"\\u" in body:  # without an escape, UTF-8 holds no surrogate
            json.dumps(given, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise ValueError("a \\u escape is half of a surrogate pair, not a character") from error
    except RecursionError:
        raise ValueError("lists or objects are nested too deep") from None
    return given


def has_more_values(body: bytes, most: int) -> bool:
    """Estimate from its commas if a JSON text has more values than ``most``; this is much cheaper than parsing."""
    if body.count(b",") < most:
        return False
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # each remaining quote begins or ends a string
    if bare.count(b'"') > 4 * most:  # a value and its key are two strings
        return True
    outside = b"".join(bare.split(b'"')[::2])
    return outside.count(b",") >= most


def cut(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= most else f"{text[:most]}..."


def quoted(value: object) -> str:
    """A value of a request, in a form that an answer may repeat."""
    try:
        return cut(json.dumps(value))
    except RecursionError:
        return "..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quoted(twice)} occurs twice")
    return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
