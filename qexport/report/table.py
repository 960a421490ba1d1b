"""Records of one compare run -> the table, as plain data: every figure derived from raw samples, none formatted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qexport import stats
from qexport.errors import InputError, NotComparable, near_names
from qexport.record import Conditions, Measurement, Published
from qexport.stats import Interval

BASELINE_RECIPE = "fp32"
MUST_AGREE = ("machine", "isa", "threads", "provider", "device", "batch", "text_sha256")
"""The conditions under which a metric may be compared between rows. The runtime is not among them: bitsandbytes
rows live in torch, and the report says so."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A counted figure, in bytes: it has no spread."""

    value: float
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles over all samples, in seconds, and the paired ratio of samples of the same sentence and round."""

    p50: float
    p95: float
    samples: tuple[tuple[float, int, int], ...]
    """``(latency_s, tokens, round)`` as recorded."""
    ratio: Interval | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A perplexity with its 95 % bootstrap interval, and the paired ratio over the same sequences."""

    interval: Interval
    sequences: int
    tokens: int
    ratio: Interval | None


@dataclass(frozen=True)
class Skipped:
    """The metric was asked for and could not be had."""

    reason: str


@dataclass(frozen=True)
class NotMeasured:
    """No record at all."""


Figure = Size | Latency | Estimate | Skipped | NotMeasured


@dataclass(frozen=True, kw_only=True)
class Cell:
    figure: Figure
    published: Published | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    metric: str
    title: str
    unit: str
    per_unit: float
    """How much of the record's unit makes one shown unit: 1e6 bytes are one MB."""


COLUMNS = (
    Column(metric="disk_bytes", title="On disk", unit="MB", per_unit=1e6),
    Column(metric="weight_bytes", title="Weights", unit="MB", per_unit=1e6),
    Column(metric="loaded_rss_bytes", title="Loaded", unit="MB", per_unit=1e6),
    Column(metric="peak_rss_bytes", title="Peak memory", unit="MB", per_unit=1e6),
    Column(metric="peak_device_bytes", title="Peak device memory", unit="MB", per_unit=1e6),
    Column(metric="latency_s", title="Latency per sentence", unit="ms", per_unit=1e-3),
    Column(metric="perplexity", title="Perplexity", unit="", per_unit=1.0),
    Column(metric="sentence_perplexity", title="Sentence perplexity", unit="", per_unit=1.0),
)
COLUMN = {column.metric: column for column in COLUMNS}


@dataclass(frozen=True, kw_only=True)
class Row:
    label: str
    recipe: str
    selector: str
    engine: str
    cells: Mapping[str, Cell]
    """By metric; every metric of :data:`COLUMNS` has one."""

    def figure(self, metric: str) -> Figure:
        return self.cells[metric].figure

    @property
    def whole(self) -> bool:
        """Whether the recipe was asked to change the whole model, and not a part of it."""
        return self.selector in {"", "all", "--nodes all", "--nodes body"}

    @property
    def measured(self) -> bool:
        """Whether any metric of the row has a figure."""
        return any(not isinstance(cell.figure, Skipped | NotMeasured) for cell in self.cells.values())


@dataclass(frozen=True, kw_only=True)
class Table:
    model: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    """The columns in which at least one row has a figure."""
    records: tuple[Measurement, ...]

    @property
    def baseline(self) -> Row | None:
        """The row all ratios refer to, if it was in the run."""
        return next((row for row in self.rows if row.recipe == BASELINE_RECIPE), None)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where published figures come from."""
        return tuple(dict.fromkeys(record.published.source for record in self.records if record.published))


def build_table(records: Sequence[Measurement]) -> Table:
    """Derive the table of one compare run. Rows and their order are those of the records.

    Raises:
        InputError: there are no records, or one of an unknown metric.
        NotComparable: records of several models, two of the same row and metric, or of a metric under unlike conditions.
    """
    if not records:
        raise InputError("report: there are no records; run `qexport compare` first")
    by_row: dict[str, dict[str, Measurement]] = defaultdict(dict)
    for record in records:
        if record.metric not in COLUMN:
            raise InputError(f"report: unknown metric {record.metric!r}; {near_names(record.metric, COLUMN)}")
        if record.model != records[0].model:
            raise NotComparable(
                f"report: records of {records[0].model} and of {record.model}; report one model at a time"
            )
        if record.metric in by_row[record.row]:
            raise NotComparable(f"report: two records of {record.metric} for {record.row}; report one run at a time")
        by_row[record.row][record.metric] = record
    references = {column.metric: _reference(column.metric, by_row) for column in COLUMNS}
    rows = tuple(_row(label, metrics, references) for label, metrics in by_row.items())
    shown = {record.metric for record in records if record.skipped is None}
    return Table(
        model=records[0].model,
        rows=rows,
        columns=tuple(column for column in COLUMNS if column.metric in shown),
        records=tuple(records),
    )


def _reference(metric: str, by_row: Mapping[str, Mapping[str, Measurement]]) -> Measurement | None:
    """The measured fp32 record of a metric, after checking that every other row was measured under its conditions."""
    measured = [m[metric] for m in by_row.values() if metric in m and m[metric].skipped is None]
    if not measured:
        return None
    baseline = next((record for record in measured if record.recipe == BASELINE_RECIPE), None)
    reference = baseline or measured[0]
    for record in measured:
        _check_conditions(metric, record, reference)
    return baseline


def _check_conditions(metric: str, record: Measurement, reference: Measurement) -> None:
    for name in MUST_AGREE:
        ours, theirs = (
            getattr(record.conditions, name),
            getattr(reference.conditions, name),
        )
        if ours != theirs:
            raise NotComparable(
                f"{metric}: {name} differs, {_shown(ours)} for {record.row} and {_shown(theirs)} for {reference.row}; "
                "measure the rows in one run"
            )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    return str(value) or "none"


def _row(
    label: str,
    metrics: Mapping[str, Measurement],
    references: Mapping[str, Measurement | None],
) -> Row:
    first = next(iter(metrics.values()))
    cells = {column.metric: _cell(metrics.get(column.metric), references[column.metric]) for column in COLUMNS}
    return Row(
        label=label,
        recipe=first.recipe,
        selector=first.selector,
        engine=first.engine,
        cells=cells,
    )


def _cell(record: Measurement | None, reference: Measurement | None) -> Cell:
    if record is None:
        return Cell(figure=NotMeasured())
    if record.skipped is not None:
        return Cell(figure=Skipped(record.skipped), published=record.published)
    other = None if reference is None or reference.row == record.row else reference
    return Cell(
        figure=_FIGURE.get(record.metric, _size)(record, other),
        published=record.published,
    )


def _size(record: Measurement, reference: Measurement | None) -> Size:
    (value,) = _column(record, record.metric)[:1]
    return Size(
        value=value,
        ratio=None if reference is None else value / _column(reference, record.metric)[0],
    )


def _latency(record: Measurement, reference: Measurement | None) -> Latency:
    times, tokens, rounds = (_column(record, name) for name in ("latency_s", "tokens", "round"))
    ratio = None
    if reference is not None:
        ours, theirs = _by_sentence(record), _by_sentence(reference)
        if {key: n for key, (_, n) in ours.items()} != {key: n for key, (_, n) in theirs.items()}:
            raise _unlike_sequences(record, reference)
        ratio = stats.median_ratio([ours[key][0] for key in theirs], [time for time, _ in theirs.values()])
    return Latency(
        p50=stats.percentile(times, 50),
        p95=stats.percentile(times, 95),
        samples=tuple((t, int(n), int(r)) for t, n, r in zip(times, tokens, rounds, strict=True)),
        ratio=ratio,
    )


def _by_sentence(record: Measurement) -> dict[tuple[float, int], tuple[float, float]]:
    """``(round, position within it) -> (latency_s, tokens)``."""
    seen: Counter[float] = Counter()
    keyed = {}
    columns = (_column(record, name) for name in ("latency_s", "tokens", "round"))
    for time, tokens, number in zip(*columns, strict=True):
        keyed[number, seen[number]] = (time, tokens)
        seen[number] += 1
    return keyed


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


_Samples = NDArray[np.float64]


def _likelihoods(record: Measurement, reference: Measurement | None) -> tuple[_Samples, _Samples, _Samples | None]:
    """``nll_nats`` and ``tokens`` of each sequence, and the reference's ``nll_nats`` of the same sequences."""
    nll, tokens = _column(record, "nll_nats"), _column(record, "tokens")
    if reference is not None and tokens != _column(reference, "tokens"):
        raise _unlike_sequences(record, reference)
    base = None if reference is None else np.array(_column(reference, "nll_nats"))
    return np.array(nll), np.array(tokens), base


_FIGURE: dict[str, Callable[[Measurement, Measurement | None], Figure]] = {
    "latency_s": _latency,
    "perplexity": _corpus,
    "sentence_perplexity": _sentences,
}


def _column(record: Measurement, name: str) -> tuple[float, ...]:
    if name not in record.columns:
        raise InputError(f"{record.metric} of {record.row}: no column {name!r} in its samples, only {record.columns}")
    index = record.columns.index(name)
    return tuple(sample[index] for sample in record.samples)


def _unlike_sequences(record: Measurement, reference: Measurement) -> NotComparable:
    return NotComparable(
        f"{record.metric}: {record.row} and {reference.row} were not measured on the same sequences; "
        "measure the rows in one run"
    )


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Figures that are missing for one reason."""

    rows: tuple[str, ...]
    metrics: tuple[str, ...]
    reason: str


def gaps(table: Table) -> tuple[Gap, ...]:
    """Everything that was not measured, gathered by reason so that a reason is told once.

    Metrics that no record speaks of (peak device memory on a CPU run) come last, as ``no record``.
    """
    metrics_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in table.rows:
        for column in COLUMNS:
            figure = row.figure(column.metric)
            if isinstance(figure, Skipped):
                metrics_of[figure.reason, row.label].append(column.metric)
            elif isinstance(figure, NotMeasured):
                metrics_of["no record", row.label].append(column.metric)
    rows_of: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (reason, label), metrics in metrics_of.items():
        rows_of[reason, tuple(metrics)].append(label)
    found = [Gap(rows=tuple(rows), metrics=metrics, reason=reason) for (reason, metrics), rows in rows_of.items()]
    return tuple(sorted(found, key=lambda gap: gap.reason == "no record"))


def measured_conditions(table: Table, metric: str) -> Conditions | None:
    """The conditions of a metric, which all its rows share in what matters; None where nothing was measured."""
    return next(
        (r.conditions for r in table.records if r.metric == metric and r.skipped is None),
        None,
    )
