"""Install the clients that artifacts are deployed to, each apart from qexport and from each other: `make test-deploy`.

``NAME.txt`` beside this file is a pip requirements file, which gets a virtual environment; ``NAME/package.json`` with its lock
is a Node project. A client that cannot be installed is noted with the reason and told, and its tests are skipped with it.

    python tests/deploy/clients/install.py            all of them
    python tests/deploy/clients/install.py genai      one
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CLIENTS = Path(os.environ.get("QEXPORT_CLIENTS") or CACHE / "qexport-tests" / "clients")
NOTE = "client.json"
"""Beside what was installed: the digest of what was asked, and the reason where it failed."""


def main(names: list[str], *, here: Path = HERE, clients: Path = CLIENTS) -> None:
    known = {path.stem for path in here.glob("*.txt")} | {path.parent.name for path in here.glob("*/package.json")}
    if unknown := sorted(set(names) - known):
        sys.exit(f"no such client: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    asked = names or sorted(known)
    with ThreadPoolExecutor(2) as pool:
        reasons = pool.map(lambda name: install(name, here=here, clients=clients), asked)
    for name, reason in zip(asked, reasons, strict=True):
        print(f"{name}: {f'could not be installed: {reason}' if reason else 'installed'}", flush=True)


def install(name: str, *, here: Path = HERE, clients: Path = CLIENTS) -> str:
    """Install one client unless it is there as asked; the reason where that fails, or nothing.

    Args:
        name: the client.
        here: the folder that says what is asked.
        clients: the folder to install into.
    """
    python_file, node = here / f"{name}.txt", here / name
    sources = [python_file] if python_file.is_file() else [node / "package.json", node / "package-lock.json"]
    asked = hashlib.sha256(b"".join([sys.version.encode(), *(path.read_bytes() for path in sources)])).hexdigest()
    folder = clients / name
    clients.mkdir(parents=True, exist_ok=True)
    with FileLock(clients / f"{name}.lock"):  # several checkouts may share the folder
        return _install(sources, folder, asked)


def _install(sources: list[Path], folder: Path, asked: str) -> str:
    note = folder / NOTE
    if note.is_file() and json.loads(note.read_text()) == {"asked": asked, "reason": ""}:
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if sources[0].suffix == ".txt":
            venv.create(folder)
            # A client imports a small part of what it depends on, so bytecode of all of it would take half of the time.
            pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
            _run([*pip, "install", "-q", "--no-compile", "-r", sources[0]], folder)
        else:
            for source in sources:
                shutil.copy(source, folder)
            # Scripts would fetch CUDA libraries for onnxruntime-node; the CPU's are in the package.
            _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        reason = ""
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        reason = next((line for line in reversed(said) if "error" in line.lower()), said[-1])
    note.write_text(json.dumps({"asked": asked, "reason": reason}))
    return reason


def _run(command: list[str | Path], folder: Path) -> None:
    subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)


if __name__ == "__main__":
    main(sys.argv[1:])
