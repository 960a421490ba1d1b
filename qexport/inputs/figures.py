"""Published figures: numbers with units, converted to the recorded units of metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from qexport.core import CATALOGUE, InputError, Metric, Unit, require_known

_SIZES = {"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

UNITS: Mapping[Unit, Mapping[str, Decimal]] = MappingProxyType(
    {
        "bytes": {"bytes": Decimal(1), "B": Decimal(1), **{name: Decimal(size) for name, size in _SIZES.items()}},
        "s": {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "min": Decimal(60)},
        "tokens/s": {"tokens/s": Decimal(1)},
        "tokens": {"tokens": Decimal(1)},
        "nats": {"nats": Decimal(1)},
        "": {},
    }
)
"""The units of a published figure, and their factors to the recorded unit."""

_PARTS = MappingProxyType({"%": Decimal("0.01")})
"""The factors for accuracies, which have no unit."""

_FIGURE = re.compile(r"(?P<number>[0-9][0-9,]*+(\.[0-9]++)?+([eE][+-]?[0-9]++)?+)\s*+(?P<unit>\S+)?")


class Figure(NamedTuple):
    """A figure in its metric's recorded unit, and its text if that had its own unit."""

    value: float
    text: str


def parse_figures(values: object) -> dict[str, Figure]:
    """Parse figures by metric.

    Args:
        values: a mapping of metrics to numbers in the recorded unit, or to texts with a unit: ``"486.70 MiB"``,
            ``"61.0 %"``.

    Raises:
        InputError: the values are not a mapping, a metric is unknown, or :func:`parse_figure` refuses a figure.
    """
    if not isinstance(values, Mapping):
        raise InputError('not a table of figures; write { latency_s = "8.3 ms" }')
    require_known(values)
    return {
        name: Figure(parse_figure(name, value), value.strip() if isinstance(value, str) else "")
        for name, value in values.items()
    }


def parse_figure(metric: str, value: object) -> float:
    """One figure in its metric's recorded unit.

    >>> parse_figure("token_latency_s", "239 ms"), parse_figure("mmlu_acc", "61.0 %")
    (0.239, 0.61)

    Raises:
        InputError: the number is not positive or an accuracy above 1, or the unit is unknown or wrong for the metric.
    """
    measured = CATALOGUE[metric]
    if isinstance(value, str):
        number, scale = _split(measured, value)
        figure = float(number * scale)  # decimal until here, so that 239 ms are 0.239 s, not 0.23900000000000002
    elif isinstance(value, int | float) and not isinstance(value, bool):
        figure = float(value)
    else:
        raise InputError(f"{metric}: {value!r} is not a figure; write a number, or a text such as {_example(measured)}")
    written = " ".join(str(value).split())
    if not (figure > 0 and math.isfinite(figure)):
        raise InputError(f"{metric}: {written} is not above zero; correct it, or leave the figure out")
    if measured.form == "accuracy" and figure > 1:
        raise InputError(f"{metric}: {written} is more than all questions; an accuracy is at most 1, or 100 %")
    return figure


def _split(metric: Metric, text: str) -> tuple[Decimal, Decimal]:
    name, unit, text = metric.name, metric.unit, " ".join(text.split())
    units = _PARTS if metric.form == "accuracy" else UNITS[unit]
    found = _FIGURE.fullmatch(text)
    if found is None:
        raise InputError(
            f'{name}: "{text}" is not a figure; write a positive number and its unit, as in {_example(metric)}'
        )
    number, given = Decimal(found["number"].replace(",", "")), found["unit"]
    if given in units:
        return number, units[given]
    if given is None:
        if not unit:
            return number, Decimal(1)
        raise InputError(f'{name}: "{text}" names no unit; use {", ".join(units)}')
    if given in _PARTS:
        raise InputError(
            f'{name}: "{text}" is in per cent, as only accuracies are; write the figure itself, as in {_example(metric)}'
        )
    if not unit:
        besides = f" but {', '.join(units)}" if units else ""
        raise InputError(f'{name}: "{text}" has a unit, and {name} has none{besides}; leave {given} out')
    if any(given in known for known in UNITS.values()):
        raise InputError(f'{name}: "{text}" is in the wrong unit; {name} takes {", ".join(units)}')
    raise InputError(f'{name}: "{text}" has an unknown unit {given}; use {", ".join(units)}')


def _example(metric: Metric) -> str:
    if metric.form == "accuracy":
        return '"61.0 %"'
    return {
        "bytes": '"486.70 MiB"',
        "s": '"239 ms"',
        "tokens/s": '"161.27 tokens/s"',
        "tokens": '"64 tokens"',
        "nats": '"0.012 nats"',
        "": "261.66",
    }[metric.unit]
