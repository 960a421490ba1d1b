"""A server in a thread of this process, and a client of it that knows nothing but HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass
from http.client import HTTPConnection

import pytest


@dataclass(frozen=True)
class Reply:
    status: int
    body: dict
    headers: dict

    @property
    def message(self):
        return self.body["error"]["message"]


@dataclass(frozen=True)
class Client:
    port: int
    model: str

    def connection(self):
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def exchange(self, sent, *, timeout_s=30):
        """Send bytes, and all replies until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(sent)
            return replies(connection)

    def get(self, path):
        return self._ask("GET", path, None)

    def post(self, path, body):
        return self._ask("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def complete(self, prompt, **settings):
        return self.post(
            "/v1/completions", {"model": self.model, "prompt": prompt, "return_token_ids": True} | settings
        )

    def stream(self, path, body):
        """The events of a stream, and that its last one is what ends it."""
        with contextlib.closing(self.connection()) as connection:
            connection.request("POST", path, json.dumps({"model": self.model, "stream": True} | body).encode())
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            assert reply.headers["content-type"].startswith("text/event-stream")
            events = reply.read().decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def _ask(self, method, path, body):
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return Reply(reply.status, json.loads(reply.read()), dict(reply.headers))


def replies(connection):
    """What a connection still brings, until its other end closes it."""
    received = b""
    while part := connection.recv(2**16):
        received += part
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body, received = rest[: int(headers["content-length"])], rest[int(headers["content-length"]) :]
        found.append(Reply(int(first.split()[1]), json.loads(body), headers))
    return found


@contextlib.contextmanager
def listening(served):
    """A client of what is served."""
    import uvicorn

    from qexport.serving.server import configure

    server = uvicorn.Server(configure(served))
    with socket.create_server(("127.0.0.1", 0)) as place:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            yield Client(place.getsockname()[1], served.model)
        finally:
            server.should_exit = True
            thread.join()
            served.worker.close()


@pytest.fixture(scope="session")
def serving(fp32):
    """``serving("llama")`` is that tiny model as it is served, and a client."""
    from qexport.serving.server import load

    with contextlib.ExitStack() as open_servers:
        made = {}

        def start(name):
            if name not in made:
                served = load(fp32(name).path, provider="cpu", threads=1)
                made[name] = served, open_servers.enter_context(listening(served))
            return made[name]

        yield start
