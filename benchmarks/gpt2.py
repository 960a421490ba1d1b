"""Size, speed, and what quantizing takes, on GPT-2 124M shapes with random weights.

Timings are interleaved (A B A B) and given as the median of the ratios pair by pair.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.trained import DATA
from qexport import exporting
from qexport.core.artifact import ONNX_DATA_NAME, ONNX_NAME, Artifact, load_artifact
from qexport.inputs.text import TokenSet
from qexport.measurement.job import Job
from qexport.measurement.probing import measure
from qexport.runtime import onnx_session

SENTENCE_TOKENS = 32
PAST_TOKENS = 64
WARM_UPS = 5
PAIRS = 40
HELP_RUNS = 11
INT8 = "GPT-2 int8-dynamic all without smoothing, engine"
W8 = "GPT-2 w8a16-rtn all"
W4 = "GPT-2 w4a16-rtn all, blocks of 64"
_METER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
sys.exit(status != 0)
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """An artifact that ``qexport quantize`` made in a process of its own, and what that took."""

    artifact: Artifact
    wall_s: float
    processor_s: float
    peak_bytes: int

    @property
    def model_bytes(self) -> int:
        """Bytes of the graph and its weights, without tokenizer, configuration and manifest."""
        files = (self.artifact.path / name for name in (ONNX_NAME, ONNX_DATA_NAME))
        return sum(file.stat().st_size for file in files if file.exists())


def gpt2(work: Path) -> Iterator[Figure]:
    """All figures of this page, recipe by recipe."""
    fp32, optimum = exports(work)
    fused = onnx_session.OrtSession(fp32.onnx_path)
    yield _sentence_speed("GPT-2 fp32, fused", optimum, fused, bound=1.0)
    yield _decode_speed("GPT-2 fp32, fused", optimum, fused)
    del fused
    yield from _int8(work, fp32, optimum)
    yield from _weight_only(work, fp32, optimum, W8, ["--recipe", "w8a16-rtn"], megabytes=134)
    yield from _weight_only(work, fp32, optimum, W4, ["--recipe", "w4a16-rtn", "--block-size", "64"], megabytes=75)
    yield Figure(what="qexport --help: median wall time", measured=_help_seconds(), bound=0.3, unit=" s")


def exports(work: Path) -> tuple[Artifact, onnx_session.OrtSession]:
    """The model as an fp32 artifact, and as Optimum exports it."""
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
    fp32 = exporting.export(str(folder), work / "gpt2-fp32")
    return fp32, onnx_session.OrtSession(work / "optimum" / "model.onnx")


def _int8(work: Path, fp32: Artifact, optimum: onnx_session.OrtSession) -> Iterator[Figure]:
    for engine in ("ort", "inc"):
        what = f"{INT8} {engine}"
        made = _quantize(
            fp32,
            work / engine,
            ["--recipe", "int8-dynamic", "--no-smooth", "--no-outlier-channels", "--engine", engine],
        )
        if engine == "ort":
            yield Figure(what=f"{what}: processor time of the command", measured=made.processor_s, bound=15, unit=" s")
            yield Figure(what=f"{what}: peak memory of it", measured=made.peak_bytes / 1e9, bound=2, unit=" GB")
            yield _loaded(what, made)
        yield from _sizes(what, made, megabytes=128)
        session = onnx_session.OrtSession(made.artifact.onnx_path)
        yield _sentence_speed(what, optimum, session, bound=1.9)
        yield _decode_speed(what, optimum, session)


def _weight_only(
    work: Path, fp32: Artifact, optimum: onnx_session.OrtSession, what: str, options: list[str], *, megabytes: float
) -> Iterator[Figure]:
    made = _quantize(fp32, work / options[1], [*options, "--compute", "float"])
    yield Figure(what=f"{what}: wall time of the command", measured=made.wall_s, bound=10, unit=" s")
    yield Figure(what=f"{what}: peak memory of it", measured=made.peak_bytes / 1e9, bound=1.5, unit=" GB")
    yield from _sizes(what, made, megabytes=megabytes)
    in_integers = _quantize(fp32, work / f"{options[1]}-int8", [*options, "--compute", "int8"])
    yield _loaded(f"{what}, compute int8", in_integers)
    for compute, artifact in (("int8", in_integers.artifact), ("float", made.artifact)):
        session = onnx_session.OrtSession(artifact.onnx_path)
        yield _sentence_speed(f"{what}, compute {compute}", optimum, session)
        yield _decode_speed(f"{what}, compute {compute}", optimum, session)


def _quantize(fp32: Artifact, folder: Path, options: list[str]) -> Made:
    command = [sys.executable, "-m", "qexport", "quantize", str(fp32.path), "-o", str(folder), *options]
    # Through a small process: Linux counts the peak of whoever starts a process as the peak of the process.
    metered = [sys.executable, "-c", _METER, *command]
    wall, processor, peak = json.loads(subprocess.run(metered, check=True, capture_output=True, text=True).stdout)
    return Made(
        artifact=load_artifact(folder),
        wall_s=wall,
        processor_s=processor,
        peak_bytes=peak * (1 if sys.platform == "darwin" else 1024),
    )


def _sizes(what: str, made: Made, *, megabytes: float) -> Iterator[Figure]:
    yield Figure(
        what=f"{what}: size of the model's files", measured=made.model_bytes / 1e6, bound=megabytes, unit=" MB"
    )
    size = made.artifact.disk_bytes / 1e6
    yield Figure(what=f"{what}: size of the artifact", measured=size, bound=megabytes, unit=" MB")


def _loaded(what: str, made: Made) -> Figure:
    """Resident memory that loading adds to a fresh process, against the size of the model's files."""
    sentence = TokenSet(
        kind="sentences", origin="random", description="one sentence", sequences=(_tokens(SENTENCE_TOKENS)[0],)
    )
    records = measure(Job(artifact=made.artifact.path, row=what, probe="resident memory", tokens=sentence))
    loaded = next(record for record in records if record.metric == "loaded_rss_bytes")
    return Figure(
        what=f"{what}: resident memory after load against the model's files",
        measured=loaded.samples[0][0] / made.model_bytes,
        bound=1.25,
        unit="x",
    )


def _sentence_speed(
    what: str, slow: onnx_session.OrtSession, fast: onnx_session.OrtSession, *, bound: float | None = None
) -> Figure:
    ids = _tokens(SENTENCE_TOKENS)
    return Figure(
        what=f"{what}: speed of a {SENTENCE_TOKENS}-token sentence against Optimum's fp32 export",
        measured=_speed(lambda: slow.logits(ids), lambda: fast.logits(ids)),
        bound=bound,
        at_least=True,
        unit="x",
    )


def _decode_speed(what: str, slow: onnx_session.OrtSession, fast: onnx_session.OrtSession) -> Figure:
    return Figure(
        what=f"{what}: speed of a decode step with {PAST_TOKENS} past tokens against Optimum's fp32 export",
        measured=_speed(_decode_step(slow), _decode_step(fast)),
        unit="x",
    )


def _decode_step(session: onnx_session.OrtSession) -> Callable[[], object]:
    """One token after :data:`PAST_TOKENS` others, with the keys and values of the next step as outputs."""
    past = onnx_session.present_to_past(
        session.run(onnx_session.decoder_feeds(session.inputs, _tokens(PAST_TOKENS), None))
    )
    feeds = onnx_session.decoder_feeds(session.inputs, _tokens(1), past)
    return lambda: session.run(feeds)


def _tokens(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50257, (1, count))


def _speed(slow: Callable[[], object], fast: Callable[[], object]) -> float:
    ratios = []
    for pair in range(-WARM_UPS, PAIRS):
        times = []
        for run in (slow, fast):
            run()  # each starts from its own weights in the caches, not from the other's
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        if pair >= 0:
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def _help_seconds() -> float:
    times = []
    for _ in range(HELP_RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "qexport", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
