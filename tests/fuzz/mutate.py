"""Ways to spoil a file, drawn from a random generator: bytes, JSON values, and lines."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

VALUES: tuple[Any, ...] = (
    -1,
    0,
    1,
    2**31,
    2**63,
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "text",
    "a" * 2_000_000,
    "\ud800",
    "\u202e",
    "\x00",
    "../../x",
    "/etc/passwd",
    None,
    True,
    [],
    {},
    [[]],
    [-1, 2.5, "x"],
)
"""Values that some reader did not expect."""
JUNK = (
    b"",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00" * 64,
    b"{",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"PK\x03\x04",
    b"\n\n\n",
)
"""Contents that are no file of the kind at all."""


def spoiled(content: bytes, draw: random.Random) -> bytes:
    """The content of a file with one thing or several wrong."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _cut, _junk, _repeated]
    if content[:1] in b"{[":
        ways += [_json] * 6
    if b"\n" in content[:4096]:
        ways += [_line] * 3
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(ways)(content, draw)
    return content


def spoiled_header(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header, or its length, was spoiled."""
    length = int.from_bytes(content[:8], "little")
    if draw.random() < 0.2:
        return draw.choice((0, 1, length - 1, length + 1, 2**63 - 1)).to_bytes(8, "little") + content[8:]
    header = spoiled(content[8 : 8 + length], draw)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _bytes(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8) if changed else 0):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randint(0, len(content))]


def _junk(_: bytes, draw: random.Random) -> bytes:
    return draw.choice(JUNK)


def _repeated(content: bytes, draw: random.Random) -> bytes:
    at = draw.randint(0, len(content))
    return content[:at] + content[max(0, at - 64) : at] * draw.randint(1, 40) + content[at:]


def _line(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    at = draw.randrange(len(lines))
    lines[at] = draw.choice(
        (b"", lines[draw.randrange(len(lines))], b"x" * 100_000, b"\t = [[", b"\xed\xa0\x80", b"\x1b[31m")
    )
    return b"\n".join(lines)


def _json(content: bytes, draw: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places = list(_places(value))
    if not places:
        return content
    holder, key = draw.choice(places)
    what = draw.random()
    if what < 0.15:
        del holder[key]
    elif what < 0.3 and isinstance(holder, dict):
        holder[draw.choice(("x", "\ud800", "auto_map", "n_layer"))] = holder.pop(key)
    elif what < 0.4:
        holder[key] = _deep(draw.choice((50, 500)))
    else:
        holder[key] = draw.choice(VALUES)
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except RecursionError:  # of a value that was nested deep before
        return content


def _places(value: Any, limit: int = 2000) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < limit:
        each = waiting.pop(0)
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        for key in list(keys)[:64]:
            found.append((each, key))
            waiting.append(each[key])
    return found


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value
