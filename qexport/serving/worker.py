"""One thread that runs the model, and the requests that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from qexport.serving.writing import Prompt, Token, Writer

WAITING = 64
"""Requests at once, the one that runs included; a server that takes more only answers later."""
_PROBE: Prompt = (0,)


class Busy(Exception):
    """As many requests as are taken wait already."""


class Worker:
    """Runs one request after another; used from one event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qexport-serve")
        self._requests = 0
        self._counting = threading.Lock()
        self._probing: asyncio.Task[None] | None = None
        self.failure = ""
        """What went wrong in the last request that ended; empty after one that went well."""

    @property
    def requests(self) -> int:
        """Requests that run or wait."""
        return self._requests

    def first_token(self) -> None:
        """Generate one token, and wait for it; the first that is generated proves that the model runs."""
        self._thread.submit(lambda: next(self._writer.write([_PROBE], new_tokens=1))).result()

    async def healthy(self) -> bool:
        """Whether a token can be had: an idle model generates one, a busy one goes by its last request."""
        if self._requests == 0:
            if self._probing is None or self._probing.done():
                self._probing = asyncio.create_task(self._probe())
            await asyncio.shield(self._probing)  # one token answers all who ask meanwhile, and one may leave
        return not self.failure

    async def _probe(self) -> None:
        try:
            await asyncio.wrap_future(self._thread.submit(lambda: next(self._writer.write([_PROBE], new_tokens=1))))
        except Exception as error:  # noqa: BLE001 (every error is reported)
            self.failure = _one_line(error)
        else:
            self.failure = ""

    async def write(self, prompts: Sequence[Prompt], *, new_tokens: int) -> AsyncGenerator[list[Token], None]:
        """See :meth:`Writer.write`; the model stops where the iterator is closed.

        Raises:
            Busy: too many requests wait.
        """
        if self._requests >= WAITING:
            raise Busy
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[list[Token] | Exception | None] = asyncio.Queue()
        unwanted = threading.Event()

        def hand_over(item: list[Token] | Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(arrived.put_nowait, item)

        def work() -> None:
            last: Exception | None = None
            try:
                steps = self._writer.write(prompts, new_tokens=new_tokens)
                while not unwanted.is_set() and (tokens := next(steps, None)) is not None:
                    hand_over(tokens)
            except Exception as error:  # noqa: BLE001 (raised where it is waited for)
                last = error
            # Counted until the model is done with it, and not until a slow client has read its answer.
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
        """Wait for the step that runs; what waits is dropped."""
        self._thread.shutdown(cancel_futures=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
