"""``qexport serve`` beside hostile and slow clients: the latency of honest requests, calm and attacked, and the answers that attackers got.

    python benchmarks/server_attack.py --seconds 60
    python benchmarks/server_attack.py --seconds 600 --artifact runs/gate/artifacts/fp32

The server runs in a process of its own; honest clients and attackers run in two more. Everybody shares this machine's CPUs. So a
third phase keeps every CPU busy without any attack: it tells how much of the slowdown is a shared CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEW_TOKENS = 16
PAUSE_S = 0.05
"""Between two requests of an honest client, and of an attacker."""


class Calm(NamedTuple):
    """The answers and latencies of honest clients in one phase."""

    latencies_s: dict[str, list[float]]
    failures: int
    server_cpu_s: float
    rss_bytes: int


def posting(content: bytes) -> bytes:
    return POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content


def attacks(model: str) -> dict[str, Callable[[int], str]]:
    """Hostile clients by name; each call is one connection, and says how it ended."""
    ask = b'{"model":"%s","prompt":' % model.encode()
    stream = ask + b'"the","max_tokens":300,"stream":true,"return_token_ids":true}'
    whole = {
        "7 MB prompt": posting(ask + b'"' + b"a" * 7_000_000 + b'"}'),
        "1 MB prompt": posting(ask + b'"' + b"a" * 1_000_000 + b'"}'),
        "300,000 empty prompts": posting(ask + b"[" + b"[]," * 300_000 + b"[]]}"),
        "450,000 ids": posting(ask + b"[" + b"1," * 450_000 + b"1]}"),
        "nested JSON": posting(b'{"prompt":' + b"[" * 500_000),
        "lone surrogate": posting(ask + b'"\\ud800"}'),
        "1 MB model name": posting(b'{"prompt":"a","model":"' + b"m" * 1_000_000 + b'"}'),
        "1 MB key": posting(ask + b'"a","' + b"k" * 1_000_000 + b'":1}'),
        "200,000 stops": posting(ask + b'"a","stop":' + json.dumps(["x"] * 200_000).encode() + b"}"),
        "huge max_tokens": posting(ask + b'"a","max_tokens":' + b"9" * 4300 + b"}"),
        "NaN": posting(ask + b'"a","temperature":NaN}'),
        "key twice": posting(ask + b'"a","prompt":"b"}'),
        "invalid UTF-8": posting(ask + b'"\xff"}'),
        "empty body": posting(b""),
        "huge headers": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
        "pipelined garbage": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + b"\0garbage\r\n\r\n" * 1000,
        "1-byte chunks": CHUNKED + b"1\r\na\r\n" * 200_000,
        "short Content-Length": POST + b"Content-Length: 2\r\n\r\n{}garbage\r\n\r\n",
    }
    slow = {
        "slow headers": b"GET /health HTTP/1.1\r\n",
        "slow body": POST + b"Content-Length: 1000\r\n\r\n",
        "endless chunks": CHUNKED,
    }
    found: dict[str, Callable[[int], str]] = {name: _sending(sent) for name, sent in whole.items()}
    drops = {"slow headers": b"a", "slow body": b" ", "endless chunks": b"400\r\n" + b" " * 1024 + b"\r\n"}
    found |= {name: _dripping(sent, drops[name]) for name, sent in slow.items()}
    return found | {"leaves at once": _leaving(posting(stream)), "reads nothing": _unread(posting(stream))}


def _status(received: bytes) -> str:
    return received[9:12].decode() if received.startswith(b"HTTP/1.1 ") else "closed"


def _receive(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(2**16):
            received += part
    # Behind pipelining, the last answer counts.
    return received[received.rfind(b"HTTP/1.1 ") :] if received else b""


def _connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=90)


def _sending(sent: bytes) -> Callable[[int], str]:
    def once(port: int) -> str:
        with _connect(port) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(sent)
            return _status(_receive(connection))

    return once


def _dripping(sent: bytes, drop: bytes) -> Callable[[int], str]:
    def once(port: int) -> str:
        with _connect(port) as connection:
            connection.settimeout(0.5)
            with contextlib.suppress(OSError):
                connection.sendall(sent)
            while True:
                try:
                    received = connection.recv(2**16)
                except TimeoutError:
                    with contextlib.suppress(OSError):
                        connection.sendall(drop)
                except OSError:
                    return "closed"
                else:
                    return _status(received)

    return once


def _leaving(sent: bytes) -> Callable[[int], str]:
    def once(port: int) -> str:
        with _connect(port) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
            connection.sendall(sent)
            time.sleep(0.02)
        return "left"

    return once


def _unread(sent: bytes) -> Callable[[int], str]:
    def once(port: int) -> str:
        with _connect(port) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.sendall(sent)
            time.sleep(5)
        return "left"

    return once


def attack(
    port: int, model: str, idle: int, over: Event, counts: multiprocessing.SimpleQueue[dict[str, Counter[str]]]
) -> None:
    """All attackers at once, a thread each, and idle connections that are opened again where they are closed."""
    counted: dict[str, Counter[str]] = {}

    def go_on(name: str, once: Callable[[int], str]) -> None:
        ends = counted[name] = Counter()
        while not over.is_set():
            try:
                ends[once(port)] += 1
            except OSError:
                ends["reset"] += 1
            time.sleep(PAUSE_S)

    def stay_idle() -> None:
        ends = counted[f"{idle} idle connections"] = Counter()
        held: list[socket.socket] = []
        while not over.is_set():
            while len(held) < idle:
                held.append(_connect(port))
                held[-1].settimeout(0)
            time.sleep(0.5)
            for each in list(held):
                with contextlib.suppress(BlockingIOError):
                    with contextlib.suppress(ConnectionError):
                        each.recv(1)
                    ends["closed"] += 1
                    held.remove(each)
                    each.close()

    threads = [threading.Thread(target=go_on, args=item, daemon=True) for item in attacks(model).items()]
    threads.append(threading.Thread(target=stay_idle, daemon=True))
    for each in threads:
        each.start()
    over.wait()
    time.sleep(1)
    counts.put({name: ends.copy() for name, ends in counted.items()})


def ask(port: int, model: str, seconds: float, clients: int, server: psutil.Process) -> Calm:
    """Honest clients: completions one after another from each, and one that asks for /health."""
    latencies_s: dict[str, list[float]] = {"completion": [], "health": []}
    failures: list[str] = []
    end = time.monotonic() + seconds
    body = json.dumps({"model": model, "prompt": "the king of the old town", "max_tokens": NEW_TOKENS}).encode()

    def go_on(kind: str, *request: object) -> None:
        while time.monotonic() < end:
            start = time.perf_counter()
            try:
                with contextlib.closing(HTTPConnection(HOST, port, timeout=60)) as connection:
                    connection.request(*request)  # type: ignore[arg-type]
                    reply = connection.getresponse()
                    reply.read()
                if reply.status != 200:
                    failures.append(str(reply.status))
            except OSError as error:
                failures.append(type(error).__name__)
            latencies_s[kind].append(time.perf_counter() - start)
            time.sleep(random.uniform(0.5, 1.5) * PAUSE_S)

    threads = [
        threading.Thread(target=go_on, args=("completion", "POST", "/v1/completions", body)) for _ in range(clients)
    ]
    threads.append(threading.Thread(target=go_on, args=("health", "GET", "/health")))
    before = server.cpu_times()
    for each in threads:
        each.start()
    most = 0
    while any(each.is_alive() for each in threads):
        most = max(most, server.memory_info().rss)
        time.sleep(0.1)
    after = server.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return Calm(latencies_s, len(failures), cpu_s, most)


@contextlib.contextmanager
def serving(artifact: Path, log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The server's port and process; it is ended by SIGTERM."""
    with socket.create_server((HOST, 0)) as place:
        port = place.getsockname()[1]
    command = [sys.executable, "-m", "qexport", "serve", str(artifact), "--port", str(port)]
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors) as process:
        try:
            while f":{port}" not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}; {log.read_text()}")
                time.sleep(0.1)
            yield port, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def row(name: str, phase: Calm, seconds: float) -> str:
    cells = [name]
    for kind in ("completion", "health"):
        times = sorted(phase.latencies_s[kind])
        cuts = statistics.quantiles(times, n=100)
        cells += [str(len(times)), *(f"{1000 * value:.0f}" for value in (cuts[49], cuts[98], times[-1]))]
    cells += [str(phase.failures), f"{phase.server_cpu_s / seconds:.2f}", f"{phase.rss_bytes / 2**20:.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each phase")
    parser.add_argument("--clients", type=int, default=2, help="honest clients that ask for completions")
    parser.add_argument("--idle", type=int, default=600, help="connections that are open and say nothing")
    parser.add_argument("--artifact", type=Path, help="to serve; default the bundled model, exported anew")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = asked.artifact
        if artifact is None:
            artifact = Path(folder) / "reference"
            export = [sys.executable, "-m", "qexport", "--quiet", "export", str(ROOT / "models" / "reference"), "-o"]
            subprocess.run([*export, str(artifact)], check=True)
        measure(asked, artifact, Path(folder) / "log")


def measure(asked: argparse.Namespace, artifact: Path, log: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with serving(artifact, log) as (port, server):
        with contextlib.closing(HTTPConnection(HOST, port)) as connection:
            connection.request("GET", "/v1/models")
            model = json.load(connection.getresponse())["data"][0]["id"]
        ask(port, model, 2, asked.clients, server)  # warm
        calm = ask(port, model, asked.seconds, asked.clients, server)
        over, counts = context.Event(), context.SimpleQueue()
        attackers = context.Process(target=attack, args=(port, model, asked.idle, over, counts))
        attackers.start()
        time.sleep(2)
        attacked = ask(port, model, asked.seconds, asked.clients, server)
        over.set()
        ends = counts.get()
        attackers.kill()
        attackers.join()
        # The same machine with as much to do that is no attack: a process for each CPU that only counts.
        loads = [context.Process(target=_spin, daemon=True) for _ in range(os.cpu_count() or 1)]
        for each in loads:
            each.start()
        loaded = ask(port, model, asked.seconds, asked.clients, server)
        for each in loads:
            each.kill()
            each.join()
    print(f"{asked.seconds:g} s a phase, {asked.clients} honest clients; {os.cpu_count()} CPUs, {platform.machine()}\n")
    print(
        "| phase | completions | p50 ms | p99 ms | most ms | health | p50 ms | p99 ms | most ms | failed | CPUs used | MiB |"
    )
    print("|" + "---|" * 12)
    for name, phase in {"calm": calm, "attacked": attacked, "CPUs busy, no attack": loaded}.items():
        print(row(name, phase, asked.seconds))
    print("\n| hostile client | got |\n|---|---|")
    for name, got in ends.items():
        print(f"| {name} | {', '.join(f'{count} x {end}' for end, count in got.most_common()) or 'nothing yet'} |")
    lines = log.read_text().splitlines()
    print(f"\nlines of the server's log: {len(lines)}, the one that says where it listens included")


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
