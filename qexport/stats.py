"""Statistics derived from raw samples: intervals by bootstrap, always paired where two runs saw the same windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate with a two-sided confidence interval."""

    value: float
    low: float
    high: float


def _bootstrap_counts(n: int, seed: int) -> NDArray[np.float64]:
    """How often each of ``n`` samples is drawn in each resample: ``[RESAMPLES, n]``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES).astype(np.float64)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def perplexity(nll_nats: ArrayLike, tokens: ArrayLike, *, seed: int = 0) -> Interval:
    """Corpus perplexity ``exp(sum(nll) / sum(tokens))`` with a percentile bootstrap interval over windows.

    Args:
        nll_nats: summed negative log-likelihood of each window, ``[windows]``.
        tokens: number of scored tokens of each window, ``[windows]``.
        seed: seed of the resampling.
    """
    nll, count = np.asarray(nll_nats, np.float64), np.asarray(tokens, np.float64)
    draws = _bootstrap_counts(len(nll), seed)
    return _interval(float(np.exp(nll.sum() / count.sum())), np.exp(draws @ nll / (draws @ count)))


def perplexity_ratio(nll_nats: ArrayLike, base_nll_nats: ArrayLike, tokens: ArrayLike, *, seed: int = 0) -> Interval:
    """Ratio of two corpus perplexities over the same windows, with a paired bootstrap interval.

    Pairing removes how hard the text is from the interval: what is left is what the windows say of the difference.
    """
    difference = np.asarray(nll_nats, np.float64) - np.asarray(base_nll_nats, np.float64)
    return perplexity(difference, tokens, seed=seed)


def sentence_perplexity(nll_nats: ArrayLike, tokens: ArrayLike, *, seed: int = 0) -> Interval:
    """The mean over sentences of each sentence's own perplexity: another metric than corpus perplexity."""
    each = np.exp(np.asarray(nll_nats, np.float64) / np.asarray(tokens, np.float64))
    return mean(each, seed=seed)


def mean(values: ArrayLike, *, seed: int = 0) -> Interval:
    """Arithmetic mean with a percentile bootstrap interval."""
    each = np.asarray(values, np.float64)
    return _interval(float(each.mean()), _bootstrap_counts(len(each), seed) @ each / len(each))


def mean_ratio(values: ArrayLike, base_values: ArrayLike, *, seed: int = 0) -> Interval:
    """Ratio of two means over paired samples, with a paired bootstrap interval."""
    each, base = np.asarray(values, np.float64), np.asarray(base_values, np.float64)
    draws = _bootstrap_counts(len(each), seed)
    return _interval(float(each.mean() / base.mean()), (draws @ each) / (draws @ base))


def median_ratio(values: ArrayLike, base_values: ArrayLike, *, seed: int = 0) -> Interval:
    """Median of the pairwise ratios of two equally long samples, with a percentile bootstrap interval.

    Used for latency: pairing by sentence and round takes the sentence's length and the machine's drift out.
    """
    ratios = np.asarray(values, np.float64) / np.asarray(base_values, np.float64)
    rng = np.random.default_rng(seed)
    resampled = np.median(ratios[rng.integers(0, len(ratios), size=(RESAMPLES, len(ratios)))], axis=1)
    return _interval(float(np.median(ratios)), resampled)


def percentile(values: Sequence[float], q: float) -> float:
    """The ``q``-th percentile, linear between closest ranks."""
    return float(np.percentile(np.asarray(values, np.float64), q))
