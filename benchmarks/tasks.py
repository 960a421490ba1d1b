"""ARC-Challenge on GPT-2 124M shapes with random weights: qexport's model in lm-eval against lm-eval's own for ONNX.

All three read the same file, score the same requests and are asked in turn; what is told is the ratio of the seconds, the
median over rounds. lm-eval's own models read what `qexport deploy --to genai` made.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.gpt2 import exports
from benchmarks.trained import DATA
from qexport.deployment.pipeline import deploy
from qexport.inputs.experiment import Tasks
from qexport.measurement.answers import Here
from qexport.measurement.tasks.lm import ArtifactLM
from qexport.measurement.tasks.load import load_task
from qexport.runtime.opening import open_session

QUESTIONS = 128
ROUNDS = 3
TOLERANCE = 1e-4
PEERS = {"onnxruntime": 3.0, "onnxruntime-genai": None}
"""lm-eval's own models, and how much faster qexport's is to be."""


def tasks(work: Path) -> Iterator[Figure]:
    """Speed against each of lm-eval's two ONNX models, and how far the scores lie apart."""
    fp32, _ = exports(work)
    deploy([fp32.path], "genai", work / "genai", overwrite=True)
    requests = _requests()
    ours = ArtifactLM(fp32.path, Here(fp32, open_session(fp32)))
    for name, bound in PEERS.items():
        if name == "onnxruntime-genai" and importlib.util.find_spec("onnxruntime_genai") is None:
            print("onnxruntime-genai: skipped, it is not installed; install qexport[bench]", file=sys.stderr)
            continue
        yield from _against(name, bound, ours, _peer(name, work / "genai", ours.max_length), requests)


def _against(name: str, bound: float | None, ours: Any, theirs: Any, requests: list[Any]) -> Iterator[Figure]:
    ratios, scores = [], {}
    for turn in range(-1, ROUNDS):
        asked = requests[:8] if turn < 0 else requests
        times = []
        for who, model in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            scores[who] = model.loglikelihood(asked, disable_tqdm=True)
            times.append(time.perf_counter() - start)
        if turn >= 0:
            ratios.append(times[0] / times[1])
    what = f"GPT-2 fp32, fused, ARC-Challenge ({QUESTIONS} questions), qexport in lm-eval against lm-eval's {name}"
    yield Figure(what=f"{what}: speed", measured=statistics.median(ratios), bound=bound, at_least=True, unit="x")
    pairs = zip(scores["ours"], scores["theirs"], strict=True)
    apart = max(abs(own - other) for (own, _), (other, _) in pairs)
    yield Figure(what=f"{what}: largest difference of a log-likelihood", measured=apart, bound=TOLERANCE)


def _requests() -> list[Any]:
    task = load_task("arc_challenge", Tasks(data=DATA / "tasks", limit=QUESTIONS)).parts["arc_challenge"]
    task.build_all_requests(limit=QUESTIONS)
    return list(task.instances)


def _peer(name: str, folder: Path, max_length: int) -> Any:
    from lm_eval.api.registry import get_model

    return get_model(name)(pretrained=str(folder), max_length=max_length)
