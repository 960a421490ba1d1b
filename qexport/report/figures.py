"""Figures from the raw samples of one record: a kind of figure for each form of metric."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from qexport.core import CATALOGUE, OTHERS, Form, InputError, Interval, McNemar, Measurement, NotComparable, stats

UNSTABLE = 0.10
"""A figure is unstable if the spread of its rounds is more than this part of their median."""
BUSY = 0.05
"""The machine was busy if other processes used more than this part of its processors during a timing."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes: counted once, or the median over rounds."""

    value: float
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles over the samples of the quickest rounds, in seconds, and the ratio of samples at the same place.

    With few rounds all count, and the ratio is paired round by round. With six or more, the quickest time of each place
    counts.
    """

    p50: float
    p95: float
    samples: tuple[tuple[float, int, int], ...]
    """``(seconds, tokens, round)`` as recorded."""
    ratio: Interval | None
    spread: float
    """The range of the medians of the counted rounds, as a part of their median."""
    busy: bool = False
    """True if other processes used the machine during the timing."""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Seconds or a rate, once for each round: median and range of the quickest rounds; the ratio is per round."""

    value: float
    low: float
    high: float
    rounds: int
    ratio: Interval | None
    spread: float
    busy: bool = False


@dataclass(frozen=True, kw_only=True)
class Count:
    """A number, once for each round: the median over rounds."""

    value: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The number of rounds with a right answer, and the words of the question."""

    right: int
    rounds: int
    prompt: str
    response: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A perplexity or a distance from the baseline with its 95 % bootstrap interval, and the paired ratio of a perplexity."""

    interval: Interval
    sequences: int
    tokens: int
    ratio: Interval | None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The share of a task's questions answered rightly, a 95 % bootstrap interval, and the changes from the baseline."""

    interval: Interval
    questions: int
    ratio: Interval | None
    """The ratio, paired over the same questions; None also if the baseline has no right answers."""
    mcnemar: McNemar | None


@dataclass(frozen=True)
class Skipped:
    """The metric was requested and could not be measured."""

    reason: str


@dataclass(frozen=True)
class NotMeasured:
    """The metric has no record."""


Figure = Size | Latency | Repeated | Count | Answer | Estimate | Accuracy | Skipped | NotMeasured


def derive(record: Measurement | None, reference: Measurement | None) -> Figure:
    """The figure of a record, with its ratio to the baseline if there is a baseline.

    Raises:
        InputError: the samples lack the columns of the metric's form.
        NotComparable: record and reference were not measured on the same sequences.
    """
    if record is None:
        return NotMeasured()
    if record.skipped is not None:
        return Skipped(record.skipped)
    return _FIGURE[CATALOGUE[record.metric].form](record, reference)


def plain(figure: Figure) -> float | None:
    """The number that bars show and columns are sorted by, in the record's unit; it may be infinite or NaN."""
    match figure:
        case Size(value=value) | Repeated(value=value) | Count(value=value) | Latency(p50=value):
            return value
        case Estimate(interval=interval) | Accuracy(interval=interval):
            return interval.value
        case Answer(right=right):
            return float(right)
        case Skipped() | NotMeasured():
            return None


def plain_ratio(figure: Figure) -> float | None:
    """The ratio to the baseline, without its interval."""
    match figure:
        case Size(ratio=ratio):
            return ratio
        case Latency(ratio=Interval() as interval) | Repeated(ratio=Interval() as interval):
            return interval.value
        case Estimate(ratio=Interval() as interval) | Accuracy(ratio=Interval() as interval):
            return interval.value
        case _:
            return None


def wide(figure: Figure) -> bool:
    """True if a figure's rounds are too far apart to be trusted."""
    return isinstance(figure, Latency | Repeated) and figure.spread > UNSTABLE


def unstable(figure: Figure) -> bool:
    """True if a figure's rounds are too far apart, and other processes are not the cause."""
    return isinstance(figure, Latency | Repeated) and wide(figure) and not figure.busy


def _size(record: Measurement, reference: Measurement | None) -> Size:
    value = median(_column(record, record.metric))
    base = 0.0 if reference is None else median(_column(reference, record.metric))
    return Size(value=value, ratio=value / base if base > 0 and value >= 0 else None)


def _latency(record: Measurement, reference: Measurement | None) -> Latency:
    times, tokens, rounds = (_column(record, name) for name in (record.metric, "tokens", "round"))
    ratio = None
    if reference is not None:
        ours, theirs = _by_place(record), _by_place(reference)
        common = [key for key in theirs if key in ours]  # a slow row takes part in only some rounds
        if not common or _lengths(ours) != _lengths(theirs):
            raise _unlike_sequences(record, reference)
        ratio = stats.median_ratio(*(_places({key: one[key][0] for key in common}) for one in (ours, theirs)))
    by_round: dict[float, list[float]] = defaultdict(list)
    for time, number in zip(times, rounds, strict=True):
        by_round[number].append(time)
    medians = [median(own) for own in by_round.values()]
    taken = stats.quickest(medians)
    undisturbed = [time for place, own in enumerate(by_round.values()) if place in taken for time in own]
    return Latency(
        p50=stats.percentile(undisturbed, 50),
        p95=stats.percentile(undisturbed, 95),
        samples=tuple((t, int(n), int(r)) for t, n, r in zip(times, tokens, rounds, strict=True)),
        ratio=ratio,
        spread=_spread([medians[place] for place in taken]),
        busy=_busy(record),
    )


def _places(times: Mapping[tuple[float, int], float]) -> list[float]:
    """The times of few rounds, otherwise the quickest time of each position, from times by ``(round, position)``."""
    if len({number for number, _ in times}) < stats.FEW_ROUNDS:
        return list(times.values())
    least: dict[int, float] = {}
    for (_, position), time in times.items():
        least[position] = min(time, least.get(position, time))
    return [least[position] for position in sorted(least)]


def _by_place(record: Measurement) -> dict[tuple[float, int], tuple[float, float]]:
    """The samples as ``(round, position within it) -> (seconds, tokens)``."""
    seen: Counter[float] = Counter()
    keyed = {}
    columns = (_column(record, name) for name in (record.metric, "tokens", "round"))
    for time, tokens, number in zip(*columns, strict=True):
        keyed[number, seen[number]] = (time, tokens)
        seen[number] += 1
    return keyed


def _lengths(by_place: Mapping[tuple[float, int], tuple[float, float]]) -> set[tuple[int, float]]:
    """The tokens of the sequence at each position."""
    return {(position, tokens) for (_, position), (_, tokens) in by_place.items()}


def _spread(values: Sequence[float]) -> float:
    middle = median(values)
    return (max(values) - min(values)) / middle if middle > 0 else 0.0


def _busy(record: Measurement) -> bool:
    return float(record.facts.get(OTHERS, 0.0)) > BUSY


def _repeated(record: Measurement, reference: Measurement | None) -> Repeated:
    values = _column(record, record.metric)
    ratios = [] if reference is None else _ratios(_by_round(record), _by_round(reference))
    slowness = [-value for value in values] if CATALOGUE[record.metric].better == "higher" else list(values)
    undisturbed = [values[place] for place in stats.quickest(slowness)]
    return Repeated(
        value=median(undisturbed),
        low=min(undisturbed),
        high=max(undisturbed),
        rounds=len(values),
        ratio=_median_with_interval(ratios) if ratios else None,
        spread=_spread(undisturbed),
        busy=_busy(record),
    )


def _median_with_interval(values: Sequence[float]) -> Interval:
    low, high = stats.median_interval(values)
    return Interval(value=median(values), low=low, high=high)


def _by_round(record: Measurement) -> dict[float, float]:
    return dict(zip(_column(record, "round"), _column(record, record.metric), strict=True))


def _ratios(ours: Mapping[float, float], theirs: Mapping[float, float]) -> list[float]:
    return [value / theirs[number] for number, value in ours.items() if theirs.get(number, 0.0) > 0]


def _count(record: Measurement, _: Measurement | None) -> Count:
    return Count(value=median(_column(record, record.metric)))


def _answer(record: Measurement, _: Measurement | None) -> Answer:
    rounds = _column(record, record.metric)
    prompt, response, expected = (str(record.facts.get(name, "")) for name in ("prompt", "response", "expected"))
    return Answer(
        right=sum(right > 0 for right in rounds),
        rounds=len(rounds),
        prompt=prompt,
        response=response,
        expected=expected,
    )


def _corpus(record: Measurement, reference: Measurement | None) -> Estimate:
    nll, tokens, base = _likelihoods(record, reference)
    return Estimate(
        interval=stats.perplexity(nll, tokens),
        sequences=len(nll),
        tokens=int(tokens.sum()),
        ratio=None if base is None else stats.perplexity_ratio(nll, base, tokens),
    )


def _sentences(record: Measurement, reference: Measurement | None) -> Estimate:
    nll, tokens, base = _likelihoods(record, reference)
    return Estimate(
        interval=stats.sentence_perplexity(nll, tokens),
        sequences=len(nll),
        tokens=int(tokens.sum()),
        ratio=None if base is None else stats.mean_ratio(np.exp(nll / tokens), np.exp(base / tokens)),
    )


def distance(record: Measurement, *, confidence: float = stats.CONFIDENCE) -> Interval:
    """A mean or a root mean square over tokens from its samples, at a level of confidence."""
    sums, tokens = _column(record, record.metric), _column(record, "tokens")
    of_tokens = stats.token_rms if CATALOGUE[record.metric].form == "token_rms" else stats.token_mean
    return of_tokens(sums, tokens, confidence=confidence)


def _distance(record: Measurement, _: Measurement | None) -> Estimate:
    return Estimate(
        interval=distance(record),
        sequences=len(record.samples),
        tokens=int(sum(_column(record, "tokens"))),
        ratio=None,
    )


def _quantile(record: Measurement, _: Measurement | None, *, quantile: float) -> Estimate:
    windows = _column(record, "window")
    return Estimate(
        interval=stats.token_quantile(_column(record, record.metric), windows, quantile),
        sequences=len(set(windows)),
        tokens=len(windows),
        ratio=None,
    )


def _accuracy(record: Measurement, reference: Measurement | None) -> Accuracy:
    correct = _column(record, "correct")
    base = None if reference is None else _column(reference, "correct")
    if reference is not None and base is not None and len(base) != len(correct):
        raise _unlike_sequences(record, reference, "questions")
    return Accuracy(
        interval=stats.accuracy(correct),
        questions=len(correct),
        ratio=None if base is None else stats.accuracy_ratio(correct, base),
        mcnemar=None if base is None else stats.mcnemar(correct, base),
    )


_Samples = NDArray[np.float64]


def _likelihoods(record: Measurement, reference: Measurement | None) -> tuple[_Samples, _Samples, _Samples | None]:
    """``nll_nats`` and ``tokens`` of each sequence, and the reference's ``nll_nats`` of the same sequences."""
    nll, tokens = _column(record, "nll_nats"), _column(record, "tokens")
    if reference is not None and tokens != _column(reference, "tokens"):
        raise _unlike_sequences(record, reference)
    base = None if reference is None else np.array(_column(reference, "nll_nats"))
    return np.array(nll), np.array(tokens), base


_FIGURE: Mapping[Form, Callable[[Measurement, Measurement | None], Figure]] = {
    "size": _size,
    "latency": _latency,
    "rounds": _repeated,
    "count": _count,
    "answer": _answer,
    "corpus": _corpus,
    "sentences": _sentences,
    "token_mean": _distance,
    "token_rms": _distance,
    "token_median": partial(_quantile, quantile=0.5),
    "token_p999": partial(_quantile, quantile=0.999),
    "accuracy": _accuracy,
}


def _column(record: Measurement, name: str) -> tuple[float, ...]:
    if name not in record.columns:
        raise InputError(
            f"{record.metric} of {record.row}: no column {name!r} in its samples, only {record.columns}; measure again"
        )
    index = record.columns.index(name)
    return tuple(sample[index] for sample in record.samples)


def _unlike_sequences(record: Measurement, reference: Measurement, what: str = "sequences") -> NotComparable:
    return NotComparable(
        f"{record.metric}: {record.row} and {reference.row} were not measured on the same {what}; "
        "measure the rows in one run"
    )
