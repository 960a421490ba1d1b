"""uvicorn's HTTP connection with additions: time limits in both directions, a cap on connections, errors in JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from qexport.serving.protocol import Refused
from qexport.serving.strict_json import cut

MOST_CONNECTIONS = 512
"""With more, the connection that has waited longest for its client is closed for a new one."""
HEAD_S = 10.0
"""The most seconds for a request's line and headers, and for the rest of a refused body."""
WRITE_S = 60.0
"""The most seconds that a client may leave part of an answer unread."""
HEAD_BYTES = 16 * 2**10
"""The most bytes of a request line and headers."""
DRAIN_BYTES = 16 * 2**20
"""The most bytes that are discarded after a refusal, so that the client gets to read the refusal."""
_CHUNKS, _CHUNK_BYTES = 1000, 64
"""A body in more parts than this must have this many bytes per part on average: each part costs as much as 1 KiB."""
_TICK_S = 0.5
_NOISE = frozenset({"Invalid HTTP request received.", "Unsupported upgrade request."})
_log = logging.getLogger(__name__)


def is_news(record: logging.LogRecord) -> bool:
    """A filter for uvicorn's log. Clients get these errors in the answer, so the log leaves them out."""
    return record.msg not in _NOISE and "WebSocket library" not in str(record.msg)


class Connection(H11Protocol):
    """One client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", _Lingering(transport, self))
        self.conn = self._parser = _Parser()
        self._since = self.loop.time()
        """The start of the connection's current phase: waiting for a request, or handling one."""
        self._unread_since: float | None = None
        self._discards, self._discarded = False, 0
        self._judged_cycle: object = None
        self._timer = self.loop.call_later(_TICK_S, self._look)
        if len(self.connections) > MOST_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discards or (self._is_between() and self.conn.their_state is h11.SEND_BODY):
            self._discarded += len(data)
            if self._discarded > DRAIN_BYTES:
                self.transport.abort()
                return
        if self._discards:
            return
        super().data_received(data)
        if self.cycle is not self._judged_cycle:
            self._judged_cycle, self._since = self.cycle, self.loop.time()

    def on_response_complete(self) -> None:
        self._since, self._discarded = self.loop.time(), 0
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, if no answer has begun."""
        error = self._parser.fault
        self._refuse(error.error_status_hint if error else 400, f"{msg} {cut(str(error or ''))}".strip())

    def _is_between(self) -> bool:
        """True if the connection waits for a new request."""
        cycle: RequestResponseCycle | None = self.cycle  # initially None, against uvicorn's types
        return cycle is None or cycle.response_complete

    def _waits_for_client(self) -> bool:
        return self._is_between() or self.cycle.more_body or self.transport.get_write_buffer_size() > 0

    def _make_room(self) -> None:
        waiting = [
            each
            for each in self.connections
            if isinstance(each, Connection) and each is not self and each._waits_for_client()  # noqa: SLF001 (its own class)
        ]
        if not waiting:
            self._refuse(503, f"{MOST_CONNECTIONS} connections are busy; ask again later", code="busy")
            return
        longest = min(waiting, key=lambda each: each._since)  # noqa: SLF001 (the same)
        self.connections.discard(longest)
        longest.transport.abort()

    def _look(self) -> None:
        """Close a connection whose client takes too long; called twice a second."""
        now = self.loop.time()
        if self.transport.get_write_buffer_size() == 0:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > WRITE_S:
            _log.info("%s does not read its answer; closed", self.client)
            self.transport.abort()
            return
        if self._is_between() and now - self._since > HEAD_S and not self.transport.is_closing():
            pending, _ = self.conn.trailing_data
            if self._discards or self.conn.our_state is not h11.IDLE or not pending:
                self.transport.abort()
                return
            self._refuse(408, f"the request's headers did not arrive within {HEAD_S:g} s; send them faster")
        self._timer = self.loop.call_later(_TICK_S, self._look)

    def _refuse(self, status: int, message: str, *, code: str | None = None) -> None:
        """Send an error instead of an answer, and end the connection."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()
            return
        _log.info("%s is refused: %d, %s", self.client, status, message)
        body = json.dumps(Refused(message, status=status, code=code).body).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if not self._is_between():
            self.cycle.disconnected = True  # stops the pending answer
            self.cycle.message_event.set()
            self.cycle.response_complete = True
        self.linger()

    def linger(self) -> None:
        """End the answers, and discard further input until the client ends too or its time is over."""
        self._discards, self._discarded, self._since = True, 0, self.loop.time()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


class _Lingering:
    """A transport that uvicorn may close before a refused body has arrived; an early close would lose the answer."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if self._connection.conn.their_state is h11.SEND_BODY and not self._transport.is_closing():
            self._connection.linger()
        else:
            self._transport.close()


class _Parser(h11.Connection):
    """An h11 connection that also refuses heads and bodies whose cost exceeds their size."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)
        self.fault: h11.RemoteProtocolError | None = None
        self._parts, self._bytes = 0, 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        try:
            self._judge_head()
            event = super().next_event()
            self._judge_parts(event)
        except h11.RemoteProtocolError as error:
            self.fault = error
            raise
        return event

    def _judge_head(self) -> None:
        """Bound the size of every head; h11 itself bounds only an incomplete one."""
        if self.their_state is not h11.IDLE:
            return
        pending, _ = self.trailing_data
        head = pending[:HEAD_BYTES]
        if len(pending) > HEAD_BYTES and b"\n\r\n" not in head and b"\n\n" not in head:
            raise h11.RemoteProtocolError(f"the headers have more than {HEAD_BYTES} bytes", error_status_hint=431)

    def _judge_parts(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._parts, self._bytes = 0, 0
        if isinstance(event, h11.Data):
            self._parts, self._bytes = self._parts + 1, self._bytes + len(event.data)
            if self._parts > _CHUNKS and self._bytes < self._parts * _CHUNK_BYTES:
                raise h11.RemoteProtocolError(f"the body comes in parts of fewer than {_CHUNK_BYTES} bytes")
