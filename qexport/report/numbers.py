"""Figures in words: digits, ratios, intervals, differences."""

from __future__ import annotations

import math
from collections.abc import Iterable

from qexport.core import Interval, McNemar, Published
from qexport.report.table import Column, Table


def significant(value: float, digits: int = 4) -> str:
    """A number with ``digits`` significant digits, never in exponent form, with thousands separators.

    >>> significant(0.0083), significant(130.97), significant(12345.6)
    ('0.008300', '131.0', '12,346')
    """
    if not math.isfinite(value):
        return "not finite"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def accuracy(value: float) -> str:
    """A share of questions, with three decimals."""
    return f"{value:.3f}"


def chance(mcnemar: McNemar) -> str:
    """The p of McNemar's test with two digits.

    >>> chance(McNemar(lost=10, gained=2, p=0.03857421875)), chance(McNemar(lost=30, gained=2, p=2.5e-7))
    ('0.039', '< 0.001')
    """
    return "< 0.001" if mcnemar.p < 0.001 else significant(mcnemar.p, 2)


def changed(mcnemar: McNemar) -> str:
    """McNemar's test and its counts: ``p 0.039 (10 lost, 2 gained)``."""
    return f"p {chance(mcnemar)} ({mcnemar.lost:,} lost, {mcnemar.gained:,} gained)"


def exactly(value: float) -> str:
    """A published number with exactly its published digits."""
    return f"{value:.10g}"


def published(figure: Published, column: Column) -> str:
    """The published text if it has its own unit, otherwise the number in the column's unit."""
    return figure.text or exactly(figure.value / column.per_unit)


def published_with_unit(figure: Published, column: Column) -> str:
    return figure.text or f"{published(figure, column)} {column.unit}".strip()


def ratio_digits(column: Column) -> int:
    """Decimals of a ratio: INT8 changes perplexity in the third decimal."""
    return 4 if column.form in {"corpus", "sentences"} else 3


def ratio_value(value: float, decimals: int) -> str:
    """A ratio with fixed decimals, so that a column lines up; with four digits from 10 on."""
    return f"{value:.{decimals}f}" if abs(value) < 10 else significant(value)  # significant() handles NaN and infinity


def ratio_with_interval(ratio: Interval, column: Column) -> str:
    value, low, high = (ratio_value(part, ratio_digits(column)) for part in (ratio.value, ratio.low, ratio.high))
    return f"{value}×" if ratio.low == ratio.high else f"{value}× ({low} to {high})"


def plus_minus(interval: Interval) -> float:
    """The wider side of an interval, for a ± figure."""
    return max(interval.high - interval.value, interval.value - interval.low)


def no_difference(ratio: Interval) -> bool:
    """True if the interval of a ratio contains 1."""
    return ratio.low <= 1.0 <= ratio.high


def listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *front, last = names
    return f"{', '.join(front)} and {last}" if front else last


def inside(column: Column) -> str:
    """A column's title inside a sentence; titles of tasks are names and keep their case."""
    return column.title if column.group == "tasks" else lowered(column.title)


def lowered(title: str) -> str:
    """A title in lower case, abbreviations in capitals.

    >>> lowered("KL divergence"), lowered("Peak memory")
    ('KL divergence', 'peak memory')
    """
    return " ".join(word if word.isupper() else word.lower() for word in title.split(" "))


def against(table: Table) -> str:
    """The base of the ratios: ``fp32``, or words if the runs have different baselines."""
    names = tuple(dict.fromkeys(row.name for row in table.baselines))
    return names[0] if len(names) == 1 else "the run's baseline"
