"""Benchmark tasks from a local folder, in exactly the fields that lm-eval's own tasks read.

lm-eval's prompts apply unchanged; only the source of the questions differs. Reading them needs neither lm-eval nor
datasets. The table :data:`_TASKS` at the end lists the forms that a row may have.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from qexport.core import InputError, near_names, read_text
from qexport.inputs import read_json_values
from qexport.measurement.tasks.subjects import MMLU_SUBJECTS

_SPLITS = {
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "dev",
    "train": "train",
}
"""The words for a split in a file's name."""

_QUESTION = ("query", "question", "goal")
_ANSWER = ("gold", "answer", "label")
_INDEX = re.compile(r"-?[0-9]{1,9}")
_FINAL_NUMBER = re.compile(r"#### -?[.,]?[0-9]")
"""The pattern that lm-eval looks for in an answer of gsm8k."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The questions of one task, and the rows that few-shot examples come from."""

    task: str
    """lm-eval's name: ``arc_easy``, ``mmlu_anatomy``."""
    rows: tuple[dict[str, Any], ...]
    """The questions, in the fields that lm-eval's task reads."""
    examples: tuple[dict[str, Any], ...] | None
    """Rows of another split. None: examples come from the questions, and lm-eval leaves out the current question."""
    split: str
    """The split of the questions: ``test``, ``validation``, ``train``, ``dev``; empty if the file name has none."""
    ready: bool
    """True if rows of hellaswag hold the final ``query``, ``choices`` and ``label``: ``process_docs`` must not run."""
    files: tuple[str, ...]
    """The files read, relative to the folder."""


def load_task_data(folder: Path, task: str) -> dict[str, TaskData]:
    """Read a task's questions and examples; ``mmlu`` gives an entry for each of its subjects.

    A file is named after the task and its split, such as ``arc_easy_test.jsonl``, and lies in the folder or in the
    task's subfolder. In the subfolder, ``test.jsonl`` is enough. Case does not matter, and ``-`` equals ``_``.

    Raises:
        InputError: the task is unknown, has no file or two files for one split, or a row cannot be used.
    """
    kind = _TASKS.get(task)
    if kind is None:
        raise InputError(f"{task}: no task that can be read from a folder; {near_names(task, _TASKS)}")
    places = ("", *(kind.inside or (task,)))
    names = {f"{task}_{subject}": subject for subject in kind.subjects} or {task: task}
    paths = [path for place in places for path in _data_files(folder, place)]
    found = {name: _by_split(paths, begin, kind) for name, begin in names.items()}
    missing = [names[name] for name, files in found.items() if not files]
    if missing:
        raise InputError(f"{task}: {_what_is_missing(folder, task, kind, missing)}")
    return {name: _load(folder, name, kind, files) for name, files in found.items()}


# Files


def _data_files(folder: Path, place: str) -> list[Path]:
    """The files with a known suffix at a place such as ``mmlu/test``, for any spelling of its folders."""
    folders = [folder]
    for part in PurePosixPath(place).parts:
        children = [child for parent in folders for child in _children(parent)]
        folders = [child for child in children if child.is_dir() and _plain(child.name) == part]
    files = [child for parent in folders for child in _children(parent)]
    return [path for path in files if path.suffix.lower() in _READERS and path.is_file()]


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: no folder that can be listed ({error.strerror}); check the path") from error


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _by_split(paths: list[Path], name: str, kind: _Task) -> dict[str, Path]:
    """The files of one name by split; only splits that the task uses."""
    words = rf"(?P<split>{'|'.join(_SPLITS)})(_.*)?"
    found: dict[str, Path] = {}
    for path in paths:
        stem = _plain(path.stem)
        match = re.fullmatch(rf"{name}(_{words})?", stem)
        if match is None and _plain(path.parent.name) == name:
            match = re.fullmatch(words, stem)
        if match is None:
            continue
        split = _SPLITS[match["split"]] if match["split"] else ""
        if split not in kind.questions:
            continue
        if split in found:
            which = f"split {split}" if split else "file without a split"
            raise InputError(f"{name}: {found[split]} and {path} could both be its {which}; keep one of them")
        found[split] = path
    return found


def _what_is_missing(folder: Path, task: str, kind: _Task, missing: list[str]) -> str:
    what, name, inside = "no file for it", task, f"{folder / task}"
    if kind.subjects:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        what, name = f"{len(missing)} of its {len(kind.subjects)} subjects are missing ({names})", "<subject>"
        inside = f"{folder}/{{{','.join(kind.inside)}}}"
    splits = "|".join(f"_{split}" for split in kind.questions if split)
    return (
        f"{what} in {folder}; looked for {name}[{splits}]{', '.join(_READERS)} in {folder} and {inside}; "
        f"put {'one' if len(missing) == 1 else 'them'} there, or leave --data out to take it from the hub"
    )


def _load(folder: Path, name: str, kind: _Task, files: dict[str, Path]) -> TaskData:
    split = next(split for split in kind.questions if split in files)
    other = next((other for other in kind.examples if other in files and other != split), None)
    rows, ready = _read(files[split], kind)
    used, examples = [files[split]], None
    if other is not None:
        examples, examples_ready = _read(files[other], kind)
        used.append(files[other])
        if examples_ready != ready:
            raise InputError(f"{used[1]}: its rows have another form than those of {used[0]}; give both in one form")
    return TaskData(
        task=name,
        rows=rows,
        examples=examples,
        split=split,
        ready=ready,
        files=tuple(path.relative_to(folder).as_posix() for path in used),
    )


# Rows


def _read(path: Path, kind: _Task) -> tuple[tuple[dict[str, Any], ...], bool]:
    """The rows of a file, and True if they are in the final form of the prompt."""
    rows, ready = [], None
    for place, value in _READERS[path.suffix.lower()](path):
        form = _form(place, value, kind)
        if ready not in {None, form.ready}:
            raise InputError(f"{place}: has another form than the rows before it; give all in one form")
        ready = form.ready
        rows.append(form.read(_Row(place, value)))
    if ready is None:
        raise InputError(f"{path}: holds no questions; give a file with some in it, or remove it")
    return tuple(rows), ready


def _form(place: str, value: object, kind: _Task) -> _Form:
    if not isinstance(value, dict):
        raise InputError(f"{place}: no object with the fields of a question; give {kind.fields}")
    for form in kind.forms:
        if form.key in value and isinstance(value[form.key], form.type):
            return form
    keys = ", ".join(value)
    raise InputError(f"{place}: unknown form (its keys: {keys!r:.120}); give {kind.fields}")


def _csv_values(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows below a header, or those of Hendrycks, which have none, as objects with their choices in one list."""
    header: list[str] | None = None
    for place, cells in _csv_records(path):
        if header is None:
            header = [cell.strip().lower() for cell in cells]
            if set(header).intersection(_QUESTION) and set(header).intersection(_ANSWER):
                continue
            header = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
        if len(cells) != len(header):
            raise InputError(
                f"{place}: {len(cells)} columns instead of {len(header)} ({', '.join(header)}); correct it"
            )
        yield place, _gathered(place, header, cells)


def _csv_records(path: Path) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(read_text(path)))
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{line}: not CSV ({error}); look for a quote that is not closed") from error
        if cells:
            yield f"{path}:{line}", cells
        line = reader.line_num + 1


def _gathered(place: str, header: list[str], cells: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(header, cells, strict=True))
    columns = [name for name in header if re.fullmatch(r"choice[0-9]+", name)]
    if not columns:
        return fields
    wanted = [f"choice{number}" for number in range(len(columns))]
    if sorted(columns) != sorted(wanted):
        raise InputError(f"{place}: columns {', '.join(columns)} instead of {', '.join(wanted)}; correct the header")
    return {name: cell for name, cell in fields.items() if name not in columns} | {
        "choices": [fields[name] for name in wanted]
    }


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[str, Any]]]] = MappingProxyType(
    {
        ".jsonl": read_json_values,
        ".json": read_json_values,
        ".csv": _csv_values,
    }
)


@dataclass(frozen=True)
class _Row:
    """The fields of a row, with a check of each field's type; a refusal gives the place and the reason."""

    place: str
    fields: Mapping[str, Any]

    def refusal(self, why: str) -> InputError:
        return InputError(f"{self.place}: {why}")

    def key(self, keys: tuple[str, ...]) -> str:
        """The first of the keys that the row has."""
        for key in keys:
            if key in self.fields:
                return key
        raise self.refusal(f"{' or '.join(keys)} is missing; give it, or remove the row")

    def value(self, key: str) -> Any:
        value = self.fields.get(key)
        if value is None:
            raise self.refusal(f"{key} is {'null' if key in self.fields else 'missing'}; give it, or remove the row")
        return value

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str):
            raise self.refusal(f"{key} is {value!r:.60}, not a text; put it in quotes")
        if not value.strip():
            raise self.refusal(f"{key} is empty; write it, or remove the row")
        return value

    def question(self) -> str:
        """The question without the words that lm-eval's prompt adds, which a ``query`` already has."""
        key = self.key(_QUESTION)
        text = self.text(key)
        if key == "query":
            text = text.strip().removeprefix("Question:").removesuffix("Answer:").strip()
        if not text:
            raise self.refusal(f"{key} is empty but for the prompt's words; write it, or remove the row")
        return text

    def texts(self, key: str, *, count: int | None = None) -> list[str]:
        """A list of texts, none of them empty: at least two, or exactly ``count``."""
        values = self.value(key)
        if not isinstance(values, list):
            raise self.refusal(f"{key} is not a list; give a list of texts")
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self.refusal(f"{key}[{number}] is {value!r:.60}, not a text; put it in quotes")
            if not value.strip():
                raise self.refusal(f"{key}[{number}] is empty; write it")
        if len(values) < 2 or count not in {None, len(values)}:
            wanted = "two or more" if count is None else count
            raise self.refusal(f"{key} has {len(values)} instead of {wanted}; correct it")
        return values

    def index(self, key: str, count: int) -> int:
        """The index of the right choice, from 0; at the key ``answer``, a letter from A is accepted."""
        value = self.value(key)
        if isinstance(value, str):
            value = value.strip()
            if _INDEX.fullmatch(value):
                value = int(value)
            elif key == "answer" and re.fullmatch("[A-Z]", value):
                value = ord(value) - ord("A")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.refusal(f"{key} is {value!r:.60}, not a number; give one from 0 to {count - 1}")
        if not 0 <= value < count:
            raise self.refusal(f"{key} is {value!s:.60}, and the choices are 0 to {count - 1}; correct it")
        return value

    def answer(self, count: int) -> int:
        return self.index(self.key(_ANSWER), count)


# Forms: each reader turns one form of row into the fields that lm-eval's task reads


def _arc(row: _Row) -> dict[str, Any]:
    choices = _Row(row.place, row.fields["choices"])
    texts = choices.texts("text")
    labels = choices.texts("label", count=len(texts))
    key = row.text("answerKey")
    if labels.count(key) != 1:
        raise row.refusal(f"answerKey is {key!r:.60}, and the labels are {', '.join(labels)!r:.60}; name one of them")
    return {"question": row.text("question"), "choices": {"text": texts, "label": labels}, "answerKey": key}


def _arc_original(row: _Row) -> dict[str, Any]:
    asked = _Row(row.place, row.fields["question"])
    pairs = asked.value("choices")
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise row.refusal("choices of the question is not a list of objects; give each its text and label")
    choices = {key: [pair.get(key) for pair in pairs] for key in ("text", "label")}
    return _arc(_Row(row.place, {**row.fields, "question": asked.text("stem"), "choices": choices}))


def _arc_listed(row: _Row) -> dict[str, Any]:
    choices = row.texts("choices")
    labels = [chr(ord("A") + number) for number in range(len(choices))]
    return {
        "question": row.question(),
        "choices": {"text": choices, "label": labels},
        "answerKey": labels[row.answer(len(choices))],
    }


def _hellaswag(row: _Row) -> dict[str, Any]:
    continued = row.value("ctx_b")
    if not isinstance(continued, str):
        raise row.refusal(f"ctx_b is {continued!r:.60}, not a text; put it in quotes")
    endings = row.texts("endings")
    return {
        "activity_label": row.text("activity_label"),
        "ctx_a": row.text("ctx_a"),
        "ctx_b": continued,  # empty if the context is one sentence
        "endings": endings,
        "label": row.index("label", len(endings)),
    }


def _hellaswag_listed(row: _Row) -> dict[str, Any]:
    choices = row.texts("choices")
    return {"query": row.text(row.key(_QUESTION)), "choices": choices, "label": row.answer(len(choices))}


def _piqa(row: _Row) -> dict[str, Any]:
    return {key: row.text(key) for key in ("goal", "sol1", "sol2")} | {"label": row.index("label", 2)}


def _piqa_listed(row: _Row) -> dict[str, Any]:
    first, second = row.texts("choices", count=2)
    return {"goal": row.question(), "sol1": first, "sol2": second, "label": row.answer(2)}


def _gsm8k(row: _Row) -> dict[str, Any]:
    answer = row.text("answer")
    if not _FINAL_NUMBER.search(answer):
        raise row.refusal('answer holds no "#### number"; end it with one')
    return {"question": row.text("question"), "answer": answer}


def _mmlu(row: _Row) -> dict[str, Any]:
    return {"question": row.question(), "choices": row.texts("choices", count=4), "answer": row.answer(4)}


class _Form(NamedTuple):
    """A form of rows, recognized by the type of the value at one key."""

    key: str
    type: type[object]
    read: Callable[[_Row], dict[str, Any]]
    ready: bool = False


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The forms of a task's rows, and the places of its files."""

    forms: tuple[_Form, ...]
    """The first form that fits a row reads it."""
    fields: str
    """The fields of a row, for a refusal."""
    questions: tuple[str, ...] = ("test", "", "validation", "dev", "train")
    """Splits that the questions may come from, the best first."""
    examples: tuple[str, ...] = ("train", "dev", "validation")
    """Splits that the few-shot examples may come from."""
    subjects: tuple[str, ...] = ()
    """The tasks that this one consists of; each has its own files."""
    inside: tuple[str, ...] = ()
    """Subfolders that may hold the files; if empty, the subfolder with the task's name."""


_SECRET_TEST = ("validation", "", "test", "dev", "train")
_ARC_FORMS = (
    _Form("choices", dict, _arc),
    _Form("question", dict, _arc_original),
    _Form("choices", object, _arc_listed),
)
_ARC_FIELDS = "question, choices with text and label, and answerKey, or query, choices and gold"

_TASKS: Mapping[str, _Task] = MappingProxyType(
    {
        "arc_easy": _Task(forms=_ARC_FORMS, fields=_ARC_FIELDS),
        "arc_challenge": _Task(forms=_ARC_FORMS, fields=_ARC_FIELDS),
        "hellaswag": _Task(
            forms=(_Form("endings", object, _hellaswag), _Form("choices", object, _hellaswag_listed, ready=True)),
            fields="activity_label, ctx_a, ctx_b, endings and label, or query, choices and gold",
            questions=_SECRET_TEST,
        ),
        "piqa": _Task(
            forms=(_Form("sol1", object, _piqa), _Form("choices", object, _piqa_listed)),
            fields="goal, sol1, sol2 and label, or query, choices and gold",
            questions=_SECRET_TEST,
        ),
        "gsm8k": _Task(forms=(_Form("question", object, _gsm8k),), fields="question and answer"),
        "mmlu": _Task(
            forms=(_Form("choices", object, _mmlu),),
            fields="question, choices and answer, or query, choices and gold",
            questions=("test", "", "validation", "dev"),
            examples=("dev",),
            subjects=MMLU_SUBJECTS,
            inside=(
                *("mmlu", "mmlu_test", "mmlu_dev", "mmlu/test", "mmlu/dev", "mmlu/val"),
                *("data/test", "data/dev", "data/val"),
            ),
        ),
    }
)
