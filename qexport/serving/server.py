"""Load an artifact, check that it runs as its manifest says, and serve it until a signal arrives."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import InputError, UnsupportedHere, load_verified, require_named
from qexport.deployment import require_onnx
from qexport.runtime import open_session
from qexport.serving.chat import load_template
from qexport.serving.tokens import Tokens
from qexport.serving.worker import Worker
from qexport.serving.writing import Writer, read_limits

if TYPE_CHECKING:
    import uvicorn

    from qexport.core import Provider
    from qexport.serving.app import Served

_LIBRARIES = ("jinja2", "starlette", "tokenizers", "uvicorn")
_READ = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_GRACE_S = 8
"""Seconds for running requests after the signal; `docker stop` kills after ten."""


def serve(
    path: Path,
    *,
    host: str,
    port: int,
    provider: Provider,
    threads: int | None,
    ready: Callable[[Served, str], None],
) -> None:
    """Serve an artifact. Returns after SIGINT or SIGTERM, when the running requests have ended.

    Args:
        path: the artifact's folder, whose files are hashed again.
        host: the address to listen on.
        port: the port; 0 takes any free one.
        provider: the execution provider that must run the artifact.
        threads: threads for the runtime; None takes every processor that this process may use.
        ready: called with the served artifact and the URL, after the first token, when the server listens.

    Raises:
        InputError: the folder has no artifact, or one that lacks a file for serving.
        ContractError: a file was altered or added, or other kernels run than the manifest names.
        UnsupportedHere: a library is missing, the artifact needs PyTorch, or the address cannot be used.
        ProviderUnavailable: the provider is missing.
    """
    _require_libraries()
    import uvicorn

    listening = _listen(host, port)
    try:
        served = load(path, provider=provider, threads=threads)
        config = configure(served)
        bound, actual = listening.getsockname()[:2]
        ready(served, f"http://{f'[{bound}]' if ':' in bound else bound}:{actual}")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # the signal that ended the server, raised again after the last request
        finally:
            served.worker.close()
    finally:
        listening.close()


def configure(served: Served) -> uvicorn.Config:
    """The settings of uvicorn."""
    import uvicorn

    from qexport.serving.app import build_app
    from qexport.serving.connection import Connection, is_news

    logging.getLogger("uvicorn.error").addFilter(is_news)
    return uvicorn.Config(
        build_app(served),
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
    )


def load(path: Path, *, provider: Provider, threads: int | None) -> Served:
    """An artifact that was checked and has generated a token; see :func:`serve` for the errors."""
    _require_libraries()
    from qexport.serving.app import Served

    artifact = load_verified(path)
    require_onnx(artifact, "to serve")
    require_named(artifact, _READ)  # an added file could change the answers
    tokens = Tokens(path)
    template = load_template(path, tokens)
    limits = read_limits(artifact, tokens.end)
    # A session that was profiled goes on collecting statistics of its threads after the profile ended: 2 kB an answer with
    # onnxruntime 1.31.1. So one session shows the kernels, and another one answers.
    ran = open_session(artifact, provider=provider, threads=threads, observe="kernels").facts()
    session = open_session(artifact, provider=provider, threads=threads)
    worker = Worker(Writer(artifact, session, limits))
    worker.first_token()
    return Served(
        artifact=artifact, session=session, ran=ran, tokens=tokens, template=template, limits=limits, worker=worker
    )


def _require_libraries() -> None:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedHere(f"qexport serve: {', '.join(missing)} not installed; pip install 'qexport[serve]'")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from error
