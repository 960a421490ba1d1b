"""Runs tasks of lm-eval on one artifact: one measurement for each metric of each task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qexport.core import Measurement, Metric, Published, UnsupportedHere, metrics_of, quiet
from qexport.measurement.answers import Apart, Opened
from qexport.measurement.conditions import here, identity
from qexport.measurement.tasks.load import LoadedTask

if TYPE_CHECKING:
    from qexport.core import Artifact
    from qexport.inputs import Tasks


@dataclass(frozen=True, kw_only=True)
class RowIdentity:
    """The table row that the measurements of an artifact belong to."""

    run: str
    row: str
    stand_in: bool = False
    published: Mapping[str, Published] = field(default_factory=dict)
    """Published figures by metric."""


def evaluate(
    artifact: Artifact, tasks: Mapping[str, LoadedTask], plan: Tasks, respondent: Apart, place: RowIdentity
) -> list[Measurement]:
    """Ask an artifact all questions, and let lm-eval score the answers; skipped if the artifact cannot run here.

    Args:
        artifact: the artifact whose tokenizer and configuration are used.
        tasks: the tasks, loaded with the same plan.
        plan: the settings of the tasks.
        respondent: the source of the artifact's answers.
        place: the table row of the measurements.

    Returns:
        One measurement for each metric of each task.

    Raises:
        QExportError: see :meth:`qexport.measurement.answers.Apart.likelihoods` and
            :mod:`qexport.measurement.tasks.lm`.
    """
    metrics = [metric for task in tasks.values() for metric in metrics_of(task.name)]
    try:
        results, truncated = _run(artifact, tasks, plan, respondent)
    except UnsupportedHere as error:
        return [_record(artifact, place, metric, conditions=here(), skipped=str(error)) for metric in metrics]
    scores = _Scores(plan=plan, results=results, truncated=truncated, opened=respondent.opened)
    return [_record(artifact, place, metric, **scores.told(metric, tasks[metric.task])) for metric in metrics]


def _run(
    artifact: Artifact, tasks: Mapping[str, LoadedTask], plan: Tasks, respondent: Apart
) -> tuple[dict[str, Any], set[str]]:
    """lm-eval's results, and the contexts that were cut."""
    from lm_eval.evaluator import evaluate as run

    from qexport.measurement.tasks.lm import ArtifactLM

    model = ArtifactLM(artifact.path, respondent)
    parts = {name: part for task in tasks.values() for name, part in task.parts.items()}
    for part in parts.values():
        part.set_fewshot_seed(plan.seed)
        if part.config.output_type == "generate_until":
            model.require_generation(part.config.generation_kwargs)
    with quiet():
        results = run(
            lm=model,
            task_dict={"tasks": parts},
            samples={name: asked for task in tasks.values() for name, asked in task.asked.items()},
            system_instruction=plan.system_instruction,
            apply_chat_template=plan.apply_chat_template,
            fewshot_as_multiturn=plan.fewshot_as_multiturn,
        )
    return results, model.truncated


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """lm-eval's scores of an artifact's answers."""

    plan: Tasks
    results: dict[str, Any]
    truncated: set[str]
    opened: Opened

    def told(self, metric: Metric, task: LoadedTask) -> dict[str, Any]:
        """The fields of the measurement of one metric."""
        name, _, kept = metric.scored.partition(",")
        samples = {part: self._samples(part, kept) for part in task.parts}
        asked = [one for several in samples.values() for one in several]
        first = next(iter(task.parts))
        facts = self.opened.facts | {
            "task_version": str(self.results["versions"][first]),
            "num_fewshot": int(self.results["n-shot"][first]),
            "split": task.split,
            "data_sha256": task.data_sha256,
            "plan_sha256": self.plan.sha256,
            "truncated": sum(any(words[0] in self.truncated for words in one["arguments"]) for one in asked),
        }
        stderrs = [self.results["results"][part][f"{name}_stderr,{kept}"] for part in task.parts]
        if "N/A" not in stderrs:  # lm-eval gives none for a single question
            facts["stderr"] = _pooled(stderrs, [len(part) for part in samples.values()])
        return {
            "columns": ("correct",),
            "samples": tuple((float(one[name] > 0),) for one in asked),
            "facts": facts,
            "conditions": self.opened.conditions.model_copy(
                update={"batch": 0, "text": task.origin, "text_sha256": _digest(asked)}
            ),
        }

    def _samples(self, part: str, kept: str) -> list[dict[str, Any]]:
        """lm-eval's log of each question, in the task's order, under one of its filters."""
        found = [one for one in self.results["samples"][part] if one["filter"] == kept]
        return sorted(found, key=lambda one: int(one["doc_id"]))


def _pooled(stderrs: Sequence[float], sizes: Sequence[int]) -> float:
    """The standard error over all subjects of a task, with lm-eval's pooling."""
    from lm_eval.api.metrics import pooled_sample_stderr

    return float(pooled_sample_stderr(list(stderrs), list(sizes)) if len(stderrs) > 1 else stderrs[0])


def _record(artifact: Artifact, place: RowIdentity, metric: Metric, **told: Any) -> Measurement:
    return Measurement(
        run=place.run,
        row=place.row,
        stand_in=place.stand_in,
        metric=metric.name,
        published=place.published.get(metric.name),
        **identity(artifact),
        **told,
    )


def _digest(asked: Sequence[Mapping[str, Any]]) -> str:
    """Digest of the exact words of the questions: equal digests mean equal questions."""
    told = [[list(one["arguments"]), one["target"]] for one in asked]
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()
