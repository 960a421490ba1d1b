"""lm-eval's tasks, with questions from the hub or from local files, and what is to be told of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.errors import InputError, UnsupportedHere
from qexport.inputs.task_data import MMLU_SUBJECTS, TaskData, load_task_data
from qexport.quiet import quiet

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

    from qexport.inputs.experiment import Tasks

_FOLDERS = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "gsm8k": "gsm8k",
    "mmlu": "mmlu/default",
}
"""Where lm-eval keeps each task. To look through all its folders takes 20 s."""
_WITHOUT_TEST = frozenset({"hellaswag", "piqa"})
"""Their test labels are secret, so lm-eval knows no test split of theirs, and draws their examples in another way."""
_EXAMPLES = "examples"
"""What the few-shot examples' split is called where they have one of their own."""


@dataclass(frozen=True, kw_only=True)
class LoadedTask:
    """A task, ready to be asked: lm-eval's own, one for each subject where it has subjects."""

    name: str
    parts: Mapping[str, ConfigurableTask]
    """By lm-eval's names."""
    asked: Mapping[str, range]
    """Which questions of each part."""
    split: str
    """The split that the questions are of; empty where a local file names none."""
    data_sha256: str
    """Digest of the questions asked and of all that examples are chosen from."""
    origin: str
    """Where the questions came from, in words that hold on every machine."""


def load_task(name: str, plan: Tasks) -> LoadedTask:
    """Load a task by name.

    Raises:
        InputError: local files that are missing or wrong, or fewer examples than asked for.
        UnsupportedHere: the hub cannot be reached for the task's questions, or lm-eval is not installed.
    """
    local = None if plan.data is None else load_task_data(plan.data, name)
    with quiet():
        return _load(name, plan, local)


def require_plan_used(plan: Tasks, tasks: Iterable[LoadedTask]) -> None:
    """Refuse choices of a plan that no task goes by.

    Raises:
        InputError: settings of generation where no task generates, or turns of a chat without a chat template.
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
    """What is changed in lm-eval's task for local questions: where they come from, and no more."""
    from datasets import Dataset

    split, examples = data.split or "questions", None if data.examples is None else _EXAMPLES
    rows = {split: Dataset.from_list(list(data.rows))}
    if data.examples is not None:
        rows[_EXAMPLES] = Dataset.from_list(list(data.examples))
    if data.task in _WITHOUT_TEST:
        splits = {"training_split": examples, "validation_split": split}
    else:
        # Of the questions themselves where there is nothing else: lm-eval then leaves out the one that is asked.
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
    except Exception as error:  # of datasets, of the hub's client, or of the network: they have no class in common
        if any(overrides.values()):
            raise
        raise UnsupportedHere(
            f"{name}: its questions cannot be had from the hub ({type(error).__name__}); "
            "give local files with --data, or connect once so that they are cached"
        ) from error
    return loaded


def _configure(task: ConfigurableTask, plan: Tasks) -> None:
    """Set what holds for all tasks, as lm-eval's ``simple_evaluate`` does.

    Raises:
        InputError: fewer examples than asked for.
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
    """How many examples there are for any question.

    Where lm-eval leaves out the question itself it draws one more, and drops all that are the same.
    """
    often = Counter(json.dumps(document, default=str) for document in task.fewshot_docs())
    if task.config.fewshot_split != task.config.test_split:  # as lm-eval asks, where none and none are the same too
        return often.total()
    return often.total() - max(1, *(often[json.dumps(document, default=str)] for document in task.eval_docs))


def _count(questions: int, limit: float | None) -> int:
    """How many questions are asked, as lm-eval counts them."""
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
