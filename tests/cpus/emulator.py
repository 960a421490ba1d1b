"""Emulated CPUs: one process each in which artifacts are measured as in a child of qexport, by other kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexport.measurement import probing

ROOT = Path(__file__).resolve().parents[2]
QEMU = "qemu-x86_64"


@dataclass(frozen=True)
class Cpu:
    """A processor that QEMU emulates without its host's instructions."""

    model: str
    """As ``qemu-x86_64 -cpu`` names it."""
    blas: str
    """OpenBLAS's name of kernels that it can run: OpenBLAS reads the host's flags."""
    title: str
    fma: bool


CPUS: Mapping[str, Cpu] = {
    "haswell": Cpu(model="Haswell", blas="Haswell", title="AVX2 without VNNI", fma=True),
    "nehalem": Cpu(model="Nehalem", blas="Nehalem", title="SSE 4.2", fma=False),
}


def missing() -> str:
    """The reason why nothing can be emulated here; empty where it can."""
    return "" if shutil.which(QEMU) else f"{QEMU} is not installed; on Debian `apt-get install qemu-user` brings it"


class Emulated:
    """A process on an emulated CPU that answers questions about artifacts, one after the other."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self._known: dict[tuple[str, ...], Any] = {}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the process
        self._process = subprocess.Popen(
            [QEMU, "-cpu", cpu.model, sys.executable, "-m", "tests.cpus.answer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OPENBLAS_CORETYPE": cpu.blas, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    def ask(self, job: probing.Job, artifact: Any, tokens: Any) -> Any:
        """The answer of one job, in place of ``measure._ask_child``; one that was given before is remembered."""
        key = (artifact.sha256, artifact.manifest.model_dump_json(), job.probe, tokens.sha256)
        if key not in self._known:
            self._known[key] = self._asked(job, artifact, tokens)
        return self._known[key]

    def _asked(self, job: probing.Job, artifact: Any, tokens: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory(prefix="qexport-emulated-") as name:
            question = probing.question_of(job, artifact, tokens, Path(name)).model_copy(update={"threads": 1})
            self._process.stdin.write(question.model_dump_json() + "\n")
            self._process.stdin.flush()
            while (line := self._process.stdout.readline()) != "answered\n":
                assert line, f"the emulated process ended: {self._words()}"
            return probing.read_answer(question.answer.read_text())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return "\n".join([line for line in lines if "TCG doesn't support" not in line][-20:])
