"""Load an artifact, make sure that it runs as its manifest says, and serve it until a signal ends it."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.artifact import require_named
from qexport.errors import InputError, UnsupportedHere
from qexport.own_data import load_verified
from qexport.runtime import open_session
from qexport.serving.chat import load_template
from qexport.serving.tokens import Tokens
from qexport.serving.worker import Worker
from qexport.serving.writing import Writer, read_limits
from qexport.twins import require_onnx

if TYPE_CHECKING:
    import uvicorn

    from qexport.runtime import Provider
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
"""For requests under way once the server is to end; `docker stop` kills after ten."""


def serve(
    path: Path,
    *,
    host: str,
    port: int,
    provider: Provider,
    threads: int | None,
    ready: Callable[[Served, str], None],
) -> None:
    """Serve an artifact; returns once SIGINT or SIGTERM has ended it, and the requests under way with it.

    Args:
        path: the artifact's folder, whose files are hashed again.
        host: address to listen on.
        port: 0 takes any that is free.
        provider: the execution provider that must run it.
        threads: for the runtime; None takes every processor this process may use.
        ready: told what is served and its URL, once it has generated a token and listens.

    Raises:
        InputError: no artifact, or one without what a server needs.
        ContractError: a file was altered or added, or other kernels run than the manifest names.
        UnsupportedHere: a library is missing, the artifact needs PyTorch, or the address cannot be had.
        ProviderUnavailable: the provider is not there.
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
            pass  # the signal that ended it, raised again behind its last request
        finally:
            served.worker.close()
    finally:
        listening.close()


def configure(served: Served) -> uvicorn.Config:
    """Settings of uvicorn for what is served."""
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
    """An artifact that has been checked and has generated a token; see :func:`serve` for the errors."""
    _require_libraries()
    from qexport.serving.app import Served

    artifact = load_verified(path)
    require_onnx(artifact, "to serve")
    require_named(artifact, _READ)  # a file laid beside would decide what is answered
    tokens = Tokens(path)
    template = load_template(path, tokens)
    limits = read_limits(artifact, tokens.end)
    session = open_session(artifact, provider=provider, threads=threads, observe="kernels")
    worker = Worker(Writer(artifact, session, limits))
    worker.first_token()
    return Served(artifact=artifact, session=session, tokens=tokens, template=template, limits=limits, worker=worker)


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
