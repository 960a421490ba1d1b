"""One thread that runs the model, and the queue of requests for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from qexport.serving.writing import Prompt, Token, Writer

WAITING = 64
"""The most requests at once, with the running one; more would only get later answers."""
_PROBE: Prompt = (0,)


class Busy(Exception):
    """The queue of requests is full."""


class Worker:
    """Runs one request after another; for use from one event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qexport-serve")
        self._requests = 0
        self._counting = threading.Lock()
        self._probing: asyncio.Task[None] | None = None
        self.failure = ""
        """The error of the last finished request; empty if it succeeded."""

    @property
    def requests(self) -> int:
        """The number of requests that run or wait."""
        return self._requests

    def first_token(self) -> None:
        """Generate one token and wait for it; this proves that the model runs."""
        self._thread.submit(lambda: next(self._writer.write([_PROBE], new_tokens=1))).result()

    async def healthy(self) -> bool:
        """True if the model can generate: an idle model generates one token, a busy one reports its last request."""
        if self._requests == 0:
            if self._probing is None or self._probing.done():
                self._probing = asyncio.create_task(self._probe())
            await asyncio.shield(self._probing)  # one token serves all concurrent checks; one may be cancelled
        return not self.failure

    async def _probe(self) -> None:
        try:
            await asyncio.wrap_future(self._thread.submit(lambda: next(self._writer.write([_PROBE], new_tokens=1))))
        except Exception as error:  # noqa: BLE001 (every error is reported)
            self.failure = _one_line(error)
        else:
            self.failure = ""

    async def write(self, prompts: Sequence[Prompt], *, new_tokens: int) -> AsyncGenerator[list[Token], None]:
        """See :meth:`Writer.write`; the model stops if the iterator is closed.

        Raises:
            Busy: too many requests wait.
        """
        if self._requests >= WAITING:
            raise Busy
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[list[Token] | Exception | None] = asyncio.Queue()
        unwanted = threading.Event()

        def hand_over(item: list[Token] | Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed and no one waits
                loop.call_soon_threadsafe(arrived.put_nowait, item)

        def work() -> None:
            last: Exception | None = None
            try:
                steps = self._writer.write(prompts, new_tokens=new_tokens)
                while not unwanted.is_set() and (tokens := next(steps, None)) is not None:
                    hand_over(tokens)
            except Exception as error:  # noqa: BLE001 (raised in the waiting request)
                last = error
            # The request counts until the model is done, not until a slow client has read its answer.
            self._count(-1)
            hand_over(last)

        self._count(1)
        future = self._thread.submit(work)
        try:
            while (item := await arrived.get()) is not None:
                if isinstance(item, Exception):
                    self.failure = _one_line(item)
                    raise item
                yield item
            self.failure = ""
        finally:
            unwanted.set()
            if future.cancel():
                self._count(-1)

    def _count(self, by: int) -> None:
        with self._counting:
            self._requests += by

    def close(self) -> None:
        """Wait for the running step; drop waiting requests."""
        self._thread.shutdown(cancel_futures=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
