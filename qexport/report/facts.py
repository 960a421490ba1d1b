"""Facts of a run in words: coverage, machines, texts, settings, answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from qexport.core import CATALOGUE, Measurement
from qexport.report.figures import Accuracy, Answer, Estimate, Figure, Latency, Repeated
from qexport.report.numbers import against, inside, listed
from qexport.report.table import COLUMN, MUST_AGREE, Gap, Row, Run, Table


def coverage(table: Table) -> str:
    """The number of rows, the number of measured rows, and the row that they are compared with."""
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
    """A notice for each model that is a stand-in."""
    models = dict.fromkeys(run.model for run in table.runs if run.stand_in)
    return tuple(
        f"{model} is a stand-in: the architecture with random weights. Time and memory count, quality says nothing; "
        "published figures are the real model's."
        for model in models
    )


def runs(table: Table) -> tuple[tuple[str, str], ...]:
    """The meaning of each run's mark, as (mark, text) pairs; empty for one run."""
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
    """The differences between the runs, in one sentence; empty for one run."""
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
    """True if a condition differs for any metric that several runs measured."""
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
    """The prompt, the expected answer, and the answer of each row, as pairs; empty without a session."""
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
    """The records of a row and these metrics that have the fact, in the order of the metrics."""
    own = {record.metric: record for record in table.run_of(row).records if record.row == row.name}
    return [own[metric] for metric in metrics if metric in own and fact in own[metric].facts]


def _answered(facts: Mapping[str, object]) -> str:
    right = facts["right"]
    verdict = f"{rightly(right)}: " if isinstance(right, Answer) else ""
    cut = " … (cut there: the model came to no end)" if facts.get("ended") == "no" else ""
    return f"{verdict}{facts['response']}{cut}"


def said(table: Table) -> tuple[tuple[str, str], ...]:
    """The warnings from sessions, as pairs of the rows and the text."""
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        for record in _telling(table, row, "warning_0", ("warning_count",)):
            for name, text in record.facts.items():
                if name.startswith("warning_"):
                    rows.setdefault(str(text), []).append(row.label)
    everyone = len(table.rows)
    return tuple(("all rows" if len(labels) == everyone > 1 else listed(labels), text) for text, labels in rows.items())


def task_notes(table: Table) -> tuple[str, ...]:
    """Notes on the scoring of tasks: a split other than the test split, or contexts that were cut."""
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
    """The values of a fact, each with its rows in words; the words are empty if all rows share the value."""
    rows: dict[object, list[str]] = {}
    for label, own in facts.items():
        if name in own:
            rows.setdefault(own[name], []).append(label)
    for value, labels in rows.items():
        yield value, "" if len(labels) == len(facts) else f" for {listed(labels)}"


def rightly(answer: Answer) -> str:
    return f"right in {answer.right} of {answer.rounds}"


def gap_sentence(gap: Gap, table: Table) -> str:
    """One line about missing figures: the rows, the metrics and the reason.

    A row without any figure is named alone, and so is a metric without any figure in the table.
    """
    whole = {row.label for row in table.rows if not row.measured}
    titles = [inside(COLUMN[metric]) for metric in gap.metrics]
    rows = listed(gap.rows)
    if len(gap.rows) > 1 and set(gap.rows) >= {row.label for row in table.rows} - whole:
        rows = "all rows" if len(gap.rows) == len(table.rows) else "every other row"
    what = "" if set(gap.rows) <= whole and gap.reason != "no record" else f", {listed(titles)}"
    return f"{rows}{what}: {gap.reason}"


def machine(table: Table) -> str:
    """Machine, threads, provider, runtimes and batch, in one line; if a condition has several values, all are named."""
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
    """The rows of each runtime."""
    rows: dict[str, dict[str, None]] = {}
    for record in table.records:
        if record.skipped is None and record.conditions.runtime:
            rows.setdefault(record.conditions.runtime, {})[record.row] = None
    if len(rows) == 1:
        return next(iter(rows))
    return "; ".join(f"{runtime} for {listed(names)}" for runtime, names in rows.items())


def text_of(table: Table, metric: str) -> str:
    """The input of a metric: text, form, amount, digest; for each run if they differ."""
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
"""The facts about the questions of a task, with their text forms."""


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
    """The conditions of the run as (name, text) pairs; empty ones are left out."""
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
    """The text of every metric that uses one, and the questions of tasks; metrics with the same text share an entry."""
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
    """The settings of each row, as (row, text) pairs: the user's choices, and the machine's."""
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
