"""Figures as text: 3 to 4 significant digits, units stated, and the plain sentences derived from the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qexport.record import Published
from qexport.report.table import (
    COLUMN,
    Column,
    Estimate,
    Gap,
    Latency,
    Row,
    Size,
    Table,
    measured_conditions,
)
from qexport.stats import Interval

SKIPPED, NOT_MEASURED = "skipped", "not measured"


def significant(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, never in exponent form, thousands set apart.

    >>> significant(0.0083), significant(130.97), significant(12345.6)
    ('0.008300', '131.0', '12,346')
    """
    if not math.isfinite(value):
        return "not finite"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def exactly(value: float) -> str:
    """A published number as it was published: no digit added, none taken."""
    return f"{value:.10g}"


def published(figure: Published, column: Column) -> str:
    return exactly(figure.value / column.per_unit)


def ratio_digits(column: Column) -> int:
    """Decimals of a ratio: INT8 costs perplexity in the third one."""
    return 4 if column.unit == "" else 3


def ratio_value(value: float, decimals: int) -> str:
    """A ratio with fixed decimals, so that a column of them lines up, or with four digits once it is large."""
    return f"{value:.{decimals}f}" if abs(value) < 10 else significant(value)  # "not finite" is said there too


def ratio_with_interval(ratio: Interval, column: Column) -> str:
    value, low, high = (ratio_value(part, ratio_digits(column)) for part in (ratio.value, ratio.low, ratio.high))
    return f"{value}× ({low} to {high})"


def plus_minus(interval: Interval) -> float:
    """The wider side of an interval: what a ± may claim of it."""
    return max(interval.high - interval.value, interval.value - interval.low)


def no_difference(ratio: Interval) -> bool:
    """Whether the interval of a ratio contains 1."""
    return ratio.low <= 1.0 <= ratio.high


def listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *front, last = names
    return f"{', '.join(front)} and {last}" if front else last


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """One answer of the table: who, how much, and what that is against fp32."""

    question: str
    rows: tuple[str, ...]
    figure: str
    detail: str

    @property
    def sentence(self) -> str:
        return f"{self.question}: {listed(self.rows)}, {self.figure}; {self.detail}."


def highlights(table: Table) -> tuple[Highlight, ...]:
    """Smallest, fastest, least perplexity lost: what can be said of the run, in that order."""
    found = (_smallest(table), _fastest(table), _least_lost(table))
    return tuple(highlight for highlight in found if highlight is not None)


def _against(table: Table) -> tuple[Row, ...]:
    return tuple(row for row in table.rows if row is not table.baseline)


def _smallest(table: Table) -> Highlight | None:
    sizes = {row.label: figure for row in _against(table) if isinstance(figure := row.figure("weight_bytes"), Size)}
    if not sizes:
        return None
    least = min(figure.value for figure in sizes.values())
    rows = tuple(label for label, figure in sizes.items() if figure.value == least)
    ratio = sizes[rows[0]].ratio
    detail = "no fp32 row to compare with" if ratio is None else f"{ratio_value(ratio, 3)} of fp32's weights"
    if ratio is not None and ratio >= 1:
        detail = f"{ratio_value(ratio, 3)} times fp32's weights, so no row is smaller"
    return Highlight(
        question="Smallest weights",
        rows=rows,
        figure=f"{significant(least / 1e6)} MB",
        detail=detail,
    )


def _fastest(table: Table) -> Highlight | None:
    times = [(row.label, figure) for row in _against(table) if isinstance(figure := row.figure("latency_s"), Latency)]
    compared = [(label, figure.ratio) for label, figure in times if figure.ratio is not None]
    if not compared:
        return None
    label, best = min(compared, key=lambda pair: pair[1].value)
    p50 = significant(dict(times)[label].p50 * 1e3)
    low, high = ratio_value(best.low, 3), ratio_value(best.high, 3)
    detail = f"{ratio_value(best.value, 3)} of fp32's time (95 % interval {low} to {high})"
    if no_difference(best):
        detail += ": no measurable difference"
    elif best.value > 1:
        detail += ": no row is faster than fp32"
    level = [other for other, ratio in compared if other != label and ratio.low <= best.high]
    if level:
        detail += f", not measurably apart from {listed(level)}"
    return Highlight(
        question="Fastest",
        rows=(label,),
        figure=f"{p50} ms a sentence at p50",
        detail=detail,
    )


def _least_lost(table: Table) -> Highlight | None:
    ratios = {
        row.label: figure.ratio
        for row in _against(table)
        if isinstance(figure := row.figure("perplexity"), Estimate) and figure.ratio is not None
    }
    ratios = {label: ratio for label, ratio in ratios.items() if math.isfinite(ratio.value)}
    if not ratios:
        return None
    level = tuple(label for label, ratio in ratios.items() if no_difference(ratio))
    label, best = min(ratios.items(), key=lambda pair: pair[1].value)
    worst_label, worst = max(ratios.items(), key=lambda pair: pair[1].value)
    most = "" if len(ratios) == 1 else f"; most lost by {worst_label}, {_interval_words(worst)}"
    if level:
        return Highlight(
            question="Least perplexity lost",
            rows=level,
            figure="no measurable difference",
            detail=f"the interval of the ratio to fp32 contains 1{most}",
        )
    return Highlight(
        question="Least perplexity lost",
        rows=(label,),
        figure=f"{ratio_value(best.value, 4)} of fp32's perplexity",
        detail=f"95 % interval {ratio_value(best.low, 4)} to {ratio_value(best.high, 4)}{most}",
    )


def _interval_words(ratio: Interval) -> str:
    value, low, high = (ratio_value(part, 4) for part in (ratio.value, ratio.low, ratio.high))
    return f"{value} ({low} to {high})"


def coverage(table: Table) -> str:
    """How many rows there are and how many were measured, and whether there is an fp32 row to compare with."""
    measured = sum(row.measured for row in table.rows)
    if not measured:
        return f"None of the {len(table.rows)} rows of {table.model} could be measured."
    first = f"{measured} of {len(table.rows)} rows of {table.model} were measured"
    baseline = table.baseline
    if baseline is None or not baseline.measured:
        return f"{first}; without a measured fp32 row there are no ratios."
    return f"{first} and compared with fp32."


def paragraph(table: Table) -> str:
    return " ".join([coverage(table), *(highlight.sentence for highlight in highlights(table))])


def gap_sentence(gap: Gap, table: Table) -> str:
    """One line that says what is missing where, and why.

    A row without any figure is named alone; a metric without any figure in the table likewise.
    """
    whole = {row.label for row in table.rows if not row.measured}
    titles = [COLUMN[metric].title.lower() for metric in gap.metrics]
    rows = listed(gap.rows)
    if len(gap.rows) > 1 and set(gap.rows) >= {row.label for row in table.rows} - whole:
        rows = "all rows" if len(gap.rows) == len(table.rows) else "every other row"
    what = "" if set(gap.rows) <= whole and gap.reason != "no record" else f", {listed(titles)}"
    return f"{rows}{what}: {gap.reason}"


def machine(table: Table) -> str:
    """Machine, threads, provider, runtimes and batch, in one line; several values of one thing are all named."""
    conditions = [record.conditions for record in table.records if record.skipped is None]
    parts = (
        _distinct(c.machine for c in conditions),
        _distinct(" ".join(c.isa) for c in conditions),
        _distinct(f"{c.cores} cores" for c in conditions if c.cores),
        _distinct(f"{c.threads} threads" for c in conditions if c.threads),
        _distinct(f"{c.provider} {c.device}".strip() for c in conditions),
        _distinct(c.runtime for c in conditions),
        _distinct(f"batch {c.batch}" for c in conditions),
    )
    return " · ".join(part for part in parts if part)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def runtimes(table: Table) -> str:
    """Which rows ran in which runtime."""
    rows: dict[str, dict[str, None]] = {}
    for record in table.records:
        if record.skipped is None and record.conditions.runtime:
            rows.setdefault(record.conditions.runtime, {})[record.row] = None
    if len(rows) == 1:
        return next(iter(rows))
    return "; ".join(f"{runtime} for {listed(names)}" for runtime, names in rows.items())


def text_of(table: Table, metric: str) -> str:
    """What a metric was measured on: text, how it was cut, how much of it, digest."""
    conditions = measured_conditions(table, metric)
    figures = [row.figure(metric) for row in table.rows]
    amount = ""
    for figure in figures:
        if isinstance(figure, Estimate):
            amount = f"{figure.sequences:,} sequences, {figure.tokens:,} scored tokens"
            break
        if isinstance(figure, Latency):
            rounds = len({number for _, _, number in figure.samples})
            amount = f"{len(figure.samples) // rounds:,} sentences, {rounds} rounds"
            break
    if conditions is None:
        return ""
    digest = f"token ids sha256 {conditions.text_sha256[:12]}" if conditions.text_sha256 else ""
    return ", ".join(part for part in (conditions.text, conditions.sequence, amount, digest) if part)


def conditions(table: Table) -> tuple[tuple[str, str], ...]:
    """The conditions of the run as (name, text) pairs, without empty ones."""
    measured = [record for record in table.records if record.skipped is None]
    versions = dict(sorted(pair for record in measured for pair in record.conditions.versions.items()))
    pairs = (
        ("Model", table.model),
        ("Machine", machine(table)),
        ("Runtime", runtimes(table)),
        *(
            (f"Text for {COLUMN[metric].title.lower()}", text_of(table, metric))
            for metric in ("latency_s", "perplexity", "sentence_perplexity")
        ),
        ("Engine", _distinct(record.engine for record in measured)),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
        ),
        ("qexport", _distinct(record.conditions.commit for record in measured)),
        ("Published figures", "; ".join(table.sources)),
    )
    return tuple((name, text) for name, text in pairs if text)


def settings(table: Table) -> tuple[tuple[str, str], ...]:
    """How each row was made, as (row, text) pairs: what was chosen, and what the machine decided."""
    found = {record.row: record.settings for record in table.records if record.settings}
    return tuple(
        (row, ", ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in values.items()))
        for row, values in found.items()
    )


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


DEFINITIONS: Sequence[tuple[str, str]] = (
    (
        "Perplexity",
        (
            "exp(Σ NLL / Σ tokens): the summed negative log-likelihood, in nats, over the number of scored tokens, "
            "over the same windows of text for every row. The interval is a 95 % percentile bootstrap over windows."
        ),
    ),
    (
        "Sentence perplexity",
        (
            "The mean over sentences of each sentence's own perplexity. Short and unlikely sentences dominate it, "
            "so it is another figure than perplexity, and the two are never compared."
        ),
    ),
    (
        "Ratio to fp32",
        (
            "Paired: perplexities over the same windows, resampled together; latencies as the median over pairs of the "
            "same sentence in the same round. An interval that contains 1 is no measurable difference."
        ),
    ),
    (
        "Latency per sentence",
        (
            "Wall-clock time of one forward pass over one sentence, warm-ups left out. p50 and p95 are percentiles over "
            "all sentences and rounds, so their distance holds the sentences' lengths too."
        ),
    ),
    (
        "On disk",
        "The sizes of all files of the artifact, tokenizer and configuration included.",
    ),
    (
        "Weights",
        (
            "The bytes of the weights as stored, scales and zero points included, tied weights counted once. "
            "Published memory figures stand beside this one."
        ),
    ),
    (
        "Loaded",
        (
            "The resident memory that loading the artifact adds to a process whose runtime is warm: the weights, what "
            "the kernels pack of them, and the graph."
        ),
    ),
    (
        "Peak memory",
        (
            "The highest resident memory of a fresh process that loads the artifact and runs a few sentences: "
            "interpreter and runtime are in it, so rows that need torch carry torch."
        ),
    ),
    (
        "Peak device memory",
        "The highest memory in use on the accelerator. Measured on CUDA only.",
    ),
    (
        "Units",
        "MB are 10⁶ bytes. Figures have four significant digits, published ones those they were published with.",
    ),
)
