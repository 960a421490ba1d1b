"""Hostile and slow clients, by real sockets: each is told in JSON, and none keeps the server from the others."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.client import HTTPConnection

import pytest

from qexport.serving import body, connection, lanes
from qexport.serving.worker import Worker
from tests.serving.conftest import Client, listening, replies
from tests.serving.test_server import PROGRAM
from tests.serving.test_writing import Endless

POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def posting(content, headers=b"Connection: close\r\n"):
    return POST + headers + b"Content-Length: %d\r\n\r\n" % len(content) + content


@pytest.fixture(scope="module")
def llama(serving):
    return serving("llama")


@pytest.fixture
def fresh(llama):
    """A server of its own, for limits that a test changes."""
    with listening(replace(llama[0], worker=Worker(llama[0].worker._writer))) as client:
        yield client


ASK = b'{"model":"llama","prompt":'


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "not JSON"),
        (b'{"prompt":' + b"[" * 400_000, 400, "nested too deep"),
        (ASK + b'"\\ud800"}', 400, "surrogate"),
        (ASK + b'"a","\\ud800":1}', 400, "surrogate"),
        (ASK + b'"a","temperature":NaN}', 400, "NaN is not a JSON number"),
        (ASK + b'"a","temperature":1e999}', 400, "temperature Infinity is not served"),
        (ASK + b'"a","max_tokens":true}', 400, "max_tokens: "),
        (ASK + b'"a","max_tokens":' + b"9" * 4300 + b"}", 400, "max_tokens: "),
        (ASK + b"[" + b"9" * 4300 + b"]}", 400, r"token 9{80}\.\.\. is not among"),
        (ASK + b'"a","prompt":"b"}', 400, 'the key "prompt" occurs twice'),
        (ASK + b'"\xff"}', 400, "not UTF-8"),
        (ASK + b'"a","stop":' + json.dumps(["x"] * 100_000).encode() + b"}", 413, "more than 5120 values"),
        (ASK + b"[" + b"[]," * 300_000 + b"[]]}", 413, "more than 5120 values"),
        (ASK + b'"a","stop":' + json.dumps(["x"] * 1000).encode() + b"}", 400, "stop .* is not served"),
        (ASK + b"[" + b"[]," * 1000 + b"[]]}", 400, "1001 prompts; give 1 to 64"),
        (ASK + b"[" + b"1," * 1000 + b"1]}", 400, "1001 tokens of prompt and 1 new ones"),
        (ASK + b'"' + b"a, " * 200_000 + b'"}', 400, "600000 characters of prompt are more"),
        (ASK + b'"a","' + b"k" * 900_000 + b'":1}', 400, r"^k{80}\.\.\. is not known here"),
        (ASK + b'"a","messages":[' + b"0," * 400_000 + b"0]}", 413, "more than 5120 values"),
        (b'{"prompt":"a","model":"' + b"x" * 900_000 + b'"}', 404, r"'x{80}\.\.\.' is not served here"),
        (ASK + b'"' + b"a" * 900_000 + b'"}', 400, "900000 characters of prompt are more"),
        (ASK + b"[" + b"1," * 400_000 + b"1]}", 413, "more than 5120 values"),
    ],
)
def test_a_hostile_body_is_told_in_short(llama, content, status, said):
    import re

    (reply,) = llama[1].exchange(posting(content))
    assert reply.status == status
    assert re.search(said, reply.message)
    assert len(json.dumps(reply.body)) < 1000


@pytest.mark.parametrize(
    ("sent", "statuses", "said"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400], "illegal request line"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 50_000 + b"\r\n", [431], "more than 16384 bytes"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5_000_000, [431], "more than 16384 bytes"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n\0garbage\r\n\r\n" * 2, [200, 400], "illegal request line"),
        (posting(b"{}", b"") + b"more\r\n\r\n", [400, 400], "illegal request line"),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", [400], "conflicting Content-Length"),
        (POST + b"Content-Length: -1\r\n\r\n", [400], "bad Content-Length"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", [501], "chunked"),
        (CHUNKED + b"zz\r\n", [400], "illegal chunk header"),
        (CHUNKED + b"1\r\na\r\n" * 100_000, [400], "parts of fewer than 64 bytes"),
        (posting(b"x" * 7_000_000), [413], "more than 1048576 bytes"),
        (POST + b"Connection: close\r\nContent-Length: 99999999999\r\n\r\n", [413], "more than 1048576 bytes"),
        (b"POST /v1/completions/ HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n", [404], "Not Found"),
        (b"GET /" + b"p" * 9000 + b" HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n", [404], r"p{79}\.\.\.: Not"),
    ],
)
def test_hostile_bytes_are_told_in_the_same_form(llama, monkeypatch, sent, statuses, said):
    import re

    monkeypatch.setattr(connection, "HEAD_S", 1.0)
    found = llama[1].exchange(sent)
    assert [reply.status for reply in found] == statuses
    assert re.search(said, found[-1].message)


def test_the_type_of_a_body_is_its_content(llama):
    content = ASK + b'"a","max_tokens":1}'
    (reply,) = llama[1].exchange(posting(content, b"Connection: close\r\nContent-Type: text/plain\r\n"))
    assert reply.status == 200
    (reply,) = llama[1].exchange(posting(b"a=b", b"Connection: close\r\nContent-Type: application/json\r\n"))
    assert reply.status == 400


def test_a_connection_is_used_again_once_a_refused_body_has_come(llama):
    connected = llama[1].connection()
    with contextlib.closing(connected):
        for content, status in ((b"x" * 3_000_000, 413), (ASK + b'"a","max_tokens":1}', 200)):
            connected.request("POST", "/v1/completions", content)
            reply = connected.getresponse()
            assert (reply.status, bool(reply.read())) == (status, True)


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"", []),
        (b"GET /health HTTP/1.1\r\nHo", [408]),
        (CHUNKED + b'5\r\n{"mod\r\n', [408]),
        (POST + b"Content-Length: 100\r\n\r\n{}", [408]),
        (POST + b"Content-Length: 99999999999\r\n\r\n{}", [413]),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET", [200, 408]),
    ],
)
def test_what_never_comes_to_an_end_is_ended(fresh, monkeypatch, sent, statuses):
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    monkeypatch.setattr(body, "BODY_S", 0.5)
    start = time.monotonic()
    assert [reply.status for reply in fresh.exchange(sent)] == statuses
    assert time.monotonic() - start < 10


def test_drops_of_a_head_gain_no_time(fresh, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_S", 1.0)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", fresh.port), timeout=30) as connected:
        with contextlib.suppress(OSError):
            for letter in b"GET /" + b"a" * 200:
                connected.sendall(bytes([letter]))
                time.sleep(0.05)
                if time.monotonic() - start > 3:
                    break
        (reply,) = replies(connected)
    assert reply.status == 408


def test_an_answer_that_is_left_unread_is_given_up(llama, monkeypatch):
    monkeypatch.setattr(connection, "WRITE_S", 1.0)
    with listening(replace(llama[0], worker=Worker(Endless()))) as client, socket.socket() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.connect(("127.0.0.1", client.port))
        content = ASK + b'[5],"max_tokens":60,"stream":true,"return_token_ids":true}'
        connected.sendall(posting(content))
        _until(lambda: client.get("/health").body["requests"] == 1)
        _until(lambda: client.get("/health").body["requests"] == 0)


def _until(holds, *, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_idle_connections_give_way_to_a_new_one(fresh, monkeypatch):
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 20)
    with contextlib.ExitStack() as open_connections:
        for sent in [b"", b"GET", POST + b"Content-Length: 100\r\n\r\n{}"] * 20:
            each = open_connections.enter_context(socket.create_connection(("127.0.0.1", fresh.port)))
            with contextlib.suppress(OSError):
                each.sendall(sent)
        assert fresh.complete("dog", max_tokens=2).status == 200


def test_busy_connections_do_not_give_way(llama, monkeypatch):
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 1)
    with (
        listening(replace(llama[0], worker=Worker(Endless()))) as client,
        contextlib.closing(client.connection()) as busy,
    ):
        busy.request("POST", "/v1/completions", ASK + b'[5],"max_tokens":60,"stream":true,"return_token_ids":true}')
        reply = busy.getresponse()
        assert reply.readline().startswith(b"data: ")
        # It reads on, so that it is not one that leaves its answer unread.
        reading = threading.Thread(target=lambda: [None for _ in range(200) if reply.readline()])
        reading.start()
        (refused,) = client.exchange(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (refused.status, refused.body["error"]["code"]) == (503, "busy")
        reading.join()
        reply.close()


def test_large_bodies_at_once_are_bounded_and_small_ones_are_read(fresh, monkeypatch):
    monkeypatch.setattr(body, "TOTAL_BYTES", 300_000)
    with socket.create_connection(("127.0.0.1", fresh.port)) as slow:
        slow.sendall(POST + b"Content-Length: 900000\r\n\r\n" + b" " * 290_000)
        time.sleep(0.3)
        (refused,) = fresh.exchange(posting(b" " * 200_000))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert fresh.complete("dog", max_tokens=2).status == 200
    _until(lambda: fresh.exchange(posting(b" " * 200_000))[0].status == 400)


def test_a_short_request_does_not_wait_for_a_long_one(llama):
    """Of a tokenizer without a bound, as an Unigram is, a long text is tokenized; it takes seconds here."""
    served, _ = llama
    begun, let_go = threading.Event(), threading.Event()

    class Slow:
        def __getattr__(self, name):
            return getattr(served.tokens, name)

        def most_characters(self, _):
            return None

        def encode(self, text, **settings):
            if len(text) > lanes.SHORT_BYTES:
                begun.set()
                let_go.wait(30)
            return served.tokens.encode(text, **settings)

    with listening(replace(served, tokens=Slow(), worker=Worker(served.worker._writer))) as client:
        answers = []
        ask = threading.Thread(target=lambda: answers.append(client.complete("a" * 50_000)))
        ask.start()
        try:
            assert begun.wait(30)
            assert client.complete("dog", max_tokens=2).status == 200
            assert client.get("/health").status == 200
        finally:
            let_go.set()
            ask.join()
    assert answers[0].status == 400


@pytest.mark.parametrize("when", ["head", "body", "answer"])
def test_a_client_that_leaves_is_one_line_at_most(fresh, caplog, when):
    caplog.set_level(logging.INFO)
    whole = posting(ASK + b'[5],"max_tokens":60}')
    cut = {"head": 20, "body": len(whole) - 5, "answer": len(whole)}[when]
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", fresh.port)) as connected:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connected.sendall(whole[:cut])
            time.sleep(0.05)
    assert fresh.get("/health").status == 200
    mine = [record for record in caplog.records if record.name.startswith(("qexport", "uvicorn.error", "asyncio"))]
    told = [record for record in mine if "gone" in record.getMessage()]
    assert len(told) <= 5
    assert not [record for record in mine if record.exc_info or record.levelno > logging.INFO]


def test_in_the_middle_of_the_worst_the_process_answers_and_logs_nothing(fp32):
    """``qexport serve`` as it is, in a process, attacked from five sides."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(fp32("gpt2").path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        port = int(process.stdout.readline().strip().rpartition(":")[2])
        client, over = Client(port, "gpt2"), threading.Event()
        ask = b'{"model":"gpt2","prompt":'
        sides = [
            posting(ask + b'"' + b"a" * 7_000_000 + b'"}'),
            posting(ask + b'"' + b"a" * 1_000_000 + b'"}'),
            posting(ask + b"[" + b"[]," * 300_000 + b"[]]}"),
            posting(b'{"prompt":' + b"[" * 400_000),
            CHUNKED + b"1\r\na\r\n" * 50_000,
        ]

        def attack(sent):
            while not over.is_set():
                with contextlib.suppress(OSError):
                    client.exchange(sent)

        attackers = [threading.Thread(target=attack, args=[sent]) for sent in sides]
        for each in attackers:
            each.start()
        latencies_s = []
        try:
            for _ in range(20):
                start = time.monotonic()
                with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connected:
                    connected.request("GET", "/health")
                    assert connected.getresponse().status == 200
                assert client.complete("the dog", max_tokens=2).status == 200
                latencies_s.append(time.monotonic() - start)
        finally:
            over.set()
            for each in attackers:
                each.join()
        assert max(latencies_s) < 5
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert errors == ""
    finally:
        process.kill()
