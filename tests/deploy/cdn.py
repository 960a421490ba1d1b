"""A page on localhost in headless Chromium; what it asks of the CDN comes from the npm packages of the same versions."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_ASKED = re.compile(
    r"https://cdn\.jsdelivr\.net/npm/(?P<package>(?:@[^/]+/)?[^/@]+)@(?P<version>[^/]+)/(?P<path>[^?]+)"
)
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Nothing: the page says what is wrong."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on localhost, served as `python -m http.server` does."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def opened(folder: Path, node: Path) -> Iterator[object]:
    """The page of a folder; ``node`` is the Node project that holds the packages."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    with served(folder) as address, sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.route("https://cdn.jsdelivr.net/**", lambda route: _answer(route, node / "node_modules"))
        page.goto(address)
        yield page
        browser.close()


def _answer(route: object, packages: Path) -> None:
    asked = _ASKED.fullmatch(route.request.url)
    assert asked is not None, route.request.url
    package = packages / asked["package"]
    assert json.loads((package / "package.json").read_text())["version"] == asked["version"], (
        "another version than asked"
    )
    path = package / asked["path"]
    route.fulfill(path=path, content_type=_TYPES[path.suffix], headers={"access-control-allow-origin": "*"})
