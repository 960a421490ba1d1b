"""The generation loop on GPT-2 124M shapes with random weights: what it adds to the session's own run, and to peers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gpt2 import exports
from qexport.runtime import onnx_session
from qexport.runtime.decoding import generate, padded

PROMPT_TOKENS = 32
NEW_TOKENS = 33
ROUNDS = 9


def generation(work: Path) -> Iterator[Figure]:
    """Overhead of a step, and speed against Optimum's ``generate``, round by round in turn."""
    fp32, _ = exports(work)
    yield from _overhead(fp32.onnx_path)
    yield from _against_optimum(fp32.onnx_path, work / "optimum")


def _overhead(path: Path) -> Iterator[Figure]:
    """Steps of the loop against the same runs of the session with everything bound and nothing in between."""
    session = onnx_session.OrtSession(path, cache="shared")
    decoder = session.decoder(batch=1, capacity=PROMPT_TOKENS + NEW_TOKENS)
    ratios = []
    for turn in range(-1, ROUNDS):
        decoder.begin(*_prompt())
        token = np.zeros(1, np.int64)
        loop_s = run_s = 0.0
        for _ in range(NEW_TOKENS - 1):
            start = time.perf_counter()
            token = decoder.step(token)
            loop_s += time.perf_counter() - start
            start = time.perf_counter()
            session._session.run_with_iobinding(decoder._binding)  # the same step again: it writes the same cache
            run_s += time.perf_counter() - start
        if turn >= 0:
            ratios.append(loop_s / run_s)
    yield Figure(
        what="GPT-2 fp32, fused: a step of the generation loop against the session's own run",
        measured=statistics.median(ratios),
        bound=1.05,
        unit="x",
    )


def _against_optimum(path: Path, folder: Path) -> Iterator[Figure]:
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    model = ORTModelForCausalLM.from_pretrained(folder)
    decoder = onnx_session.OrtSession(path, cache="shared").decoder(batch=1, capacity=PROMPT_TOKENS + NEW_TOKENS)
    ids, mask = _prompt()
    asked = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    settings = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    ratios, same = [], True
    for turn in range(-1, ROUNDS):
        start = time.perf_counter()
        theirs = model.generate(**asked, **settings)[0, PROMPT_TOKENS:].tolist()
        theirs_s = time.perf_counter() - start
        ours = generate(decoder, ids, mask, new_tokens=NEW_TOKENS)
        same &= ours.tokens[0].tolist() == theirs
        if turn >= 0:
            ratios.append(theirs_s / ours.total_s)
    yield Figure(
        what=f"GPT-2 fp32, fused: speed of {NEW_TOKENS} new tokens against Optimum's generate on its export",
        measured=statistics.median(ratios),
        bound=1.0,
        at_least=True,
        unit="x",
    )
    yield Figure(
        what="GPT-2 fp32, fused: the same tokens as Optimum's generate (1 is yes)",
        measured=float(same),
        bound=1.0,
        at_least=True,
    )


def _prompt() -> tuple[np.ndarray, np.ndarray]:
    return padded([np.random.default_rng(0).integers(0, 50257, PROMPT_TOKENS)], "left")
