"""lm-eval's tasks, with questions from the hub or from local files, and the facts about them for the record."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.core import InputError, UnsupportedHere, quiet
from qexport.measurement.tasks.data import TaskData, load_task_data
from qexport.measurement.tasks.subjects import MMLU_SUBJECTS

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

    from qexport.inputs import Tasks

_FOLDERS = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "gsm8k": "gsm8k",
    "mmlu": "mmlu/default",
}
"""lm-eval's folder of each task. A search through all its folders takes 20 s."""
_WITHOUT_TEST = frozenset({"hellaswag", "piqa"})
"""Their test labels are secret, so lm-eval knows no test split for them and draws their examples in another way."""
_EXAMPLES = "examples"
"""The name of the few-shot examples' split if the examples have their own."""


@dataclass(frozen=True, kw_only=True)
class LoadedTask:
    """A loaded task: one task of lm-eval, or one for each subject."""

    name: str
    parts: Mapping[str, ConfigurableTask]
    """lm-eval's tasks by lm-eval's names."""
    asked: Mapping[str, range]
    """The indices of the questions of each part."""
    split: str
    """The split of the questions; empty if a local file names none."""
    data_sha256: str
    """Digest of the questions and of all rows that examples are chosen from."""
    origin: str
    """The source of the questions, in words that hold on every machine."""


def load_task(name: str, plan: Tasks) -> LoadedTask:
    """Load a task by name.

    Raises:
        InputError: local files are missing or wrong, or have fewer examples than the plan asks for.
        UnsupportedHere: the hub cannot be reached for the task's questions, or lm-eval is not installed.
    """
    local = None if plan.data is None else load_task_data(plan.data, name)
    with quiet():
        return _load(name, plan, local)


def load_tasks(names: Iterable[str], plan: Tasks) -> tuple[dict[str, LoadedTask], dict[str, str]]:
    """The tasks whose questions are available, and the reason for each other task.

    Raises:
        InputError: an option of the plan has no effect on any of the tasks.
    """
    tasks: dict[str, LoadedTask] = {}
    away: dict[str, str] = {}
    for name in names:
        try:
            tasks[name] = load_task(name, plan)
        except UnsupportedHere as error:
            away[name] = str(error)
    if tasks or away:
        require_plan_used(plan, tasks.values())
    return tasks, away


def require_plan_used(plan: Tasks, tasks: Iterable[LoadedTask]) -> None:
    """Refuse choices of a plan that no task uses.

    Raises:
        InputError: settings of generation without a task that generates, or turns of a chat without a chat template.
    """
    kinds = {part.config.output_type for task in tasks for part in task.parts.values()}
    if plan.gen_kwargs and kinds and "generate_until" not in kinds:
        raise InputError("--gen-kwargs: has no effect, since no task generates; add gsm8k, or leave --gen-kwargs out")
    if not plan.fewshot_as_multiturn and not plan.apply_chat_template:
        raise InputError(
            "--fewshot-as-one-turn: has no effect without --apply-chat-template; add it, or leave this out"
        )


def _load(name: str, plan: Tasks, local: Mapping[str, TaskData] | None) -> LoadedTask:
    parts = local.keys() if local else [f"mmlu_{subject}" for subject in MMLU_SUBJECTS] if name == "mmlu" else [name]
    overrides = {part: {} if local is None else _local(local[part]) for part in parts}
    tasks = _built(name, overrides)
    for task in tasks.values():
        _configure(task, plan)
    asked = {part: range(_count(len(task.eval_docs), plan.limit_of(name))) for part, task in tasks.items()}
    splits = dict.fromkeys(local[part].split if local else _split(task) for part, task in tasks.items())
    return LoadedTask(
        name=name,
        parts=tasks,
        asked=asked,
        split=", ".join(filter(None, splits)),
        data_sha256=_digest(tasks, asked),
        origin=_origin(local) if local else next(iter(tasks.values())).config.dataset_path,
    )


def _origin(local: Mapping[str, TaskData]) -> str:
    files = sorted({file for data in local.values() for file in data.files})
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _local(data: TaskData) -> dict[str, Any]:
    """The changes to lm-eval's task for local questions: only their source."""
    from datasets import Dataset

    split, examples = data.split or "questions", None if data.examples is None else _EXAMPLES
    rows = {split: Dataset.from_list(list(data.rows))}
    if data.examples is not None:
        rows[_EXAMPLES] = Dataset.from_list(list(data.examples))
    if data.task in _WITHOUT_TEST:
        splits = {"training_split": examples, "validation_split": split}
    else:
        # Without other rows, the examples come from the questions: lm-eval then leaves out the current question.
        splits = {
            "training_split": None,
            "validation_split": None,
            "test_split": split,
            "fewshot_split": examples or split,
        }
    return {"custom_dataset": _given(rows)} | splits | ({"process_docs": None} if data.ready else {})


def _given(rows: Mapping[str, Any]) -> Callable[..., Mapping[str, Any]]:
    def dataset(**_: object) -> Mapping[str, Any]:
        return rows

    return dataset


def _built(name: str, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, ConfigurableTask]:
    try:
        import lm_eval.tasks
    except ImportError as error:
        raise UnsupportedHere(f"lm-eval is not installed ({error}); install qexport[eval]") from error
    folder = Path(lm_eval.tasks.__file__).parent / _FOLDERS[name]
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(folder))
    group = {"group": f"qexport_{name}", "task": [{"task": part, **own} for part, own in overrides.items()]}
    try:
        loaded: dict[str, ConfigurableTask] = manager.load([group])["tasks"]
    except Exception as error:  # errors of datasets, the hub's client and the network share no class
        if any(overrides.values()):
            raise
        raise UnsupportedHere(
            f"{name}: its questions cannot be had from the hub ({type(error).__name__}); "
            "give local files with --data, or connect once so that they are cached"
        ) from error
    return loaded


def _configure(task: ConfigurableTask, plan: Tasks) -> None:
    """Set the options that hold for all tasks, as lm-eval's ``simple_evaluate`` does.

    Raises:
        InputError: a task has fewer examples than the plan asks for.
    """
    config = task.config
    if plan.num_fewshot is not None and config.num_fewshot != 0:
        task.set_config("num_fewshot", plan.num_fewshot)
    elif config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    if plan.gen_kwargs and config.output_type == "generate_until":
        task.set_config("generation_kwargs", dict(plan.gen_kwargs), update=True)
    if config.num_fewshot:
        pool = _pool(task)
        if config.num_fewshot > pool:
            raise InputError(
                f"{config.task}: {config.num_fewshot} examples are asked for and there are only {pool}; "
                "pass a smaller --num-fewshot, or add a file of examples"
            )


def _pool(task: ConfigurableTask) -> int:
    """The number of examples that are available for every question.

    If lm-eval leaves out the question itself, it draws one more example and drops all duplicates.
    """
    often = Counter(json.dumps(document, default=str) for document in task.fewshot_docs())
    if task.config.fewshot_split != task.config.test_split:  # like lm-eval's test: None equals None
        return often.total()
    return often.total() - max(1, *(often[json.dumps(document, default=str)] for document in task.eval_docs))


def _count(questions: int, limit: float | None) -> int:
    """The number of questions that are asked, counted like lm-eval."""
    if limit is None:
        return questions
    return min(questions, math.ceil(questions * limit) if limit < 1 else int(limit))


def _split(task: ConfigurableTask) -> str:
    return str(task.config.test_split or task.config.validation_split)


def _digest(tasks: Mapping[str, ConfigurableTask], asked: Mapping[str, range]) -> str:
    digest = hashlib.sha256()
    for part, task in tasks.items():
        documents = list(task.eval_docs)
        pool = list(task.fewshot_docs() or []) if task.config.num_fewshot else []
        told = [documents[index] for index in asked[part]] + pool
        digest.update(json.dumps([part, told], sort_keys=True, default=str).encode())
    return digest.hexdigest()
