"""The verb ``gate``: artifacts against their budgets and a stored baseline, each with a verdict that noise does not decide.

Whatever is missing, altered, skipped or measured on something else fails: a gate that cannot tell is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qexport import measure
from qexport.baseline import Baseline, StoredRow, read_baseline, stored_samples, structure_of, write_baseline
from qexport.conditions import here
from qexport.errors import InputError, UnsupportedHere
from qexport.gating.bench import Bench, GateOptions
from qexport.gating.judge import Judge
from qexport.inputs.budgets import SIZES, SPEEDS, GatePlan
from qexport.recipes import recipe
from qexport.verdict import GateReport


def gate(paths: Sequence[Path], baseline: Path, plan: GatePlan, options: GateOptions) -> GateReport:
    """Measure artifacts and hold them to their budgets.

    Args:
        paths: the artifacts' folders, whose names are those of the baseline's rows; fp32 among them where it divides.
        baseline: the file.
        plan: budgets, and what is measured.
        options: see :class:`qexport.gating.bench.GateOptions`.

    Returns:
        A verdict for each artifact, and for each row of the baseline that has none.

    Raises:
        InputError: no baseline, a budget for a recipe that does not exist, or artifacts that cannot stand side by side.
        UnsupportedHere: the provider is not there.
    """
    _require_recipes(plan)
    stored = read_baseline(baseline)
    measure.require_provider(options.provider)
    bench = Bench(paths, plan, options)
    if bench.model and bench.model != stored.model:
        raise InputError(
            f"{baseline}: is of {stored.model}, and the artifacts are of {bench.model}; name the baseline of {bench.model}"
        )
    _require_rows(plan, bench, stored)
    judge = Judge(bench, stored, plan)
    wanted, look = judge.wanted(), 0
    while wanted:
        bench.take(wanted, look)
        look += 1
        wanted = judge.undecided() if options.add_windows and bench.has_more(look) else {}
    missing = [name for name in stored.rows if name not in bench.names]
    return GateReport(
        model=stored.model,
        baseline=str(baseline),
        rows=tuple(judge.row(name) for name in (*bench.names, *missing)),
        notes=tuple(judge.notes()),
    )


def update(
    paths: Sequence[Path], baseline: Path, plan: GatePlan, options: GateOptions
) -> tuple[Baseline, Baseline | None]:
    """Measure artifacts on all of the text, and write what they are as the baseline.

    Returns:
        The baseline, and the one before; None where there was none that could be read.

    Raises:
        InputError: as :func:`gate`, or an artifact that is altered or fed other tokens than the first; nothing is written.
        UnsupportedHere: an artifact that cannot be measured here; nothing is written.
    """
    _require_recipes(plan)
    measure.require_provider(options.provider)
    bench = Bench(paths, plan.model_copy(update={"windows": None, "sentences": None}), options)
    for name, reason in bench.problems.items():
        raise InputError(f"{name}: {reason}; nothing was written")
    metrics = [metric for metric in plan.metrics if metric not in SPEEDS]
    bench.take(dict.fromkeys(metrics, bench.names))
    for (name, metric), record in bench.records.items():
        if record.skipped is not None:
            raise UnsupportedHere(f"{name}: {metric} was not measured, so nothing was written: {record.skipped}")
    fed = {
        name: {metric: bench.feed(name, metric) for metric in metrics if metric not in SIZES} for name in bench.names
    }
    first = bench.names[0]
    other = next((name for name in bench.names if fed[name] != fed[first]), None)
    if other is not None:
        raise InputError(
            f"{other}: is fed other tokens than {first}, its tokenizer is another one; nothing was written"
        )
    try:
        before = read_baseline(baseline)
    except InputError:  # none, or of another format: it is what the new one replaces
        before = None
    conditions = here()
    made = Baseline(
        schema=1,
        model=bench.model,
        machine=conditions.machine,
        isa=conditions.isa,
        feeds=fed[first],
        rows={
            name: StoredRow(
                structure=structure_of(bench.artifacts[name]),
                ran=bench.ran(name),
                samples={metric: stored_samples(bench.records[name, metric]) for metric in metrics},
            )
            for name in sorted(bench.names)
        },
    )
    write_baseline(baseline, made)
    return made, before


def _require_recipes(plan: GatePlan) -> None:
    for name in plan.recipes:
        recipe(name)


def _require_rows(plan: GatePlan, bench: Bench, stored: Baseline) -> None:
    """Make sure that no budget is for nothing.

    Raises:
        InputError: one is of a recipe that neither an artifact nor a row of the baseline has.
    """
    there = {bench.recipe(name) for name in bench.artifacts} | {row.structure.recipe for row in stored.rows.values()}
    for name in plan.recipes:
        if name not in there:
            raise InputError(
                f"{name}: has budgets, and no artifact of this recipe was given; leave them out, or name one"
            )
