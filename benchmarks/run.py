"""The figures qexport promises, measured against the peer in one run: quality on stories260K, cost on GPT-2's shapes.

    python benchmarks/run.py            # all; about ten minutes on two cores
    python benchmarks/run.py quality    # perplexity ratios of INT8 with both engines
    python benchmarks/run.py gpt2       # size, speed, time and memory on GPT-2 124M shapes (random weights)

Timings are interleaved (A B A B) and given as the median of the ratios pair by pair. The table goes to stdout and to
docs/results/benchmarks.md with the machine it was measured on.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from qexport import cpu, pipeline, runtime
from qexport.artifact import Artifact, load_artifact
from qexport.inputs.models import load_tokenizer, load_torch_model, locate_model
from qexport.inputs.text import Text, make_windows
from qexport.metrics.perplexity import sequence_nll
from qexport.selection import parse_selector

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("QEXPORT_DATA", ROOT.parent / "shared" / "data"))
RESULT = ROOT / "docs" / "results" / "benchmarks.md"
SENTENCE_TOKENS = 32
PAIRS = 40
HELP_RUNS = 11
_METER = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
sys.exit(status != 0)
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One promise and what was measured."""

    what: str
    measured: float
    bound: float
    at_least: bool = False
    unit: str = ""

    @property
    def kept(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def row(self) -> str:
        sign = "at least" if self.at_least else "at most"
        verdict = "yes" if self.kept else "**no**"
        return f"| {self.what} | {self.measured:.5g}{self.unit} | {sign} {self.bound:g}{self.unit} | {verdict} |"


def quality(work: Path) -> Iterator[Figure]:
    """Perplexity of stories260K: ONNX against torch, and INT8 against fp32 on stories calibration never saw."""
    import torch

    folder = DATA / "models" / "stories260K"
    stories = json.loads((DATA / "text" / "tinystories_500.json").read_text())
    calibration = Text("tinystories_500.json, first 64", tuple(stories[:64]))
    source = locate_model(folder)
    evaluation = Text("tinystories_500.json, last 100", tuple(stories[400:]))
    windows = make_windows(evaluation, load_tokenizer(source), window=source.context_length, limit=None).sequences
    scored = sum(len(window) - 1 for window in windows)

    def perplexity(logits: Callable[[np.ndarray], np.ndarray]) -> float:
        return math.exp(sum(sequence_nll(logits(window), window) for window in windows) / scored)

    def of_artifact(artifact: Artifact) -> float:
        session = runtime.open_session(artifact, observe="kernels")
        return perplexity(lambda window: session.logits(window[None])[0])

    model = load_torch_model(source)

    def torch_logits(window: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(window[None])).logits[0].numpy()

    fp32 = pipeline.export(str(folder), work / "fp32")
    base = of_artifact(fp32)
    yield Figure(
        what="stories260K fp32, ONNX against torch: relative difference of perplexity",
        measured=abs(base / perplexity(torch_logits) - 1),
        bound=1e-5,
    )
    bounds = {("int8-dynamic", "all"): 1.009, ("int8-static", "all"): 1.02}
    for engine in ("inc", "ort"):
        for recipe in ("int8-dynamic", "int8-static"):
            for nodes in ("all", "attention"):
                artifact = pipeline.quantize(
                    str(fp32.path),
                    work / f"{recipe}-{nodes}-{engine}",
                    recipe_name=recipe,
                    selector=parse_selector(nodes),
                    int8=pipeline.Int8Options(engine=engine),
                    text=calibration if recipe == "int8-static" else None,
                )
                yield Figure(
                    what=f"stories260K {recipe} {nodes}, engine {engine}: perplexity ratio to fp32",
                    measured=of_artifact(artifact) / base,
                    bound=bounds.get((recipe, nodes), 1.004),
                )


def gpt2(work: Path) -> Iterator[Figure]:
    """Size, speed, and what quantizing takes, on GPT-2 124M shapes with random weights."""
    import torch
    from optimum.exporters.onnx import main_export
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    folder = work / "gpt2"
    GPT2LMHeadModel(GPT2Config()).eval().save_pretrained(folder)
    for file in (DATA / "tokenizers" / "gpt2").iterdir():
        shutil.copyfile(file, folder / file.name)
    tokenizer = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    main_export(str(folder), str(work / "optimum"), task="text-generation-with-past", do_validation=False)
    fp32 = pipeline.export(str(folder), work / "gpt2-fp32")
    optimum = runtime.OrtSession(work / "optimum" / "model.onnx")
    yield Figure(
        what="GPT-2 fp32, fused: speed of a 32-token sentence against Optimum's export",
        measured=_speed(optimum, runtime.OrtSession(fp32.onnx_path)),
        bound=1.0,
        at_least=True,
        unit="x",
    )
    for engine in ("ort", "inc"):
        artifact, seconds, peak = _quantize_alone(fp32, work / f"gpt2-{engine}", engine)
        if engine == "ort":
            what = "GPT-2 int8-dynamic all, engine ort, from the fp32 artifact"
            yield Figure(what=f"{what}: processor time", measured=seconds, bound=15, unit=" s")
            yield Figure(what=f"{what}: peak memory", measured=peak / 1e9, bound=2, unit=" GB")
        what = f"GPT-2 int8-dynamic all, engine {engine}"
        yield Figure(what=f"{what}: size of the artifact", measured=artifact.disk_bytes / 1e6, bound=131, unit=" MB")
        yield Figure(
            what=f"{what}: speed of a 32-token sentence against Optimum's fp32 export",
            measured=_speed(optimum, runtime.OrtSession(artifact.onnx_path)),
            bound=1.9,
            at_least=True,
            unit="x",
        )
    yield Figure(what="qexport --help: median wall time", measured=_help_seconds(), bound=0.3, unit=" s")


def _speed(slow: runtime.OrtSession, fast: runtime.OrtSession) -> float:
    ids = np.random.default_rng(0).integers(0, 50257, (1, SENTENCE_TOKENS))
    ratios = []
    for pair in range(-5, PAIRS):
        times = []
        for session in (slow, fast):
            session.logits(ids)  # each starts from its own weights in the caches, not from the other's
            start = time.perf_counter()
            session.logits(ids)
            times.append(time.perf_counter() - start)
        if pair >= 0:
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def _quantize_alone(fp32: Artifact, folder: Path, engine: str) -> tuple[Artifact, float, int]:
    """Artifact, processor seconds and peak resident bytes of `qexport quantize` in a process of its own."""
    command = [sys.executable, "-m", "qexport", "quantize", str(fp32.path), "-o", str(folder)]
    # Through a small process: Linux counts the peak of whoever starts a process as the peak of the process.
    command = [sys.executable, "-c", _METER, *command, "--recipe", "int8-dynamic", "--engine", engine]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = json.loads(answer)
    return load_artifact(folder), seconds, peak * (1 if sys.platform == "darwin" else 1024)


def _help_seconds() -> float:
    times = []
    for _ in range(HELP_RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "qexport", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _report(figures: list[Figure]) -> str:
    packages = ("torch", "transformers", "onnx", "onnxruntime", "optimum-onnx", "neural-compressor", "numpy")
    lines = [
        "# Benchmarks",
        "",
        f"`python benchmarks/run.py` on {cpu.cpu_name()} ({', '.join(cpu.isa())}), {cpu.cores()} cores, "
        f"{platform.system()}, Python {platform.python_version()}; "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + ".",
        "",
        "| figure | measured | bound | kept |",
        "|---|---|---|---|",
        *(figure.row() for figure in figures),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parts = {"quality": quality, "gpt2": gpt2}
    chosen = sys.argv[1:] or list(parts)
    figures = []
    with tempfile.TemporaryDirectory(prefix="qexport-bench-") as name:
        os.environ["QEXPORT_CACHE"] = f"{name}/cache"
        for part in chosen:
            for figure in parts[part](Path(name)):
                print(figure.row(), flush=True)
                figures.append(figure)
    if chosen == list(parts):
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(_report(figures))
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    sys.exit(0 if all(figure.kept for figure in figures) else 1)


if __name__ == "__main__":
    main()
