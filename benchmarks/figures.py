"""A promise beside what was measured, and the table of them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from qexport.core import cpu

PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "optimum-onnx",
    "neural-compressor",
    "bitsandbytes",
    "numpy",
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, and the promise that it is held against."""

    what: str
    measured: float
    bound: float | None = None
    """None: nothing is promised, the figure is there to be read."""
    at_least: bool = False
    unit: str = ""

    @property
    def kept(self) -> bool:
        if self.bound is None:
            return True
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def row(self) -> str:
        bound, verdict = "-", "-"
        if self.bound is not None:
            bound = f"{'at least' if self.at_least else 'at most'} {self.bound:g}{self.unit}"
            verdict = "yes" if self.kept else "**no**"
        return f"| {self.what} | {self.measured:.5g}{self.unit} | {bound} | {verdict} |"


def report(figures: Sequence[Figure]) -> str:
    """The page of a whole run, in Markdown, with the machine and the versions it was measured with."""
    lines = [
        "# Benchmarks",
        "",
        f"`python benchmarks/run.py` on {cpu.cpu_name()} ({', '.join(cpu.isa())}), {cpu.cores()} cores, "
        f"{platform.system()}, Python {platform.python_version()}; "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + ".",
        "",
        "| figure | measured | bound | kept |",
        "|---|---|---|---|",
        *(figure.row() for figure in figures),
    ]
    return "\n".join(lines) + "\n"
