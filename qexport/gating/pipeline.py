"""The verb ``gate``: checks artifacts against their budgets and a baseline; noise does not decide a verdict.

The baseline is a file, or other artifacts that are measured in the same run: then both sides run on the same kernels.
A row fails if anything is missing, altered, skipped or measured on another input: without a verdict the gate is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qexport import measurement
from qexport.core import MANIFEST_NAME, InputError, UnsupportedHere
from qexport.gating.baseline import (
    Baseline,
    Cpu,
    Seen,
    StoredFeed,
    StoredRow,
    read_baseline,
    stored_samples,
    structure_of,
    write_baseline,
)
from qexport.gating.bench import GateBench, GateOptions
from qexport.gating.budgets import SAME_RUN, SIZES, TABLE, GatePlan
from qexport.gating.judge import Judge, wanted_rows
from qexport.gating.verdict import GateReport
from qexport.measurement import known_choices, require_effect
from qexport.quantization import recipe


def gate(paths: Sequence[Path], baseline: Path, plan: GatePlan, options: GateOptions) -> GateReport:
    """Measure artifacts and check their budgets.

    Args:
        paths: the artifacts' folders, named like the baseline's rows; with fp32 if a budget divides by it.
        baseline: the baseline's file.
        plan: the budgets and the measurements.
        options: see :class:`qexport.gating.bench.GateOptions`.

    Returns:
        A verdict for each artifact, and for each row of the baseline without an artifact.

    Raises:
        InputError: the baseline is missing, a budget is for an unknown recipe, the artifacts cannot be compared, or a
            text cannot be tokenized for them.
        UnsupportedHere: the provider is missing.
    """
    _require_choices(plan)
    stored = read_baseline(baseline)
    measurement.require_provider(options.provider)
    bench = GateBench(paths, plan, options)
    _require_model(bench, stored, baseline)
    _require_rows(plan, bench, stored)
    bench.require_text()
    return _decide(bench, plan, lambda _look, _wanted: stored, baseline=baseline, place=baseline)


def gate_against(
    paths: Sequence[Path], base: Sequence[Path], config: Path, plan: GatePlan, options: GateOptions
) -> GateReport:
    """Measure artifacts next to those of another commit, and check the budgets of the former.

    Both sides run on this machine over the same windows, so that the CPU does not matter. An artifact with the same
    bytes on both sides is measured once.

    Args:
        paths: as for :func:`gate`.
        base: folders of artifacts, or folders that hold them; their names are the rows.
        config: the file of budgets, which findings point to.
        plan: see :func:`gate`.
        options: see :func:`gate`.

    Raises:
        InputError: as :func:`gate`; or a path of ``base`` is no artifact and holds none, or is altered.
        UnsupportedHere: the provider is missing, or an artifact of ``base`` cannot be measured here.
    """
    _require_choices(plan)
    measurement.require_provider(options.provider)
    bench = GateBench(paths, plan, options)
    other = GateBench([each for path in base for each in artifacts_in(path)], plan, options)
    for name, reason in other.problems.items():
        raise InputError(f"--against {name}: {reason}")
    if bench.model and bench.model != other.model:
        raise InputError(
            f"--against: artifacts of {other.model}, and the others are of {bench.model}; give artifacts of one model"
        )

    def measured(look: int, wanted: Mapping[str, Sequence[str]]) -> Baseline:
        same = other.share(bench)
        unlike = other.artifacts.keys() - same
        asked = {metric: names for metric, names in wanted.items() if metric not in SAME_RUN}
        other.take({metric: [name for name in names if name in unlike] for metric, names in asked.items()}, look)
        _require_measured(other, "the base cannot be compared with")
        return _baseline_of(other)

    _require_rows(plan, bench, _baseline_of(other))
    bench.require_text()
    other.require_text()
    where = ", ".join(map(str, base))
    return _decide(bench, plan, measured, baseline=where, place=config)


def artifacts_in(path: Path) -> list[Path]:
    """The folder itself if it is an artifact, otherwise the artifacts in it, by name.

    Raises:
        InputError: the folder is not an artifact and holds none.
    """
    if (path / MANIFEST_NAME).is_file():
        return [path]
    found = sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST_NAME}"))
    if not found:
        raise InputError(f"{path}: neither an artifact nor a folder of artifacts; give what `qexport quantize` wrote")
    return found


def _decide(
    bench: GateBench,
    plan: GatePlan,
    baseline_at: Callable[[int, Mapping[str, Sequence[str]]], Baseline],
    *,
    baseline: Path | str,
    place: Path,
) -> GateReport:
    """Measure until every verdict is settled or the text is used up.

    Args:
        bench: the artifacts.
        plan: the artifacts' budgets.
        baseline_at: gives the baseline of a look, for the rows that each metric was measured on.
        baseline: the name of the baseline.
        place: the file that findings point to.
    """
    wanted, look = wanted_rows(bench, plan), 0
    while True:
        bench.take(wanted, look)
        stored = baseline_at(look, wanted)
        judge = Judge(bench, stored, plan)
        look += 1
        wanted = judge.undecided() if bench.options.add_windows and bench.has_more(look) else {}
        if not wanted:
            break
    missing = [name for name in stored.rows if name not in bench.names]
    return GateReport(
        model=stored.model,
        baseline=str(baseline),
        place=str(place),
        rows=tuple(judge.row(name) for name in (*bench.names, *missing)),
        notes=tuple(judge.notes()),
    )


def update(
    paths: Sequence[Path], baseline: Path, plan: GatePlan, options: GateOptions
) -> tuple[Baseline, Baseline | None]:
    """Measure artifacts on all of the text, and write the results as the baseline of this CPU alone.

    Returns:
        The baseline, and the one before; None if no readable one existed.

    Raises:
        InputError: as :func:`gate`; or an artifact is altered, or has another tokenizer than the first; nothing is
            written.
        UnsupportedHere: an artifact cannot be measured here; nothing is written.
    """
    bench = _measured_whole(paths, plan, options)
    fed = {name: _feeds(bench, name) for name in bench.names}
    first = bench.names[0]
    other = next((name for name in bench.names if fed[name] != fed[first]), None)
    if other is not None:
        raise InputError(f"{other}: gets other tokens than {first}, since its tokenizer differs; nothing was written")
    try:
        before = read_baseline(baseline)
    except InputError:  # missing or of another format: the new one replaces it
        before = None
    made = Baseline.model_validate(_baseline_of(bench).model_dump(by_alias=True))
    write_baseline(baseline, made)
    return made, before


def add_cpu(paths: Sequence[Path], baseline: Path, plan: GatePlan, options: GateOptions) -> Baseline:
    """Measure artifacts on all of the text, and add their figures on this CPU to an existing baseline.

    Returns:
        The baseline with the classes of kernels that ran here.

    Raises:
        InputError: as :func:`gate`, or an artifact is not the baseline's, or fails; nothing is written.
        UnsupportedHere: an artifact cannot be measured here; nothing is written.
    """
    stored = read_baseline(baseline)
    bench = _measured_whole(paths, plan, options)
    _require_model(bench, stored, baseline)
    judge = Judge(bench, stored, bench.plan)
    for verdict in (judge.row(name) for name in dict.fromkeys((*bench.names, *stored.rows))):
        if verdict.outcome != "pass":
            reason = next(check.message for check in verdict.checks if check.outcome == verdict.outcome)
            raise InputError(
                f"{verdict.name}: {reason}; nothing was written, since a CPU is added only if nothing else has changed"
            )
    here = _baseline_of(bench)
    rows = {}
    for name, row in stored.rows.items():
        seen = here.rows[name]
        samples = {metric: each for metric, each in seen.samples.items() if metric not in SIZES}
        elsewhere = dict(row.elsewhere)
        if seen.kernel_class != row.kernel_class:
            elsewhere[seen.kernel_class] = Seen(ran=seen.ran, samples=samples)
        rows[name] = row.model_copy(update={"elsewhere": elsewhere})
    made = stored.model_copy(update={"cpus": stored.cpus | here.cpus, "rows": rows})
    write_baseline(baseline, made)
    return made


def _measured_whole(paths: Sequence[Path], plan: GatePlan, options: GateOptions) -> GateBench:
    """Artifacts measured on all of the text, with all that a baseline holds.

    Raises:
        InputError: an artifact is altered, or a budget is for an unknown recipe.
        UnsupportedHere: an artifact cannot be measured here.
    """
    _require_choices(plan)
    measurement.require_provider(options.provider)
    bench = GateBench(paths, plan.model_copy(update={"windows": None, "sentences": None}), options)
    for name, reason in bench.problems.items():
        raise InputError(f"{name}: {reason}; nothing was written")
    bench.require_text()
    bench.take({metric: bench.names for metric in plan.metrics if metric not in SAME_RUN})
    _require_measured(bench, "nothing was written")
    return bench


def _require_measured(bench: GateBench, otherwise: str) -> None:
    for (name, metric), record in bench.records.items():
        if record.skipped is not None:
            raise UnsupportedHere(
                f"{name}: {metric} was not measured, so {otherwise} ({record.skipped}); take its budget out, or measure it elsewhere"
            )


def _feeds(bench: GateBench, name: str) -> dict[str, StoredFeed]:
    """All inputs that a row was measured on, by metric."""
    metrics = [metric for row, metric in bench.records if row == name and metric not in (*SIZES, *SAME_RUN)]
    return {metric: bench.feed(name, metric) for metric in metrics}


def _baseline_of(bench: GateBench) -> Baseline:
    """The baseline of artifacts that were measured here. Its form is not checked: it may cover only some windows."""
    cpus: dict[str, Cpu] = {}
    feeds: dict[str, StoredFeed] = {}
    rows: dict[str, StoredRow] = {}
    for name in sorted(bench.artifacts):
        feeds |= _feeds(bench, name)
        record = bench.scored(name)
        if record is not None:
            conditions = record.conditions
            cpus[conditions.kernel_class] = Cpu(machine=conditions.machine, isa=conditions.isa)
        rows[name] = StoredRow(
            structure=structure_of(bench.artifacts[name]),
            sha256=bench.artifacts[name].sha256,
            kernel_class=bench.kernel_class(name),
            ran=bench.ran(name),
            samples={
                metric: stored_samples(each)
                for (row, metric), each in bench.records.items()
                if row == name and metric not in SAME_RUN
            },
        )
    return Baseline.model_construct(schema_=2, model=bench.model, cpus=cpus, feeds=feeds, rows=rows, lines={})


def _require_model(bench: GateBench, stored: Baseline, baseline: Path) -> None:
    if bench.model and bench.model != stored.model:
        raise InputError(
            f"{baseline}: is of {stored.model}, and the artifacts are of {bench.model}; name the baseline of {bench.model}"
        )


def _require_choices(plan: GatePlan) -> None:
    """Make sure that the recipes exist, and that every choice affects a measured metric.

    Raises:
        InputError: a choice has no effect.
    """
    for name in plan.recipes:
        try:
            recipe(name)
        except InputError as error:
            raise InputError(f"{TABLE} recipes.{error}") from error
    require_effect(known_choices(plan.model_fields_set), plan.metrics, (), place=f"{TABLE} ")


def _require_rows(plan: GatePlan, bench: GateBench, stored: Baseline) -> None:
    """Make sure that every budget has a row.

    Raises:
        InputError: a budget is for a recipe without an artifact and without a row of the baseline.
    """
    there = {bench.recipe(name) for name in bench.artifacts} | {row.structure.recipe for row in stored.rows.values()}
    for name in plan.recipes:
        if name not in there:
            raise InputError(
                f"{name}: has budgets, and no artifact of this recipe was given; leave them out, or name one"
            )
