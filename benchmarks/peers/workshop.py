"""Makes the models of the rows, each by a command in a process of its own, so that a crash costs one row."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.rows import QEXPORT_ENVIRONMENT, SOURCES, Row
from benchmarks.trained import ROOT
from tests.deploy.clients.install import CACHE

CLIENTS = CACHE / "qexport-bench"
INSTALL = "python -m benchmarks.peers.clients.install"
_LONGEST_S = 900
_LONGEST_REASON = 320
_MODEL_FILES = re.compile(r".*\.(onnx|data|gguf|safetensors)")


class Skipped(Exception):
    """A row cannot be measured here; the message is the reason."""


def interpreter(environment: str) -> str:
    """The interpreter of an environment.

    Raises:
        Skipped: the environment is not installed.
    """
    if environment == QEXPORT_ENVIRONMENT:
        return sys.executable
    found = CLIENTS / environment / "bin" / "python"
    if not found.is_file():
        raise Skipped(f"the client {environment} is not installed; run `{INSTALL}`")
    return str(found)


def model_bytes(folder: Path) -> int:
    """Bytes of the graph and its weights, without tokenizer and configuration. A GGUF file holds its tokenizer."""
    return sum(file.stat().st_size for file in folder.iterdir() if _MODEL_FILES.fullmatch(file.name))


def reason_of(log: Path, code: int) -> str:
    """The line of a log that names the error of a process."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b|error\b", line)]
    line = re.sub(r"/[\w./-]+/", "", (errors or lines or ["no message"])[-1])  # folders differ from run to run
    return f"{line[:_LONGEST_REASON]} (exit code {code})"


class Workshop:
    """A folder with a model for each row, and what the rows start from, made once."""

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        """Begin without models.

        Args:
            folder: the folder to fill.
            files: the files that commands name in braces.
        """
        self._folder = folder
        self._files = dict(files)
        self._failed: dict[str, str] = {}

    def make(self, row: Row) -> tuple[Path, float]:
        """The folder of a row's model, and the seconds of its command.

        Raises:
            Skipped: the model cannot be made here; the message has the reason.
        """
        out = self._folder / re.sub(r"\W+", "-", row.label)
        seconds = 0.0
        if row.make:
            command = [interpreter(row.made_in), *(self._filled(word, out) for word in row.make)]
            seconds = self._run(command, out)
        return Path(self._filled(row.folder, out)), seconds

    def _filled(self, word: str, out: Path) -> str:
        names = [name for name in re.findall(r"(?<!{){(\w+)}(?!})", word) if name != "out"]
        return word.format(out=out, **{name: self._source(name) for name in names})

    def _source(self, name: str) -> Path:
        if name in self._failed:
            raise Skipped(self._failed[name])
        if name not in self._files:
            out = self._folder / f"source-{name}"
            try:
                for command in SOURCES[name]:
                    self._run([sys.executable, *(self._filled(word, out) for word in command)], out)
            except Skipped as error:
                self._failed[name] = f"{name}: {error}"
                raise Skipped(self._failed[name]) from error
            self._files[name] = out
        return self._files[name]

    def _run(self, command: list[str], out: Path) -> float:
        if "qexport" not in command:  # qexport makes the folder itself
            out.mkdir(parents=True, exist_ok=True)
        log = out.with_suffix(".log")
        start = time.perf_counter()
        with log.open("w") as handle:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env=environment(), stdout=handle, stderr=handle, timeout=_LONGEST_S, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise Skipped(f"making it took more than {_LONGEST_S} s") from error
        if done.returncode:
            raise Skipped(reason_of(log, done.returncode))
        return time.perf_counter() - start


def environment() -> dict[str, str]:
    """The environment of all processes: benchmarks can be imported, and numeric libraries start no more threads than asked."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
