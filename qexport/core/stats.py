"""Statistics derived from raw samples: bootstrap intervals, always paired if two runs saw the same windows."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport.core.errors import NotComparable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
FEW_ROUNDS = 4
"""With fewer rounds than this, no round is left out."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate with a two-sided confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """The difference between the answers of two runs to the same questions, and McNemar's test of the difference."""

    lost: int
    """Number of questions that are right in the baseline and wrong here."""
    gained: int
    """Number of questions that are wrong in the baseline and right here."""
    p: float


def _bootstrap_counts(n: int, seed: int) -> NDArray[np.float64]:
    """The number of times that each of ``n`` samples is drawn in each resample: ``[RESAMPLES, n]``, read-only."""
    return _counts(n, seed, RESAMPLES)


@functools.lru_cache(maxsize=2)  # a table asks for the same two again and again: of its windows and of its sentences
def _counts(n: int, seed: int, resamples: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
    counts.setflags(write=False)
    return counts


def _interval(value: float, resampled: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def perplexity(nll_nats: ArrayLike, tokens: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Corpus perplexity ``exp(sum(nll) / sum(tokens))`` with a percentile bootstrap interval over windows.

    Args:
        nll_nats: the summed negative log-likelihood of each window, ``[windows]``.
        tokens: the number of scored tokens of each window, ``[windows]``.
        confidence: the level of the interval.
        seed: the seed of the resampling.
    """
    nll, count = np.asarray(nll_nats, np.float64), np.asarray(tokens, np.float64)
    draws = _bootstrap_counts(len(nll), seed)
    return _interval(float(np.exp(nll.sum() / count.sum())), np.exp(draws @ nll / (draws @ count)), confidence)


def perplexity_ratio(
    nll_nats: ArrayLike,
    base_nll_nats: ArrayLike,
    tokens: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Ratio of two corpus perplexities over the same windows, with a paired bootstrap interval.

    Pairing removes the difficulty of the text from the interval; only the windows' differences remain.
    """
    difference = np.asarray(nll_nats, np.float64) - np.asarray(base_nll_nats, np.float64)
    return perplexity(difference, tokens, confidence=confidence, seed=seed)


def drift(
    nll_nats: ArrayLike,
    base_nll_nats: ArrayLike,
    tokens: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The distance of two runs window by window: the root mean square of the change, in nats per token.

    Changes for the better and for the worse do not cancel, as they do in a ratio of perplexities.
    """
    change = np.asarray(nll_nats, np.float64) - np.asarray(base_nll_nats, np.float64)
    squares = (change / np.asarray(tokens, np.float64)) ** 2
    draws = _bootstrap_counts(len(squares), seed)
    return _interval(float(np.sqrt(squares.mean())), np.sqrt(draws @ squares / len(squares)), confidence)


def sentence_perplexity(nll_nats: ArrayLike, tokens: ArrayLike, *, seed: int = 0) -> Interval:
    """The mean over sentences of each sentence's own perplexity: another metric than corpus perplexity."""
    each = np.exp(np.asarray(nll_nats, np.float64) / np.asarray(tokens, np.float64))
    return mean(each, seed=seed)


def token_mean(sums: ArrayLike, tokens: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """The mean over tokens, with a percentile bootstrap interval over windows.

    Args:
        sums: the sum over the tokens of each window, ``[windows]``.
        tokens: the number of tokens of each window, ``[windows]``.
        confidence: the level of the interval.
        seed: the seed of the resampling.
    """
    each, count = np.asarray(sums, np.float64), np.asarray(tokens, np.float64)
    draws = _bootstrap_counts(len(each), seed)
    return _interval(float(each.sum() / count.sum()), draws @ each / (draws @ count), confidence)


def token_rms(squares: ArrayLike, tokens: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """The root mean square over tokens from the sums of squares of windows; arguments as for :func:`token_mean`."""
    square = token_mean(squares, tokens, confidence=confidence, seed=seed)
    return Interval(value=math.sqrt(square.value), low=math.sqrt(square.low), high=math.sqrt(square.high))


def token_quantile(values: ArrayLike, windows: ArrayLike, quantile: float, *, seed: int = 0) -> Interval:
    """A quantile over tokens, with a percentile bootstrap interval over windows: the tokens of a window stay together.

    Args:
        values: the value of each token, ``[tokens]``.
        windows: the number of each token's window, ``[tokens]``.
        quantile: between 0 and 1; the least value that has this share of the tokens at or below it.
        seed: the seed of the resampling.
    """
    each = np.asarray(values, np.float64)
    order = np.argsort(each, kind="stable")
    window = np.unique(np.asarray(windows), return_inverse=True)[1][order]
    ranked = each[order]

    def at(counts: NDArray[np.float64]) -> float:
        behind = np.cumsum(counts[window])
        return float(ranked[np.searchsorted(behind, quantile * behind[-1])])

    draws = _bootstrap_counts(int(window.max()) + 1, seed)
    return _interval(at(np.ones(draws.shape[1])), np.array([at(counts) for counts in draws]))


def mean(values: ArrayLike, *, seed: int = 0) -> Interval:
    """Arithmetic mean with a percentile bootstrap interval."""
    each = np.asarray(values, np.float64)
    return _interval(float(each.mean()), _bootstrap_counts(len(each), seed) @ each / len(each))


def mean_ratio(values: ArrayLike, base_values: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Ratio of two means over paired samples, with a paired bootstrap interval."""
    each, base = np.asarray(values, np.float64), np.asarray(base_values, np.float64)
    draws = _bootstrap_counts(len(each), seed)
    return _interval(float(each.mean() / base.mean()), (draws @ each) / (draws @ base), confidence)


def accuracy(correct: ArrayLike, *, seed: int = 0) -> Interval:
    """The share of questions answered correctly, with a percentile bootstrap interval over questions.

    The number of correct answers in a resample is a binomial draw. This is the bootstrap of :func:`mean`, at a cost
    that does not grow with the number of questions.

    Args:
        correct: 1 or 0 for each question, ``[questions]``.
        seed: the seed of the resampling.
    """
    right = np.asarray(correct, bool)
    drawn = np.random.default_rng(seed).binomial(len(right), right.mean(), size=RESAMPLES)
    return _interval(float(right.mean()), drawn / len(right))


def accuracy_ratio(correct: ArrayLike, base_correct: ArrayLike, *, seed: int = 0) -> Interval | None:
    """Ratio of two accuracies over the same questions, with a paired bootstrap interval.

    None if the ratio does not exist: the baseline has no correct answer, or has none in enough resamples to leave the
    interval open.

    Raises:
        NotComparable: the numbers of questions differ.
    """
    both, lost, gained = _pairs(correct, base_correct)
    questions = np.size(correct)
    if both + lost == 0:
        return None
    kinds = np.array([both, lost, gained, questions - both - lost - gained])
    # Pairs of one kind are alike, so a resample is the number of pairs of each kind.
    draws = np.random.default_rng(seed).multinomial(questions, kinds / questions, size=RESAMPLES).T.astype(np.float64)
    right, base_right = draws[0] + draws[2], draws[0] + draws[1]
    neither = np.where(right == 0, 1.0, np.inf)  # with nothing right in both, nothing has changed
    ratios = np.divide(right, base_right, out=neither, where=base_right > 0)
    with np.errstate(invalid="ignore"):  # numpy interpolates between two infinite ratios as it does between others
        interval = _interval((both + gained) / (both + lost), ratios)
    return interval if np.isfinite(interval.high) else None


def mcnemar(correct: ArrayLike, base_correct: ArrayLike) -> McNemar:
    """McNemar's test (1947) of two runs over the same questions, exact and two-sided.

    If neither run were better, a coin toss would decide whether a changed question is lost or gained: ``p`` is ``min(1,
    2 P(X <= min(lost, gained)))`` with ``X ~ Binomial(lost + gained, 1/2)``, in whole numbers.

    Raises:
        NotComparable: the numbers of questions differ.
    """
    _, lost, gained = _pairs(correct, base_correct)
    changed = lost + gained
    tail, ways = 0, 1
    for fewer in range(min(lost, gained) + 1):
        tail += ways
        ways = ways * (changed - fewer) // (fewer + 1)
    return McNemar(lost=lost, gained=gained, p=min(1.0, 2 * tail / 2**changed))


def _pairs(correct: ArrayLike, base_correct: ArrayLike) -> tuple[int, int, int]:
    """The numbers of questions that are right in both runs, in the baseline only, and in the other run only."""
    right, base = np.asarray(correct, bool), np.asarray(base_correct, bool)
    if right.shape != base.shape:
        raise NotComparable(f"accuracy: {len(right)} questions and {len(base)} are not the same ones; answer the same")
    return int((right & base).sum()), int((base & ~right).sum()), int((right & ~base).sum())


def median_ratio(values: ArrayLike, base_values: ArrayLike, *, seed: int = 0) -> Interval:
    """Median of the pairwise ratios of two equally long samples, with a percentile bootstrap interval.

    It is used for latency: pairing by sentence and round removes the sentence's length and the machine's drift.
    """
    ratios = np.asarray(values, np.float64) / np.asarray(base_values, np.float64)
    rng = np.random.default_rng(seed)
    resampled = np.median(ratios[rng.integers(0, len(ratios), size=(RESAMPLES, len(ratios)))], axis=1)
    return _interval(float(np.median(ratios)), resampled)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, for any distribution: between two of the values, as near the middle as possible.

    No two of fewer than six values enclose it with 95 % confidence; the interval is then their range.

    >>> median_interval([3.0, 1.0, 2.0]), median_interval([float(n) for n in range(1, 13)])
    ((1.0, 3.0), (3.0, 10.0))
    """
    ranked, n = sorted(values), len(values)
    outside, below = 1.0 - CONFIDENCE, 0.0
    cut = 0
    for number in range(n // 2):
        below += math.comb(n, number) / 2**n
        if 2 * below > outside:
            break
        cut = number
    return ranked[cut], ranked[n - 1 - cut]


def quickest(seconds: Sequence[float]) -> list[int]:
    """Places of the undisturbed rounds: the quickest quarter of four or more rounds, at least two; all of fewer rounds.

    Another process, another tenant and a falling clock only ever add time, so the minimum is the robust estimate of the
    work's time (Chen and Revels, "Robust benchmarking in noisy environments", https://arxiv.org/abs/1608.04295). A
    quarter of the rounds near the minimum shows that it is no stroke of luck.

    >>> quickest([3.0, 1.0, 2.0]), quickest([5.0, 1.0, 9.0, 2.0])
    ([0, 1, 2], [1, 3])
    """
    ranked = sorted(range(len(seconds)), key=seconds.__getitem__)
    if len(ranked) < FEW_ROUNDS:
        return list(range(len(seconds)))
    return sorted(ranked[: max(2, math.ceil(len(ranked) / 4))])


def percentile(values: Sequence[float], q: float) -> float:
    """The ``q``-th percentile, linear between closest ranks."""
    return float(np.percentile(np.asarray(values, np.float64), q))
