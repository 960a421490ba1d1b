"""The verb ``eval``: artifacts through tasks of lm-eval, and the report of what each got right.

Answers are kept as they come, beside the report's folder, so that an evaluation that was cut short can go on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qexport import measure, resume
from qexport.answering import Apart
from qexport.artifact import Artifact, load_artifact
from qexport.catalogue import require_tasks
from qexport.errors import InputError
from qexport.harness.evaluate import Place, evaluate
from qexport.harness.tasks import load_task, require_plan_used
from qexport.inputs.experiment import Tasks
from qexport.metrics.tasks import ROWS
from qexport.report import check_report_folder, write_report

if TYPE_CHECKING:
    from qexport.record import Measurement
    from qexport.runtime import Provider


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Choices for a whole evaluation."""

    provider: Provider = "cpu"
    threads: int | None = None
    rows: int = ROWS
    """Most requests that are run at once."""
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
        names: of tasks.
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
    going_on = options.resume and resume.answers_path(folder).exists()
    check_report_folder(folder, overwrite=overwrite or going_on)
    resume.check_journal(folder, resume=options.resume, overwrite=overwrite)
    artifacts = [load_artifact(path) for path in paths]
    _require_one_model(artifacts)
    measure.require_provider(options.provider)
    tasks = {name: load_task(name, plan) for name in names}
    require_plan_used(plan, tasks.values())
    journal = resume.Journal(folder, resume=options.resume)
    run = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    records: list[Measurement] = []
    for artifact, label in zip(artifacts, _labels(artifacts), strict=True):
        respondent = Apart(
            artifact,
            journal.answers(artifact.sha256),
            row=label,
            provider=options.provider,
            threads=options.threads,
            rows=options.rows,
        )
        records += evaluate(artifact, tasks, plan, respondent, Place(run=run, row=label))
    title = f"{artifacts[0].manifest.model.name}: {', '.join(names)}"
    write_report(records, folder, title=title, overwrite=overwrite or going_on)
    journal.close()
    return records


def plan_of(*, gen_kwargs: str | None, **given: object) -> Tasks:
    """A plan from what was typed.

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


def rows_of(batch_size: str) -> int:
    """How many requests are run at once.

    Raises:
        InputError: neither ``auto`` nor a number above zero.
    """
    if batch_size == "auto":
        return ROWS
    if not (batch_size.isascii() and batch_size.isdigit()) or int(batch_size) == 0:
        raise InputError(f"--batch-size {batch_size}: neither auto nor a number above zero; correct it")
    return int(batch_size)


def _require_one_model(artifacts: Sequence[Artifact]) -> None:
    models = sorted({artifact.manifest.model.name for artifact in artifacts})
    if len(models) > 1:
        raise InputError(f"artifacts of several models, {' and '.join(models)}; evaluate each model by itself")


def _labels(artifacts: Sequence[Artifact]) -> list[str]:
    """The row of each: its recipe with its nodes, and its folder where that is not enough to tell them apart."""
    plain = []
    for artifact in artifacts:
        manifest = artifact.manifest
        rules = manifest.selection.rules.removeprefix("--nodes ") if manifest.selection else ""
        plain.append(f"{manifest.recipe} ({rules})" if rules else manifest.recipe)
    often = Counter(plain)
    labels = [
        label if often[label] == 1 else f"{label} in {artifact.path.name}"
        for label, artifact in zip(plain, artifacts, strict=True)
    ]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: is there twice; name each artifact once")
    return labels
