"""Made-up records of a whole compare run, in realistic sizes: the figures are seeded noise, and nobody measured them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qexport.record import Conditions, Measurement, Published

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
WINDOWS, SENTENCES, ROUNDS = 64, 60, 5


def conditions(metric: str, recipe: str) -> Conditions:
    texts = {
        "perplexity": ("windows of at most 256 tokens", "9f" * 32),
        "sentence_perplexity": ("sentences", "3c" * 32),
        "latency_s": ("sentences", "3c" * 32),
    }
    sequence, digest = texts.get(metric, ("", ""))
    return Conditions(
        machine="AMD EPYC 7B13",
        isa=("avx2",),
        cores=2,
        threads=2,
        runtime="torch 2.13.0" if recipe.startswith("bnb") else "onnxruntime 1.31.1",
        provider="cpu",
        sequence=sequence,
        text="the bundled evaluation text" if digest else "",
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
    count, mean_nll = (WINDOWS, 2.1) if metric == "perplexity" else (SENTENCES, 2.3)
    tokens = text.integers(180, 256, count) if metric == "perplexity" else text.integers(6, 33, count)
    nll = mean_nll + text.normal(0.0, 0.25, count) + np.log(ratio) + own.normal(0.0, noise, count)
    return ("nll_nats", "tokens"), [(float(x * n), float(n)) for x, n in zip(nll, tokens, strict=True)]


def make_records(
    *, published: bool = False, scale: float = 1.0, skip: dict[str, str] | None = None
) -> list[Measurement]:
    """All rows and metrics. ``skip`` names rows without figures and why; ``scale`` multiplies sizes and times."""
    records = []
    for seed, (row, recipe, selector, weights, disk, rss, latency_s, ratio, noise) in enumerate(ROWS):
        kept = {"disk_bytes": disk, "weight_bytes": weights, "loaded_rss_bytes": 2 * weights, "peak_rss_bytes": rss}
        sizes = {metric: int(value * scale) for metric, value in kept.items()}
        figures = dict(zip(("weight_bytes", "latency_s", "sentence_perplexity"), PUBLISHED.get(row, ()), strict=False))
        figures = {m: v * 1e6 if m == "weight_bytes" else v for m, v in figures.items()} if published else {}
        common = {"row": row, "model": "reference", "recipe": recipe, "selector": selector, "engine": ""}
        for metric in (*sizes, "peak_device_bytes", "latency_s", "perplexity", "sentence_perplexity"):
            beside = Published(value=figures[metric], source=SOURCE) if metric in figures else None
            reason = (skip or {}).get(row) or ("no CUDA device was used" if metric == "peak_device_bytes" else None)
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
                    conditions=conditions(metric, recipe),
                    published=beside,
                )
            )
    return records


@pytest.fixture(scope="session")
def make() -> Callable[..., list[Measurement]]:
    """:func:`make_records`, for tests that need a run of their own."""
    return make_records


@pytest.fixture(scope="session")
def records() -> list[Measurement]:
    """One run as it comes from a machine without an accelerator, bnb-nf4 skipped and published figures beside."""
    return make_records(published=True, skip={"bnb-nf4": "bitsandbytes is not installed"})
