"""Builds the table, as plain data, from records of one or several compare runs. Figures are derived, not formatted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from qexport.core import (
    CATALOGUE,
    GROUPS,
    Form,
    Group,
    InputError,
    Measurement,
    Metric,
    NotComparable,
    Published,
    require_known,
)
from qexport.quantization import RECIPES
from qexport.report.figures import Figure, NotMeasured, Skipped, derive

MUST_AGREE = ("machine", "isa", "threads", "provider", "device", "batch", "text_sha256")
"""The conditions that must agree for rows to be compared on a metric. The runtime is not among them: bitsandbytes rows
run in torch, and the report says so."""


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
    """The number of record units in one shown unit: 1e6 bytes are one MB."""
    group: Group
    form: Form
    higher_is_better: bool
    meaning: str

    @property
    def heading(self) -> str:
        return f"{self.title}, {self.unit}" if self.unit else self.title


def _shown_column(metric: Metric) -> Column:
    unit, per_unit = str(metric.unit), 1.0
    if metric.unit == "bytes":
        unit, per_unit = "MB", 1e6
    elif metric.form == "latency":
        unit, per_unit = "ms", 1e-3
    return Column(
        metric=metric.name,
        title=metric.title,
        unit=unit,
        per_unit=per_unit,
        group=metric.group,
        form=metric.form,
        higher_is_better=metric.better == "higher",
        meaning=metric.meaning,
    )


COLUMNS = tuple(_shown_column(metric) for metric in CATALOGUE.values())
COLUMN = {column.metric: column for column in COLUMNS}


@dataclass(frozen=True, kw_only=True)
class Row:
    label: str
    """The row's name, and the mark of its run if the table has several."""
    name: str
    run: str
    """The mark of the row's run; empty if the table has one run."""
    recipe: str
    selector: str
    engine: str
    stand_in: bool
    cells: Mapping[str, Cell]
    """By metric; every metric of :data:`COLUMNS` has one."""

    def figure(self, metric: str) -> Figure:
        return self.cells[metric].figure

    @property
    def whole(self) -> bool:
        """True if the recipe was requested for the whole model, not for a part."""
        return self.selector in {"", "all", "--nodes all", "--nodes body"}

    @property
    def measured(self) -> bool:
        """True if any metric of the row has a figure."""
        return any(not isinstance(cell.figure, Skipped | NotMeasured) for cell in self.cells.values())

    @property
    def family(self) -> str:
        """The recipe's family; ``other`` for a recipe of another release."""
        known = RECIPES.get(self.recipe)
        return "other" if known is None else known.family


@dataclass(frozen=True, kw_only=True)
class Run:
    """The rows of one comparison; ratios exist only within a run."""

    mark: str
    """A letter if the table has several runs, otherwise empty."""
    name: str
    model: str
    stand_in: bool
    rows: tuple[Row, ...]
    baseline: Row | None
    """The row that all ratios of the run refer to."""
    records: tuple[Measurement, ...]

    @property
    def others(self) -> tuple[Row, ...]:
        """Rows other than the baseline."""
        return tuple(row for row in self.rows if row is not self.baseline)


@dataclass(frozen=True, kw_only=True)
class Table:
    runs: tuple[Run, ...]
    columns: tuple[Column, ...]
    """The columns that have a figure in at least one row."""
    records: tuple[Measurement, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for run in self.runs for row in run.rows)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.model for run in self.runs))

    @property
    def baselines(self) -> tuple[Row, ...]:
        """The baseline row of each run that has one."""
        return tuple(run.baseline for run in self.runs if run.baseline is not None)

    def run_of(self, row: Row) -> Run:
        """The run that a row belongs to."""
        return next(run for run in self.runs if run.mark == row.run)

    @property
    def groups(self) -> tuple[tuple[Group, tuple[Column, ...]], ...]:
        """The shown columns by group; empty groups are left out."""
        grouped = ((group, tuple(c for c in self.columns if c.group == group)) for group in GROUPS)
        return tuple((group, columns) for group, columns in grouped if columns)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of the published figures."""
        return tuple(dict.fromkeys(record.published.source for record in self.records if record.published))


def build_table(records: Sequence[Measurement]) -> Table:
    """Derive the table of one or several compare runs. Runs and rows keep the order of the records.

    Raises:
        InputError: the records are empty, or one has an unknown metric.
        NotComparable: within a run, the records are of several models, two are of the same row and metric, or those of
            a metric have different conditions.
    """
    if not records:
        raise InputError("report: there are no records; run `qexport compare` first")
    require_known(record.metric for record in records)
    of_run: dict[str, list[Measurement]] = defaultdict(list)
    for record in records:
        of_run[record.run].append(record)
    marks = _marks() if len(of_run) > 1 else iter([""])
    shown = {record.metric for record in records if record.skipped is None}
    return Table(
        runs=tuple(_run(name, mark, own) for (name, own), mark in zip(of_run.items(), marks, strict=False)),
        columns=tuple(column for column in COLUMNS if column.metric in shown),
        records=tuple(records),
    )


def _marks() -> Iterator[str]:
    """A to Z, then A1 to Z1 and so on."""
    number = 0
    while True:
        yield from (f"{letter}{number or ''}" for letter in ascii_uppercase)
        number += 1


def _run(name: str, mark: str, records: Sequence[Measurement]) -> Run:
    first = records[0]
    by_row: dict[str, dict[str, Measurement]] = defaultdict(dict)
    for record in records:
        if record.model != first.model:
            raise NotComparable(f"report: records of {first.model} and of {record.model} in one run; report them apart")
        if record.stand_in != first.stand_in:
            raise NotComparable(f"report: records of {first.model} and of its stand-in in one run; report them apart")
        if record.metric in by_row[record.row]:
            raise NotComparable(f"report: two records of {record.metric} for {record.row}; report one run at a time")
        by_row[record.row][record.metric] = record
    baseline = _baseline(by_row)
    references = {column.metric: _reference(column.metric, by_row, baseline) for column in COLUMNS}
    rows = tuple(_row(label, mark, metrics, references) for label, metrics in by_row.items())
    return Run(
        mark=mark,
        name=name,
        model=first.model,
        stand_in=first.stand_in,
        rows=rows,
        baseline=next((row for row in rows if row.name == baseline), None),
        records=tuple(records),
    )


def _baseline(by_row: Mapping[str, Mapping[str, Measurement]]) -> str | None:
    """The name of the row that the ratios refer to."""
    for name, metrics in by_row.items():
        records = metrics.values()
        known = RECIPES.get(next(iter(records)).recipe)
        if known is not None and known.is_float and any(record.skipped is None for record in records):
            return name
    return None


def _reference(
    metric: str, by_row: Mapping[str, Mapping[str, Measurement]], baseline: str | None
) -> Measurement | None:
    """The baseline's record of a metric. Checks first that every other row was measured under the same conditions."""
    measured = {name: m[metric] for name, m in by_row.items() if metric in m and m[metric].skipped is None}
    if not measured:
        return None
    base = None if baseline is None else measured.get(baseline)
    for record in measured.values():
        _check_conditions(metric, record, base or next(iter(measured.values())))
    return base


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
    name: str,
    mark: str,
    metrics: Mapping[str, Measurement],
    references: Mapping[str, Measurement | None],
) -> Row:
    first = next(iter(metrics.values()))
    return Row(
        label=f"{name} · {mark}" if mark else name,
        name=name,
        run=mark,
        recipe=first.recipe,
        selector=first.selector,
        engine=first.engine,
        stand_in=first.stand_in,
        cells={column.metric: _cell(metrics.get(column.metric), references[column.metric]) for column in COLUMNS},
    )


def _cell(record: Measurement | None, reference: Measurement | None) -> Cell:
    if record is None:
        return Cell(figure=NotMeasured())
    other = None if reference is None or reference.row == record.row else reference
    return Cell(figure=derive(record, other), published=record.published)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The missing figures that share one reason."""

    rows: tuple[str, ...]
    metrics: tuple[str, ...]
    reason: str


def gaps(table: Table) -> tuple[Gap, ...]:
    """All requested figures that were not measured, grouped by reason so that each reason appears once.

    The last group is ``no record``: metrics that the run's other rows have and a row lacks. A metric without any record
    in the run was not requested.
    """
    metrics_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in table.runs:
        asked = {record.metric for record in run.records}
        for row in run.rows:
            for column in (column for column in COLUMNS if column.metric in asked):
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
