"""The verbs ``compare`` and ``report``: a model goes through the rows of an experiment, each row is measured, a report is written.

Measurements are kept as they come, beside the report's folder, so that a comparison that was cut short can go on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from qexport import measurement, quantization
from qexport.comparison import schedule
from qexport.comparison.experiments import metrics_for
from qexport.comparison.journal import Journal, check_journal
from qexport.comparison.rows import DEFAULT_OPTIONS, CompareOptions, wanted_rows
from qexport.comparison.run import Run, feeds_of
from qexport.core import InputError, Measurement, claimed, progress, require_tasks, sweep_unfinished
from qexport.inputs import (
    Experiment,
    ModelSource,
    Text,
    load_text,
    locate,
    locate_model,
    make_stand_in,
    parameter_count,
    parameters_of,
    stand_in_config,
)
from qexport.measurement import Bench, require_effect, timestamp
from qexport.report import check_report_folder, merge_runs, write_report

_ARTIFACTS = "artifacts"
"""The folder of kept artifacts in a report's folder."""


def report(
    sources: Sequence[Path], folder: Path, *, title: str | None = None, overwrite: bool = False
) -> list[Measurement]:
    """Write one report of the records of several runs or machines.

    Args:
        sources: report folders, or files of records.
        folder: the report's folder.
        title: of the report; None names the models.
        overwrite: replace a report that is there.

    Raises:
        InputError: no records, the same ones twice, or ``folder`` must not be replaced.
    """
    check_report_folder(folder, overwrite=overwrite)
    records = merge_runs(sources)
    models = ", ".join(dict.fromkeys(record.model for record in records))
    write_report(records, folder, title=title or f"Quantization of {models}", overwrite=overwrite)
    return records


def compare(
    experiment: Experiment,
    folder: Path,
    *,
    evaluation: Text | None = None,
    calibration: Text | None = None,
    tasks: Sequence[str] = (),
    options: CompareOptions = DEFAULT_OPTIONS,
    overwrite: bool = False,
) -> list[Measurement]:
    """Take a model through the rows of an experiment, measure each, and write the report.

    Args:
        experiment: model, rows, metrics, texts, prompts and published figures.
        folder: the report's folder.
        evaluation: text to measure on; None takes the experiment's.
        calibration: text for activation ranges; None takes the experiment's.
        tasks: tasks of lm-eval to ask in addition to those of the experiment's metrics.
        options: see :class:`CompareOptions`.
        overwrite: replace a report that is there.

    Returns:
        One measurement for each row and metric, skipped ones included.

    Raises:
        QExportError: see the errors of the parts; a row that this machine cannot run is skipped with its reason.
    """
    check_report_folder(folder, overwrite=overwrite or options.resume)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed(Path(os.path.abspath(folder))):  # noqa: PTH100 (links stay links)
        return _compare(
            experiment,
            folder,
            evaluation=evaluation,
            calibration=calibration,
            tasks=tasks,
            options=options,
            overwrite=overwrite,
        )


def _compare(
    experiment: Experiment,
    folder: Path,
    *,
    evaluation: Text | None,
    calibration: Text | None,
    tasks: Sequence[str],
    options: CompareOptions,
    overwrite: bool,
) -> list[Measurement]:
    check_journal(folder, resume=options.resume, overwrite=overwrite)
    if tasks:
        require_tasks(tasks)
    measurement.require_provider(options.provider)
    wanted = wanted_rows(experiment, options)
    metrics = metrics_for(experiment, options, tasks)
    require_effect(options.choices, metrics, [row.recipe for row in wanted])
    for row in wanted:
        quantization.require_engine(row.recipe)
    evaluation = evaluation or load_text(experiment.evaluation_path)
    calibration = calibration or load_text(experiment.calibration_path)
    _keep_apart(evaluation, calibration)
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (as artifact.whole_folder takes it: links stay links)
    with _work_folder(folder) as work:
        source = _source(experiment, options, work)
        feeds = feeds_of(experiment, source, evaluation, metrics)
        if any(row.calibrated for row in wanted):
            quantization.calibration_windows(source, calibration)  # its defects are found before anything is built
        journal = Journal(folder, resume=options.resume)
        run = Run(
            experiment=experiment,
            options=options,
            source=source,
            feeds=feeds,
            metrics=metrics,
            journal=journal,
            bench=Bench(run=journal.run or timestamp(), provider=options.provider, threads=options.threads),
        )
        journal.require_like(run.conditions())
        records = run.measured(wanted, calibration, work)
        progress.stage("writing the report", schedule.expected_s(schedule.REPORT))
        title = experiment.title + (f", stand-in ({options.stand_in})" if options.stand_in else "")
        kept = work if options.keep_artifacts else None
        if options.resume and (folder / _ARTIFACTS).is_dir():
            kept = _carried_over(folder / _ARTIFACTS, work, all_of_them=options.keep_artifacts)
        write_report(records, folder, title=title, overwrite=overwrite or options.resume, artifacts=kept)
        journal.close()
    return records


def _carried_over(before: Path, work: Path, *, all_of_them: bool) -> Path:
    """A folder with the artifacts that an earlier run kept, and with ``all_of_them`` those of this run too."""
    place = work if all_of_them else work / f".{_ARTIFACTS}"
    for artifact in before.iterdir():
        if not (place / artifact.name).exists():
            shutil.copytree(artifact, place / artifact.name)
    return place


def _source(experiment: Experiment, options: CompareOptions, work: Path) -> ModelSource:
    """The model or its stand-in, which must fit into memory for the export.

    Raises:
        UnsupportedHere: it does not fit.
    """
    if options.stand_in is None:
        source = locate(experiment.model, experiment.revision, options.trust)
        if not source.trust_remote_code:
            measurement.require_export_fit(parameter_count(source.path), source.name)
        return source
    name = f"{experiment.name}-stand-in"
    measurement.require_export_fit(parameters_of(stand_in_config(experiment, size=options.stand_in)), name)
    return locate_model(make_stand_in(experiment, work / name, size=options.stand_in))


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A folder for artifacts beside the report, on the same disk; removed at the end, or by the next run if killed."""
    place = folder.with_name(f"{folder.name}.work")
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep_unfinished(place)
    work = folder.parent / f".{place.name}.new-{os.getpid()}"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _keep_apart(evaluation: Text, calibration: Text) -> None:
    both = set(evaluation.documents) & set(calibration.documents)
    if both:
        raise InputError(
            f"{evaluation.origin} and {calibration.origin}: {len(both)} documents are in both; "
            "quality must be measured on text that calibration never saw"
        )
