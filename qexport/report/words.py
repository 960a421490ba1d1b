"""Figures as text: 3 to 4 significant digits, units stated, and plain sentences derived from the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qexport.core import OTHERS, Interval
from qexport.report.facts import coverage
from qexport.report.figures import BUSY, Estimate, Figure, Latency, Repeated, Size, plain, unstable, wide
from qexport.report.numbers import inside, listed, no_difference, ratio_value, significant
from qexport.report.table import COLUMN, Column, Row, Run, Table

SKIPPED, NOT_MEASURED = "skipped", "not measured"


def unstable_note(figure: Figure) -> str:
    """The note for a figure whose rounds are too far apart; otherwise empty."""
    if not isinstance(figure, Latency | Repeated) or not unstable(figure):
        return ""
    return f"unstable: rounds differ by {figure.spread:.0%}".replace("%", " %")


def warnings(table: Table) -> tuple[str, ...]:
    """One line for each row with unstable figures: the metrics and the distance of their rounds."""
    lines = []
    for row in table.rows:
        notes = [
            f"{inside(column)} ({note.removeprefix('unstable: ')})"
            for column in table.columns
            if (note := unstable_note(row.figure(column.metric)))
        ]
        if notes:
            lines.append(f"{row.label}: unstable in {listed(notes)}")
    return tuple(lines)


UNSTABLE = (
    "Unstable: the quickest quarter of the rounds, or few rounds as a whole, lie more than 10 % apart. "
    "The machine's clock moved, or something that qexport does not see took its time; measure again before you rely on these figures."
)


def on_times(table: Table) -> str:
    """One sentence about the times of the whole table; empty if they are stable.

    A busy machine is reported here once, not at each figure.
    """
    busy = max((float(record.facts.get(OTHERS, 0.0)) for record in table.records), default=0.0)
    if busy > BUSY:
        wide_rows = sum(any(wide(row.figure(column.metric)) for column in table.columns) for row in table.rows)
        share = f"{busy:.0%}".replace("%", " %")
        return (
            f"The machine was busy: other processes took {share} of its processors while times were measured, and "
            f"{wide_rows} of {len(table.rows)} rows have times whose rounds lie more than 10 % apart. Measure again on a "
            "quiet machine before you rely on times."
        )
    return UNSTABLE if warnings(table) else ""


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """One answer of the table: the rows, the figure, and its comparison with the baseline."""

    question: str
    rows: tuple[str, ...]
    figure: str
    detail: str

    @property
    def sentence(self) -> str:
        return f"{self.question}: {listed(self.rows)}, {self.figure}; {self.detail}."


def highlights(table: Table) -> tuple[Highlight, ...]:
    """The smallest, the fastest and the least perplexity lost of each run, in that order, if available."""
    found = (answer(run) for run in table.runs for answer in (_smallest, _fastest, _least_lost))
    return tuple(highlight for highlight in found if highlight is not None)


def _question(words: str, run: Run) -> str:
    return f"{words}, {run.mark}" if run.mark else words


def _smallest(run: Run) -> Highlight | None:
    sizes = {row.label: figure for row in run.others if isinstance(figure := row.figure("weight_bytes"), Size)}
    if not sizes:
        return None
    least = min(figure.value for figure in sizes.values())
    rows = tuple(label for label, figure in sizes.items() if figure.value == least)
    ratio = sizes[rows[0]].ratio
    if ratio is None or run.baseline is None:
        detail = "no baseline to compare with"
    elif ratio >= 1:
        detail = f"{ratio_value(ratio, 3)} times {run.baseline.name}'s weights, so no row is smaller"
    else:
        detail = f"{ratio_value(ratio, 3)} of {run.baseline.name}'s weights"
    return Highlight(
        question=_question("Smallest weights", run),
        rows=rows,
        figure=f"{significant(least / 1e6)} MB",
        detail=detail,
    )


_SPEEDS = {
    "token_latency_s": "ms a token at p50",
    "latency_s": "ms a sentence at p50",
    "tokens_per_s": "tokens per second",
}
"""The metrics for "fastest", of which the first with ratios is used, and the texts of their figures."""


def _fastest(run: Run) -> Highlight | None:
    for metric, reads in _SPEEDS.items():
        compared = [
            (row, ratio)
            for row in run.others
            if isinstance(figure := row.figure(metric), Latency | Repeated) and (ratio := figure.ratio) is not None
        ]
        if compared and run.baseline is not None:
            return _fastest_by(COLUMN[metric], reads, compared, run.baseline.name, run)
    return None


def _fastest_by(column: Column, reads: str, compared: Sequence[tuple[Row, Interval]], base: str, run: Run) -> Highlight:
    higher = column.higher_is_better
    row, best = (max if higher else min)(compared, key=lambda pair: pair[1].value)
    shown = significant((plain(row.figure(column.metric)) or 0.0) / column.per_unit)
    low, high = ratio_value(best.low, 3), ratio_value(best.high, 3)
    spread = f"over rounds {low} to {high}" if column.form == "rounds" else f"95 % interval {low} to {high}"
    detail = f"{ratio_value(best.value, 3)} of {base}'s {'rate' if higher else 'time'} ({spread})"
    if no_difference(best):
        detail += ": no measurable difference"
    elif (best.value < 1) if higher else (best.value > 1):
        detail += f": no row is faster than {base}"
    level = [
        other.label
        for other, ratio in compared
        if other is not row and (ratio.high >= best.low if higher else ratio.low <= best.high)
    ]
    if level:
        detail += f", not measurably apart from {listed(level)}"
    if unstable(row.figure(column.metric)):
        detail += "; unstable"
    return Highlight(
        question=_question("Fastest", run),
        rows=(row.label,),
        figure=f"{shown} {reads}",
        detail=detail,
    )


def _least_lost(run: Run) -> Highlight | None:
    ratios = {
        row.label: figure.ratio
        for row in run.others
        if isinstance(figure := row.figure("perplexity"), Estimate) and figure.ratio is not None
    }
    ratios = {label: ratio for label, ratio in ratios.items() if math.isfinite(ratio.value)}
    if not ratios or run.baseline is None or run.stand_in:
        return None
    base = run.baseline.name
    level = tuple(label for label, ratio in ratios.items() if no_difference(ratio))
    label, best = min(ratios.items(), key=lambda pair: pair[1].value)
    worst_label, worst = max(ratios.items(), key=lambda pair: pair[1].value)
    most = "" if len(ratios) == 1 else f"; most lost by {worst_label}, {_interval_words(worst)}"
    if level:
        return Highlight(
            question=_question("Least perplexity lost", run),
            rows=level,
            figure="no measurable difference",
            detail=f"the interval of the ratio to {base} contains 1{most}",
        )
    return Highlight(
        question=_question("Least perplexity lost", run),
        rows=(label,),
        figure=f"{ratio_value(best.value, 4)} of {base}'s perplexity",
        detail=f"95 % interval {ratio_value(best.low, 4)} to {ratio_value(best.high, 4)}{most}",
    )


def _interval_words(ratio: Interval) -> str:
    value, low, high = (ratio_value(part, 4) for part in (ratio.value, ratio.low, ratio.high))
    return f"{value} ({low} to {high})"


def definitions(table: Table) -> tuple[tuple[str, str], ...]:
    """The meaning of each shown figure, then of ratios and units, as (name, text) pairs."""
    of_tasks = _OF_TASKS if any(column.form == "accuracy" for column in table.columns) else ()
    return (*((column.title, column.meaning) for column in table.columns), *of_tasks, *_ALWAYS)


_OF_TASKS = (
    (
        "Accuracy",
        "The part of a task's questions answered rightly, with a 95 % percentile bootstrap interval over questions.",
    ),
    (
        "p",
        (
            "McNemar's exact test, two-sided: lost are the questions that changed from right in the baseline to wrong, gained "
            "those that changed the other way; p is the chance of a split at least as uneven if the row were neither better "
            "nor worse."
        ),
    ),
)


_ALWAYS = (
    (
        "Ratio",
        (
            "To the baseline of the same run, paired: perplexities over the same windows, and accuracies over the same "
            "questions, resampled together; latencies "
            "as the median over pairs of the same sequence in the same round, with a 95 % interval; what is measured "
            "once a round, round by round, with the 95 % interval of the median over rounds, below nine rounds their range. One "
            "that contains 1 is no measurable difference."
        ),
    ),
    (
        "Units",
        (
            "MB are 10⁶ bytes. Figures have four significant digits, accuracies three decimals, published ones the digits "
            "they were published with."
        ),
    ),
)


def paragraph(table: Table) -> str:
    return " ".join([coverage(table), *(highlight.sentence for highlight in highlights(table))])
