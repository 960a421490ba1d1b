"""Figures as text: 3 to 4 significant digits, units stated, and the plain sentences derived from the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qexport.catalogue import CATALOGUE
from qexport.record import OTHERS, Measurement, Published
from qexport.report.figures import (
    BUSY,
    Accuracy,
    Answer,
    Estimate,
    Figure,
    Latency,
    Repeated,
    Size,
    plain,
    unstable,
    wide,
)
from qexport.report.table import COLUMN, MUST_AGREE, Column, Gap, Row, Run, Table
from qexport.stats import Interval, McNemar

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


def accuracy(value: float) -> str:
    """A part of questions with three decimals."""
    return f"{value:.3f}"


def chance(mcnemar: McNemar) -> str:
    """The p of McNemar's test with two digits.

    >>> chance(McNemar(lost=10, gained=2, p=0.03857421875)), chance(McNemar(lost=30, gained=2, p=2.5e-7))
    ('0.039', '< 0.001')
    """
    return "< 0.001" if mcnemar.p < 0.001 else significant(mcnemar.p, 2)


def changed(mcnemar: McNemar) -> str:
    """McNemar's test and what it rests on: ``p 0.039 (10 lost, 2 gained)``."""
    return f"p {chance(mcnemar)} ({mcnemar.lost:,} lost, {mcnemar.gained:,} gained)"


def exactly(value: float) -> str:
    """A published number as it was published: no digit added, none taken."""
    return f"{value:.10g}"


def published(figure: Published, column: Column) -> str:
    """As it was published where that was with a unit of its own, else in the column's unit."""
    return figure.text or exactly(figure.value / column.per_unit)


def published_with_unit(figure: Published, column: Column) -> str:
    return figure.text or f"{published(figure, column)} {column.unit}".strip()


def ratio_digits(column: Column) -> int:
    """Decimals of a ratio: INT8 costs perplexity in the third one."""
    return 4 if column.form in {"corpus", "sentences"} else 3


def ratio_value(value: float, decimals: int) -> str:
    """A ratio with fixed decimals, so that a column of them lines up, or with four digits once it is large."""
    return f"{value:.{decimals}f}" if abs(value) < 10 else significant(value)  # "not finite" is said there too


def ratio_with_interval(ratio: Interval, column: Column) -> str:
    value, low, high = (ratio_value(part, ratio_digits(column)) for part in (ratio.value, ratio.low, ratio.high))
    return f"{value}×" if ratio.low == ratio.high else f"{value}× ({low} to {high})"


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


def unstable_note(figure: Figure) -> str:
    """What to say beside a figure whose rounds lie too far apart; else nothing."""
    if not isinstance(figure, Latency | Repeated) or not unstable(figure):
        return ""
    return f"unstable: rounds differ by {figure.spread:.0%}".replace("%", " %")


def inside(column: Column) -> str:
    """A column's title inside a sentence; those of tasks are names."""
    return column.title if column.group == "tasks" else column.title.lower()


def warnings(table: Table) -> tuple[str, ...]:
    """One line for each row that has unstable figures, with the metrics and how far their rounds lie apart."""
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
    """One sentence about the times of the whole table; empty where they are stable.

    A busy machine is said once here, instead of beside each figure.
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


def against(table: Table) -> str:
    """What ratios are to: ``fp32``, or in words where runs have unlike baselines."""
    names = tuple(dict.fromkeys(row.name for row in table.baselines))
    return names[0] if len(names) == 1 else "the run's baseline"


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """One answer of the table: who, how much, and what that is against the baseline."""

    question: str
    rows: tuple[str, ...]
    figure: str
    detail: str

    @property
    def sentence(self) -> str:
        return f"{self.question}: {listed(self.rows)}, {self.figure}; {self.detail}."


def highlights(table: Table) -> tuple[Highlight, ...]:
    """Smallest, fastest, least perplexity lost: what can be said of each run, in that order."""
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
"""What "fastest" is decided by, the first that has ratios, and how its figure reads."""


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


def coverage(table: Table) -> str:
    """How many rows there are and how many were measured, and which row they are compared with."""
    measured = sum(row.measured for row in table.rows)
    models = listed(table.models)
    if not measured:
        return f"None of the {len(table.rows)} rows of {models} could be measured."
    first = f"{measured} of {len(table.rows)} rows of {models} were measured"
    if len(table.runs) > 1:
        return f"{first} in {len(table.runs)} runs; rows are compared with the baseline of their own run only."
    if not table.baselines:
        return f"{first}; without a measured fp32 row, or another in floating point, there are no ratios."
    return f"{first} and compared with {against(table)}."


def stand_ins(table: Table) -> tuple[str, ...]:
    """What must be said of each model that is a stand-in."""
    models = dict.fromkeys(run.model for run in table.runs if run.stand_in)
    return tuple(
        f"{model} is a stand-in: the architecture with random weights. Time and memory count, quality says nothing; "
        "published figures are the real model's."
        for model in models
    )


def paragraph(table: Table) -> str:
    return " ".join([coverage(table), *(highlight.sentence for highlight in highlights(table))])


def runs(table: Table) -> tuple[tuple[str, str], ...]:
    """What the mark of each run stands for, as (mark, text) pairs; nothing where there is one run."""
    return tuple((run.mark, _run(run)) for run in table.runs if run.mark)


def _run(run: Run) -> str:
    measured = [record for record in run.records if record.skipped is None]
    conditions = [record.conditions for record in measured]
    fed = [record.conditions.text_sha256 for record in measured if CATALOGUE[record.metric].form != "accuracy"]
    digests = dict.fromkeys(digest[:8] for digest in fed if digest)
    parts = (
        run.name,
        run.model,
        _distinct(c.machine for c in conditions),
        _distinct(f"{c.provider} {c.device}".strip() for c in conditions),
        _distinct(f"{c.threads} threads" for c in conditions if c.threads),
        _distinct(c.runtime for c in conditions),
        f"token ids sha256 {', '.join(digests)}" if digests else "",
    )
    return " · ".join(part for part in parts if part)


def differences(table: Table) -> str:
    """In what the runs differ, in one sentence; empty where there is one run."""
    if len(table.runs) < 2:
        return ""
    names = {"text_sha256": "text", "isa": "instruction set"}
    found = [names.get(name, name) for name in (*MUST_AGREE, "runtime") if _differs(table, name)]
    models = {(run.model, run.stand_in) for run in table.runs}
    found = ["model", *found] if len(models) > 1 else found
    if not found:
        return "The runs agree in model, machine and text; they were made at different times, and ratios stay within a run."
    return f"The runs differ in {listed(found)}. Ratios stay within a run."


def _differs(table: Table, name: str) -> bool:
    """Whether a condition of any metric that several runs measured is unlike."""
    by_metric: dict[str, set[frozenset[object]]] = {}
    for run in table.runs:
        values: dict[str, set[object]] = {}
        for record in run.records:
            if record.skipped is None:
                values.setdefault(record.metric, set()).add(getattr(record.conditions, name))
        for metric, own in values.items():
            by_metric.setdefault(metric, set()).add(frozenset(own))
    return any(len(distinct) > 1 for distinct in by_metric.values())


def answers(table: Table) -> tuple[tuple[str, str], ...]:
    """The prompt, what was expected, and what each row answered, as pairs; nothing where nobody was asked."""
    found = {
        row.label: records[0].facts | {"right": row.figure("response_correct")}
        for row in table.rows
        if (records := _telling(table, row, "response", ("response_correct", "response_tokens")))
    }
    asked = {
        title: dict.fromkeys(str(facts[name]) for facts in found.values() if facts.get(name))
        for title, name in (("Prompt", "prompt"), ("Expected", "expected"))
    }
    return (
        *((title, text) for title, texts in asked.items() for text in texts),
        *((label, _answered(facts)) for label, facts in found.items()),
    )


def _telling(table: Table, row: Row, fact: str, metrics: Sequence[str]) -> list[Measurement]:
    """The measured records of a row and of these metrics that have a fact, in the order of the metrics."""
    own = {record.metric: record for record in table.run_of(row).records if record.row == row.name}
    return [own[metric] for metric in metrics if metric in own and fact in own[metric].facts]


def _answered(facts: Mapping[str, object]) -> str:
    right = facts["right"]
    verdict = f"{rightly(right)}: " if isinstance(right, Answer) else ""
    cut = " … (cut there: the model came to no end)" if facts.get("ended") == "no" else ""
    return f"{verdict}{facts['response']}{cut}"


def said(table: Table) -> tuple[tuple[str, str], ...]:
    """The warnings that were given during sessions, as pairs of the rows and the text."""
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        for record in _telling(table, row, "warning_0", ("warning_count",)):
            for name, text in record.facts.items():
                if name.startswith("warning_"):
                    rows.setdefault(str(text), []).append(row.label)
    everyone = len(table.rows)
    return tuple(("all rows" if len(labels) == everyone > 1 else listed(labels), text) for text, labels in rows.items())


def task_notes(table: Table) -> tuple[str, ...]:
    """What must be known of how tasks were scored: on another split than the test split, or with contexts cut."""
    splits: dict[tuple[object, str], list[str]] = {}
    cuts = []
    for task, facts in _task_facts(table).items():
        for split, whom in _by_value(facts, "split"):
            if split and split != "test":  # a local file may name none
                splits.setdefault((split, whom), []).append(task)
        for cut, whom in _by_value(facts, "truncated"):
            if cut:
                contexts = "1 context" if cut == 1 else f"{cut} contexts"
                verb = "was" if cut == 1 else "were"
                cuts.append(f"{contexts} of {task} {verb} cut from the left{whom}: longer than the model's context.")
    scored = (
        f"{listed(tasks)} {'was' if len(tasks) == 1 else 'were'} scored on {'its' if len(tasks) == 1 else 'their'} "
        f"{split} split{whom}."
        for (split, whom), tasks in splits.items()
    )
    return (*scored, *cuts)


def _task_facts(table: Table) -> dict[str, dict[str, Mapping[str, object]]]:
    """The facts of each measured task, by row."""
    found: dict[str, dict[str, Mapping[str, object]]] = {}
    for row in table.rows:
        for record in table.run_of(row).records:
            if record.row == row.name and record.skipped is None and CATALOGUE[record.metric].form == "accuracy":
                task = CATALOGUE[record.metric].title.partition(",")[0]
                found.setdefault(task, {})[row.label] = record.facts
    return found


def _by_value(facts: Mapping[str, Mapping[str, object]], name: str) -> Iterable[tuple[object, str]]:
    """The values of a fact, each with the rows that have it: in words, and empty where all rows have the same."""
    rows: dict[object, list[str]] = {}
    for label, own in facts.items():
        if name in own:
            rows.setdefault(own[name], []).append(label)
    for value, labels in rows.items():
        yield value, "" if len(labels) == len(facts) else f" for {listed(labels)}"


def rightly(answer: Answer) -> str:
    return f"right in {answer.right} of {answer.rounds}"


def gap_sentence(gap: Gap, table: Table) -> str:
    """One line that says what is missing where, and why.

    A row without any figure is named alone; a metric without any figure in the table likewise.
    """
    whole = {row.label for row in table.rows if not row.measured}
    titles = [inside(COLUMN[metric]) for metric in gap.metrics]
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
        _distinct(f"batch {c.batch}" if c.batch else "" for c in conditions),
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
    """What a metric was measured on: text, how it was cut, how much of it, digest; for each run where they differ."""
    texts = [text for run in table.runs if (text := _text_of(run, metric))]
    return "; ".join(dict.fromkeys(texts))


def _text_of(run: Run, metric: str) -> str:
    record = next((r for r in run.records if r.metric == metric and r.skipped is None), None)
    if record is None:
        return ""
    conditions = record.conditions
    amount = next((amount for row in run.rows if (amount := _amount(row.figure(metric)))), "")
    what = "questions and prompts" if COLUMN[metric].form == "accuracy" else "token ids"
    digest = f"{what} sha256 {conditions.text_sha256[:12]}" if conditions.text_sha256 else ""
    asked = [form.format(record.facts[name]) for name, form in _ASKED.items() if record.facts.get(name, "") != ""]
    return ", ".join(part for part in (conditions.text, conditions.sequence, amount, *asked, digest) if part)


_ASKED = {"split": "{} split", "num_fewshot": "{}-shot", "task_version": "task version {}"}
"""The facts that say how a task's questions were put, and how they read."""


def _amount(figure: Figure) -> str:
    match figure:
        case Estimate(sequences=sequences, tokens=tokens):
            return f"{sequences:,} sequences, {tokens:,} scored tokens"
        case Accuracy(questions=questions):
            return f"{questions:,} questions"
        case Latency(samples=samples):
            rounds = len({number for _, _, number in samples})
            return f"{len(samples) // rounds:,} sequences, {rounds} rounds"
        case Repeated(rounds=rounds):
            return f"{rounds} rounds"
        case _:
            return ""


def conditions(table: Table) -> tuple[tuple[str, str], ...]:
    """The conditions of the run as (name, text) pairs, without empty ones."""
    measured = [record for record in table.records if record.skipped is None]
    pairs = (
        ("Model", listed(run.model for run in _first_of_model(table))),
        ("Machine", machine(table)),
        ("Runtime", runtimes(table)),
        *_texts(table),
        ("Engine", _distinct(record.engine for record in measured)),
        ("Versions", _versions(measured)),
        ("qexport", _distinct(record.conditions.commit for record in measured)),
        ("Published figures", "; ".join(table.sources)),
    )
    return tuple((name, text) for name, text in pairs if text)


def _first_of_model(table: Table) -> Iterable[Run]:
    return {(run.model, run.stand_in): run for run in reversed(table.runs)}.values()


def _texts(table: Table) -> tuple[tuple[str, str], ...]:
    """The text of every metric that was fed one, and the questions of tasks; metrics with the same are named together."""
    metrics: dict[tuple[str, str], list[str]] = {}
    for column in table.columns:
        fed = (r.conditions for r in table.records if r.metric == column.metric and r.skipped is None)
        if any(conditions.text or conditions.text_sha256 for conditions in fed):
            kind = "Questions of" if column.form == "accuracy" else "Text for"
            metrics.setdefault((kind, text_of(table, column.metric)), []).append(inside(column))
    return tuple((f"{kind} {listed(titles)}", text) for (kind, text), titles in metrics.items())


def _versions(measured: Sequence[Measurement]) -> str:
    versions: dict[str, dict[str, None]] = {}
    for record in measured:
        for name, version in record.conditions.versions.items():
            versions.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(found)}" for name, found in sorted(versions.items()))


def settings(table: Table) -> tuple[tuple[str, str], ...]:
    """How each row was made, as (row, text) pairs: what was chosen, and what the machine decided."""
    found = {
        f"{record.row} · {run.mark}" if run.mark else record.row: record.settings
        for run in table.runs
        for record in run.records
        if record.settings
    }
    return tuple(
        (row, ", ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in values.items()))
        for row, values in found.items()
    )


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def definitions(table: Table) -> tuple[tuple[str, str], ...]:
    """What each shown figure means, then what ratios and units are, as (name, text) pairs."""
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
