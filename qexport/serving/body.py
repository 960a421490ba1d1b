"""A request's body, within bounds of size, time and memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from qexport.serving.protocol import PROMPTS, Refused

if TYPE_CHECKING:
    from starlette.requests import Request

BODY_S = 30.0
"""Longest time that a body may take."""
TOTAL_BYTES = 64 * 2**20
"""Most bytes of all large bodies at once."""
_SMALL_BYTES = 64 * 2**10
"""Bodies up to here are not counted: connections are few enough for them."""
_LEAST_BYTES, _MOST_BYTES = 2**20, 8 * 2**20
_TOKEN_BYTES = 32
"""Of JSON for each token of a full request, generously: words have 4 to 6, ids up to 8."""

_FIELDS = 1024


def most_bytes(context: int) -> int:
    """Longest body that is read: as many full prompts as one request may have, from 1 to 8 MiB."""
    return min(max(PROMPTS * context * _TOKEN_BYTES, _LEAST_BYTES), _MOST_BYTES)


def most_values(context: int) -> int:
    """Most JSON values of a body: the tokens of as many full prompts as one request may have, and room for fields."""
    return PROMPTS * context + _FIELDS


class Bodies:
    """Reads bodies, and counts what they hold."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    @contextlib.asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which counts as held until the context ends.

        Raises:
            Refused: it is too long or too slow, or the bodies of others leave no room.
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
                message = f"the body was not there within {BODY_S:g} s; send it in less"
                raise Refused(message, status=408) from None
            yield b"".join(parts)
        finally:
            self._held -= counted

    def _judge(self, size: int) -> None:
        if size > self._most:
            raise Refused(f"the body has more than {self._most} bytes; send less", status=413)


def _announced(request: Request) -> int:
    # h11 has made sure that it is a number.
    return int(request.headers.get("content-length", 0))
