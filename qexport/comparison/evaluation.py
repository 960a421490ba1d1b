"""The verb ``eval``: artifacts answer tasks of lm-eval, and a report shows their accuracies.

Answers are kept as they come, beside the report's folder, so that an evaluation that was cut short can go on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qexport import measurement
from qexport.comparison.journal import Journal, answers_path, check_journal
from qexport.core import InputError, UnsupportedHere, require_tasks
from qexport.inputs import Tasks
from qexport.measurement import Bench, load_tasks, rows_of_artifacts, timestamp
from qexport.report import check_report_folder, write_report

if TYPE_CHECKING:
    from qexport.core import Measurement, Provider


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Choices for a whole evaluation."""

    provider: Provider = "cpu"
    threads: int | None = None
    rows: int | None = None
    """Most requests that are run at once; None takes qexport's choice."""
    resume: bool = False
    """Go on from the answers that are there."""


def evaluate_artifacts(
    paths: Sequence[Path],
    names: Sequence[str],
    folder: Path,
    *,
    plan: Tasks,
    options: EvalOptions = EvalOptions(),  # it is frozen
    overwrite: bool = False,
) -> list[Measurement]:
    """Ask artifacts of one model the questions of tasks, and write the report.

    Args:
        paths: folders of artifacts; the first that quantizes nothing is what the others are compared with.
        names: names of tasks.
        folder: the report's folder.
        plan: how the tasks are asked.
        options: see :class:`EvalOptions`.
        overwrite: replace a report that is there.

    Returns:
        One measurement for each artifact and metric, skipped ones included.

    Raises:
        InputError: an unknown task, no artifact, artifacts of several models, or a folder that must not be replaced.
        QExportError: see the errors of the parts; an artifact that this machine cannot run is skipped with its reason.
    """
    require_tasks(names)
    going_on = options.resume and answers_path(folder).exists()
    check_report_folder(folder, overwrite=overwrite or going_on)
    check_journal(folder, resume=options.resume, overwrite=overwrite)
    rows = rows_of_artifacts(paths)
    measurement.require_provider(options.provider)
    tasks, away = load_tasks(names, plan)
    for reason in away.values():
        raise UnsupportedHere(reason)
    journal = Journal(folder, resume=options.resume)
    bench = Bench(run=timestamp(), provider=options.provider, threads=options.threads)
    records: list[Measurement] = []
    for row in rows:
        records += bench.ask(row, tasks, plan, journal.answers(row.artifact.sha256), rows=options.rows)
    title = f"{rows[0].artifact.manifest.model.name}: {', '.join(names)}"
    write_report(records, folder, title=title, overwrite=overwrite or going_on)
    journal.close()
    return records


def plan_of(*, gen_kwargs: str | None, **given: object) -> Tasks:
    """A plan from the options that a user typed.

    Args:
        gen_kwargs: as lm-eval takes them: ``max_gen_toks=128,until=Question:``.
        given: other fields of the plan.

    Raises:
        InputError: a value that the plan refuses.
    """
    if gen_kwargs is not None:
        given["gen_kwargs"] = _settings(gen_kwargs)
    try:
        return Tasks.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"--{option} {first['input']}: {first['msg']}; correct it") from error


def _settings(text: str) -> dict[str, bool | float | str]:
    settings: dict[str, bool | float | str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--gen-kwargs {text}: {part!r} is not KEY=VALUE; write max_gen_toks=128")
        try:
            settings[name.strip()] = json.loads(value.lower() if value in {"True", "False"} else value)
        except ValueError:
            settings[name.strip()] = value
    return settings


def rows_of(batch_size: str) -> int | None:
    """The number of requests that are run at once; None for qexport's choice.

    Raises:
        InputError: neither ``auto`` nor a number above zero.
    """
    if batch_size == "auto":
        return None
    if not (batch_size.isascii() and batch_size.isdigit()) or int(batch_size) == 0:
        raise InputError(f"--batch-size {batch_size}: neither auto nor a number above zero; correct it")
    return int(batch_size)
