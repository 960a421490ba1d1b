"""Made-up records of a whole compare run, in realistic sizes: the figures are seeded noise, and nobody measured them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from qexport.core import stats
from qexport.core.metrics import CATALOGUE, DISTANCES
from qexport.core.record import Conditions, Measurement, Published
from qexport.report.table import Table, build_table

RESAMPLES = stats.RESAMPLES
SOURCE = "a table somebody published"
# row, recipe, selector, weights and files in bytes, resident bytes, seconds at the median, perplexity ratio, noise of the ratio
ROWS = (
    ("fp32", "fp32", "", 4_812_288, 4_990_112, 101_400_576, 0.00184, 1.0, 0.0),
    ("int8-static (all)", "int8-static", "all", 1_262_592, 1_478_300, 93_110_272, 0.00109, 1.0212, 0.012),
    ("int8-static (attention)", "int8-static", "attention", 3_912_192, 4_117_500, 99_155_968, 0.00161, 1.0031, 0.004),
    ("int8-dynamic (all)", "int8-dynamic", "all", 1_258_496, 1_455_200, 93_257_728, 0.00121, 1.0074, 0.006),
    ("int8-dynamic (attention)", "int8-dynamic", "attention", 3_909_120, 4_105_900, 98_923_000, 0.00165, 1.0004, 0.004),
    ("bnb-int8", "bnb-int8", "", 1_702_400, 1_812_000, 412_004_352, 0.01420, 1.0012, 0.004),
    ("bnb-fp4", "bnb-fp4", "", 1_214_976, 1_330_000, 411_893_760, 0.00931, 1.0871, 0.03),
    ("bnb-nf4", "bnb-nf4", "", 1_214_976, 1_330_000, 411_951_104, 0.00962, 1.0503, 0.02),
)
PUBLISHED = {
    "fp32": (486.70, 0.0083, 261.66),
    "int8-static (all)": (130.97, 0.0081, 309.76),
    "int8-static (attention)": (405.70, 0.0081, 272.28),
    "bnb-int8": (168.35, 0.0474, 267.02),
    "bnb-fp4": (127.85, 0.0220, 284.91),
    "bnb-nf4": (127.85, 0.0262, 276.55),
}
QUESTIONS = 400
WINDOWS, SENTENCES, ROUNDS, PROMPTS = 64, 60, 5, 4
MEMORY = ("disk_bytes", "weight_bytes", "loaded_rss_bytes", "peak_rss_bytes")
BASIC = (*MEMORY, "peak_device_bytes", "latency_s", "perplexity", "sentence_perplexity")
ON_DEVICE = ("loaded_device_bytes", "peak_device_bytes", "device_context_bytes", "device_increase_bytes")
ANSWER = {"prompt": "What is the capital of France?", "response": "It is Paris, of course.", "expected": "Paris"}
FACTS = {
    "response_correct": ANSWER,
    "response_tokens": {name: text for name, text in ANSWER.items() if name != "expected"},
    "warning_count": {"warning_0": "a buffer was copied", "warning_1": "a setting is going away"},
}
SHOTS = {"gsm8k": ("train", 5), "mmlu": ("test", 5), "hellaswag": ("validation", 0), "piqa": ("validation", 0)}
MORE_ROWS = (
    ("fp16", "fp16", "", 2_406_144, 2_590_000, 97_100_000, 0.00221, 1.0001, 0.0005),
    ("w8a16-gptq", "w8a16-gptq", "", 1_702_000, 1_890_000, 94_000_000, 0.00151, 1.0009, 0.002),
    ("w4a16-awq", "w4a16-awq", "", 1_100_000, 1_290_000, 92_000_000, 0.00133, 1.0312, 0.01),
    ("nf4", "nf4", "", 1_190_000, 1_390_000, 92_700_000, 0.00143, 1.0441, 0.02),
    ("torch-fp32", "torch-fp32", "", 4_812_288, 4_990_112, 402_000_000, 0.00382, 1.0, 0.0001),
    ("torch-fp16", "torch-fp16", "", 2_406_144, 2_590_000, 399_000_000, 0.00441, 1.0002, 0.0005),
)


def facts(metric: str) -> dict[str, str | int | float]:
    task = CATALOGUE[metric].task
    if not task:
        return FACTS.get(metric, {})
    split, shots = SHOTS.get(task, ("test", 0))
    cut = 12 if task == "arc_challenge" else 0
    return {
        "task_version": 1.0,
        "num_fewshot": shots,
        "split": split,
        "stderr": 0.02,
        "data_sha256": "5a" * 32,
        "truncated": cut,
    }


def conditions(metric: str, recipe: str) -> Conditions:
    texts = {
        **dict.fromkeys(("perplexity", *DISTANCES), ("windows of at most 256 tokens", "9f" * 32)),
        "sentence_perplexity": ("sentences", "3c" * 32),
        "latency_s": ("sentences", "3c" * 32),
    }
    asked = ("", hashlib.sha256(CATALOGUE[metric].task.encode()).hexdigest())
    prompts = ("4 prompts, 24 new tokens", "71" * 32) if CATALOGUE[metric].group in {"speed", "session"} else ("", "")
    sequence, digest = asked if CATALOGUE[metric].task else texts.get(metric, prompts)
    return Conditions(
        machine="AMD EPYC 7B13",
        isa=("avx2",),
        cores=2,
        threads=2,
        runtime="torch 2.13.0" if recipe.startswith(("bnb", "torch")) else "onnxruntime 1.31.1",
        provider="cpu",
        sequence=sequence,
        text="" if CATALOGUE[metric].task or not digest else "the bundled evaluation text",
        text_sha256=digest,
        versions={"torch": "2.13.0", "onnxruntime": "1.31.1", "transformers": "4.57.6"},
        commit="0.1.0",
    )


def samples(
    metric: str, *, sizes: dict[str, int], latency_s: float, ratio: float, noise: float, seed: int
) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    text, own = np.random.default_rng(11), np.random.default_rng(seed)  # the text is the same for every row
    if metric in sizes:
        return (metric,), [(float(sizes[metric]),)]
    if metric == "latency_s":
        lengths = text.integers(6, 33, SENTENCES)
        rows = []
        for number in range(ROUNDS):
            times = latency_s * (0.55 + 0.45 * lengths / 16) * own.lognormal(0.0, 0.06, SENTENCES)
            rows += [(float(t), float(n), float(number)) for t, n in zip(times, lengths, strict=True)]
        return ("latency_s", "tokens", "round"), rows
    if CATALOGUE[metric].form == "accuracy":
        task = list(CATALOGUE).index(metric)
        text, own = np.random.default_rng([11, task]), np.random.default_rng([seed, task])
        easy = text.uniform(size=QUESTIONS) < text.uniform(0.35, 0.75)  # the same for every row
        changed = own.uniform(size=QUESTIONS) < 4 * (ratio - 1 + noise)
        return ("correct",), [(float(right),) for right in easy ^ changed]
    if metric in DISTANCES:
        return distance(metric, change=ratio - 1 + noise, own=own)
    if CATALOGUE[metric].form not in {"corpus", "sentences"}:
        return further(metric, weights=sizes["weight_bytes"], latency_s=latency_s, own=own)
    count, mean_nll = (WINDOWS, 2.1) if metric == "perplexity" else (SENTENCES, 2.3)
    tokens = text.integers(180, 256, count) if metric == "perplexity" else text.integers(6, 33, count)
    nll = mean_nll + text.normal(0.0, 0.25, count) + np.log(ratio) + own.normal(0.0, noise, count)
    return ("nll_nats", "tokens"), [(float(x * n), float(n)) for x, n in zip(nll, tokens, strict=True)]


def distance(
    metric: str, *, change: float, own: np.random.Generator
) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """Samples of a distance from the baseline, of which a row without a change has none."""
    if CATALOGUE[metric].form in {"token_median", "token_p999"}:
        return (metric, "window"), [
            (change * float(own.lognormal(-1.0, 1.0)), float(window)) for window in range(WINDOWS) for _ in range(20)
        ]
    each = 1 - change if metric == "same_top_share" else change
    return (metric, "tokens"), [(200 * each * float(own.uniform(0.9, 1.0)), 200.0) for _ in range(WINDOWS)]


def further(
    metric: str, *, weights: int, latency_s: float, own: np.random.Generator
) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """Samples of generation and of whole sessions; three rounds of loading, one of which something else disturbed for fp32."""
    per_token = {"first_token_s": 1.4, "token_latency_s": 0.9, "generation_s": 22.0}
    seconds = {"sequential_s": 90, "batch_s": 40, "total_s": 60, "load_s": 20, "checkpoint_load_s": 5}
    counts = {"response_tokens": 9.0, "response_correct": 1.0, "warning_count": 2.0}
    rounds = [(number, float(own.lognormal(0.0, 0.02))) for number in range(ROUNDS)]
    if metric in per_token:
        return (metric, "tokens", "round"), [
            (latency_s * per_token[metric] * noise * (1 + place / 9), 7.0 + place, float(number))
            for number, noise in rounds
            for place in range(PROMPTS)
        ]
    if CATALOGUE[metric].unit == "tokens/s":
        each = (1.1 if metric == "tokens_per_s" else 2.9) / latency_s
        return (metric, "tokens", "round"), [(each * noise, 96.0, float(number)) for number, noise in rounds]
    if CATALOGUE[metric].form == "rounds":
        each = latency_s * seconds.get(metric, 12)
        disturbed = {2: 1.3} if metric == "load_s" and weights == ROWS[0][3] else {}
        taken = rounds[:3] if metric == "load_s" else rounds
        return (metric, "tokens", "round"), [
            (each * noise * disturbed.get(number, 1.0), 96.0, float(number)) for number, noise in taken
        ]
    if metric in counts:
        return (metric, "round"), [(counts[metric], float(number)) for number, _ in rounds]
    return (metric, "round"), [(float(int(3.1 * weights * noise)), float(number)) for number, noise in rounds]


def make_records(
    *,
    published: bool = False,
    scale: float = 1.0,
    skip: dict[str, str] | None = None,
    everything: bool = False,
    run: str = "",
    stand_in: bool = False,
) -> list[Measurement]:
    """All rows and metrics. ``skip`` names rows without figures and why; ``scale`` multiplies sizes and times.

    With ``everything`` all metrics of the catalogue are there, and rows of further recipes.
    """
    records = []
    rows = (*ROWS, *MORE_ROWS) if everything else ROWS
    for seed, (row, recipe, selector, weights, disk, rss, latency_s, ratio, noise) in enumerate(rows):
        kept = dict(zip(MEMORY, (disk, weights, 2 * weights, rss), strict=True))
        sizes = {metric: int(value * scale) for metric, value in kept.items()}
        figures = dict(zip(("weight_bytes", "latency_s", "sentence_perplexity"), PUBLISHED.get(row, ()), strict=False))
        figures = {m: v * 1e6 if m == "weight_bytes" else v for m, v in figures.items()} if published else {}
        common = {"row": row, "model": "reference", "recipe": recipe, "selector": selector, "engine": "", "run": run}
        common["stand_in"] = stand_in
        for metric in CATALOGUE if everything else BASIC:
            beside = Published(value=figures[metric], source=SOURCE) if metric in figures else None
            reason = (skip or {}).get(row) or ("no CUDA device was used" if metric in ON_DEVICE else None)
            if reason is not None:
                records.append(Measurement(**common, metric=metric, skipped=reason, published=beside))
                continue
            columns, values = samples(
                metric, sizes=sizes, latency_s=latency_s * scale, ratio=ratio, noise=noise, seed=seed
            )
            records.append(
                Measurement(
                    **common,
                    metric=metric,
                    columns=columns,
                    samples=values,
                    facts=facts(metric),
                    conditions=conditions(metric, recipe),
                    published=beside,
                )
            )
    return records


@pytest.fixture(scope="package", autouse=True)
def _few_resamples() -> Iterator[None]:
    """For tables of a test's own, whose intervals it does not read: most of the time would go into resampling."""
    with resampling(200):
        yield


@contextmanager
def resampling(times: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "RESAMPLES", times)
        yield


def with_all_resamples(records: list[Measurement]) -> Table:
    """A table that several tests share, some of which read its intervals."""
    with resampling(RESAMPLES):
        return build_table(records)


@pytest.fixture(scope="session")
def make() -> Callable[..., list[Measurement]]:
    """:func:`make_records`, for tests that need a run of their own."""
    return make_records


@pytest.fixture(scope="session")
def records() -> list[Measurement]:
    """One run as it comes from a machine without an accelerator, bnb-nf4 skipped and published figures beside."""
    return make_records(published=True, skip={"bnb-nf4": "bitsandbytes is not installed"})


@pytest.fixture(scope="session")
def everything() -> list[Measurement]:
    """A run with all metrics of the catalogue, but those of an accelerator, and with published figures."""
    return make_records(everything=True, published=True, run="2026-11-22T07:35:55Z")


@pytest.fixture(scope="session")
def two_runs() -> list[Measurement]:
    """Two runs of the same rows, the second on another machine with more threads."""
    first = make_records(published=True, run="2026-11-22T07:35:55Z")
    second = make_records(published=True, run="2026-11-23T09:00:00Z", scale=0.5)
    there = {"machine": "Intel Xeon Platinum 8488C", "threads": 8, "isa": ("amx_int8", "avx512_vnni")}
    return [*first, *(r.model_copy(update={"conditions": r.conditions.model_copy(update=there)}) for r in second)]


@pytest.fixture(scope="session")
def table(records) -> Table:
    return with_all_resamples(records)


@pytest.fixture(scope="session")
def full(everything) -> Table:
    return with_all_resamples(everything)


@pytest.fixture(scope="session")
def merged(two_runs) -> Table:
    return with_all_resamples(two_runs)


@pytest.fixture(scope="session")
def answered() -> Table:
    """96 questions of GSM8K: fp32 has 48 right, one row loses 10 and gains 2 of them, and one loses all."""
    base = [1.0] * 48 + [0.0] * 48
    rows = {"fp32": base, "int8-static": [0.0] * 10 + base[10:48] + [1.0] * 2 + base[50:], "nf4": [0.0] * 96}
    told = {"int8-static": Published(value=0.61, text="61.0 %", source=SOURCE)}
    facts = {"task_version": 3.0, "num_fewshot": 5, "split": "train", "truncated": 3}
    return with_all_resamples(
        [
            Measurement(
                row=row,
                model="reference",
                recipe=row,
                metric="gsm8k_strict",
                columns=("correct",),
                samples=[(right,) for right in correct],
                facts=facts,
                conditions=conditions("gsm8k_strict", row),
                published=told.get(row),
            )
            for row, correct in rows.items()
        ]
    )
