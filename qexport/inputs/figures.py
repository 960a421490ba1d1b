"""Figures as somebody published them: numbers with units, turned into the units that metrics are recorded in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from qexport.catalogue import CATALOGUE, Unit, require_known
from qexport.errors import InputError

_SIZES = {"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

UNITS: Mapping[Unit, Mapping[str, Decimal]] = MappingProxyType(
    {
        "bytes": {"bytes": Decimal(1), "B": Decimal(1), **{name: Decimal(size) for name, size in _SIZES.items()}},
        "s": {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "min": Decimal(60)},
        "tokens/s": {"tokens/s": Decimal(1)},
        "tokens": {"tokens": Decimal(1)},
        "": {},
    }
)
"""The units that a figure may be written in, and what one of each is in the recorded unit."""

_FIGURE = re.compile(r"(?P<number>[0-9][0-9,]*(\.[0-9]+)?([eE][+-]?[0-9]+)?)\s*(?P<unit>\S+)?")


class Figure(NamedTuple):
    """A figure in its metric's recorded unit, and as it was written where that was with a unit of its own."""

    value: float
    text: str


def parse_figures(values: object) -> dict[str, Figure]:
    """Figures by metric.

    Args:
        values: a mapping of metrics to numbers in the recorded unit, or to texts with a unit: ``"486.70 MiB"``.

    Raises:
        InputError: no mapping, an unknown metric, or a figure that :func:`parse_figure` refuses.
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

    >>> parse_figure("token_latency_s", "239 ms")
    0.239

    Raises:
        InputError: not a positive number, an unknown unit, or one that the metric is not measured in.
    """
    unit = CATALOGUE[metric].unit
    if isinstance(value, str):
        number, scale = _split(metric, value, unit)
        figure = float(number * scale)  # decimal up to here: 239 ms are 0.239 s, and not 0.23900000000000002
    elif isinstance(value, int | float) and not isinstance(value, bool):
        figure = float(value)
    else:
        raise InputError(f"{metric}: {value!r} is no figure; write a number, or a text such as {_example(unit)}")
    if not (figure > 0 and math.isfinite(figure)):
        raise InputError(f"{metric}: {value} is not above zero; correct it, or leave the figure out")
    return figure


def _split(metric: str, text: str, unit: Unit) -> tuple[Decimal, Decimal]:
    text = " ".join(text.split())
    found = _FIGURE.fullmatch(text)
    if found is None:
        raise InputError(
            f'{metric}: "{text}" is no figure; write a positive number and its unit, as in {_example(unit)}'
        )
    number, given = Decimal(found["number"].replace(",", "")), found["unit"]
    if given in UNITS[unit]:
        return number, UNITS[unit][given]
    if not unit:
        if given is None:
            return number, Decimal(1)
        raise InputError(f'{metric}: "{text}" has a unit, and {metric} has none; leave {given} out')
    if given is None:
        raise InputError(f'{metric}: "{text}" names no unit; use {", ".join(UNITS[unit])}')
    if any(given in known for known in UNITS.values()):
        raise InputError(f'{metric}: "{text}" is in the wrong unit; {metric} takes {", ".join(UNITS[unit])}')
    raise InputError(f'{metric}: "{text}" has an unknown unit {given}; use {", ".join(UNITS[unit])}')


def _example(unit: Unit) -> str:
    return {
        "bytes": '"486.70 MiB"',
        "s": '"239 ms"',
        "tokens/s": '"161.27 tokens/s"',
        "tokens": '"64 tokens"',
        "": "261.66",
    }[unit]
