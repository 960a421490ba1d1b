"""Reads a request's body, with limits on size, time and memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from qexport.serving.protocol import PROMPTS, Refused

if TYPE_CHECKING:
    from starlette.requests import Request

BODY_S = 30.0
"""The most seconds for a body."""
TOTAL_BYTES = 64 * 2**20
"""The most bytes of all large bodies together."""
_SMALL_BYTES = 64 * 2**10
"""Bodies up to this size are not counted: the number of connections bounds them."""
_LEAST_BYTES, _MOST_BYTES = 2**20, 8 * 2**20
_TOKEN_BYTES = 32
"""Bytes of JSON for each token of a full request, a generous bound: words have 4 to 6, ids up to 8."""

_FIELDS = 1024


def most_bytes(context: int) -> int:
    """The longest body: all the full prompts that one request may have, from 1 to 8 MiB."""
    return min(max(PROMPTS * context * _TOKEN_BYTES, _LEAST_BYTES), _MOST_BYTES)


def most_values(context: int) -> int:
    """The most JSON values of a body: the tokens of all full prompts that one request may have, and room for fields."""
    return PROMPTS * context + _FIELDS


class Bodies:
    """Reads bodies, and counts the memory that they hold."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    @contextlib.asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """The body; it counts as held until the context ends.

        Raises:
            Refused: the body is too long or too slow, or other bodies leave no room.
        """
        parts, size, counted = [], 0, 0
        self._judge(_announced(request))
        try:
            try:
                async with asyncio.timeout(BODY_S):
                    async for part in request.stream():
                        size += len(part)
                        self._judge(size)
                        if size > _SMALL_BYTES:
                            self._held += size - counted
                            counted = size
                        if self._held > TOTAL_BYTES:
                            raise Refused(
                                "large bodies of other requests are being read; ask again later",
                                status=503,
                                code="busy",
                            )
                        parts.append(part)
            except TimeoutError:
                message = f"the body did not arrive within {BODY_S:g} s; send it faster"
                raise Refused(message, status=408) from None
            yield b"".join(parts)
        finally:
            self._held -= counted

    def _judge(self, size: int) -> None:
        if size > self._most:
            raise Refused(f"the body has more than {self._most} bytes; send less", status=413)


def _announced(request: Request) -> int:
    # h11 has checked that it is a number.
    return int(request.headers.get("content-length", 0))
