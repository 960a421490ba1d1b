"""ARC-Challenge on GPT-2 124M shapes with random weights: qexport's model in lm-eval against lm-eval's own for ONNX.

All three read the same file, score the same requests and are asked in turn; what is told is the ratio of the seconds, the
median over rounds. lm-eval's onnxruntime-genai backend needs a genai_config.json beside the model, written here.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Figure
from benchmarks.gpt2 import exports
from benchmarks.trained import DATA
from qexport.answering import Here
from qexport.harness.lm import ArtifactLM
from qexport.harness.tasks import load_task
from qexport.inputs.experiment import Tasks
from qexport.runtime import open_session

if TYPE_CHECKING:
    from qexport.artifact import Artifact

QUESTIONS = 128
ROUNDS = 3
TOLERANCE = 1e-4
PEERS = {"onnxruntime": 3.0, "onnxruntime-genai": None}
"""lm-eval's own models, and how much faster qexport's is to be."""


def tasks(work: Path) -> Iterator[Figure]:
    """Speed against each of lm-eval's two ONNX models, and how far the scores lie apart."""
    fp32, _ = exports(work)
    _write_genai_config(fp32)
    requests = _requests()
    ours = ArtifactLM(fp32.path, Here(fp32, open_session(fp32)))
    for name, bound in PEERS.items():
        if name == "onnxruntime-genai" and importlib.util.find_spec("onnxruntime_genai") is None:
            print("onnxruntime-genai: skipped, it is not installed; install qexport[bench]", file=sys.stderr)
            continue
        yield from _against(name, bound, ours, _peer(name, fp32, ours.max_length), requests)


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


def _peer(name: str, artifact: Artifact, max_length: int) -> Any:
    from lm_eval.api.registry import get_model

    return get_model(name)(pretrained=str(artifact.path), max_length=max_length)


def _write_genai_config(artifact: Artifact) -> None:
    """What onnxruntime-genai must be told of a graph with Optimum's names."""
    config = json.loads((artifact.path / "config.json").read_text())
    past = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    present = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    inputs = {name: name for name in ("input_ids", "attention_mask", "position_ids")}
    model = {
        "type": "llama",  # its gpt2 wants keys and values in one tensor
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["eos_token_id"],
        "context_length": config["n_positions"],
        "vocab_size": config["vocab_size"],
        "decoder": {
            "filename": "model.onnx",
            "head_size": config["n_embd"] // config["n_head"],
            "hidden_size": config["n_embd"],
            "num_attention_heads": config["n_head"],
            "num_key_value_heads": config["n_head"],
            "num_hidden_layers": config["n_layer"],
            "session_options": {"provider_options": []},
            "inputs": inputs | past,
            "outputs": {"logits": "logits"} | present,
        },
    }
    search = {"max_length": config["n_positions"], "past_present_share_buffer": False}
    (artifact.path / "genai_config.json").write_text(json.dumps({"model": model, "search": search}, indent=1))
