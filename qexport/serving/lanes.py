"""Threads that parse and tokenize requests, off the event loop, one short and one long request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from qexport.serving.worker import Busy

SHORT_BYTES = 16 * 2**10
"""The most bytes of a short body: some hundredths of a second with the slowest tokenizer."""
_SHORT_WAITING = 256
_LONG_WAITING = 16

_Result = TypeVar("_Result")


class Lanes:
    """Two threads, so that a short request never waits for a long one; for use from one event loop."""

    def __init__(self) -> None:
        self._short = _Lane("short", _SHORT_WAITING)
        self._long = _Lane("long", _LONG_WAITING)

    async def run(self, work: Callable[[], _Result], *, body_bytes: int) -> _Result:
        """Do the work of one request in its turn; work that has not begun is dropped if it is cancelled.

        Raises:
            Busy: too many requests in the same lane wait.
        """
        return await (self._short if body_bytes <= SHORT_BYTES else self._long).run(work)


class _Lane:
    def __init__(self, name: str, waiting: int) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"qexport-read-{name}")
        self._most, self._requests = waiting, 0

    async def run(self, work: Callable[[], _Result]) -> _Result:
        if self._requests >= self._most:
            raise Busy
        self._requests += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(work))
        finally:
            self._requests -= 1
