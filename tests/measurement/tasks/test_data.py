from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from qexport.core.errors import InputError
from qexport.measurement.tasks.data import TaskData, load_task_data
from qexport.measurement.tasks.subjects import MMLU_SUBJECTS
from tests.inputs.conftest import refused
from tests.task_rows import write_mmlu

OURS = Path(__file__).resolve().parent.parent.parent / "data" / "tasks"
PLAIN = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "gsm8k")

HUB = {"question": "Why?", "choices": {"text": ["So.", "No."], "label": ["1", "2"]}, "answerKey": "2"}
ASKED = {"query": "Question: Why?\nAnswer:", "choices": ["So.", "No."], "gold": 1}
STORY = {"activity_label": "Rowing", "ctx_a": "He sits.", "ctx_b": "he", "endings": ["rows.", "flies."], "label": "1"}
GOAL = {"goal": "To row,", "sol1": "pull.", "sol2": "push.", "label": 1}
SUM = {"question": "1+2?", "answer": "It is <<1+2=3>>3.\n#### 3"}
FOUR = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 3}


def write(path: Path, *rows: object) -> Path:
    """A file of rows, in the form that its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows]
    path.write_text(f"[{','.join(lines)}]" if path.suffix.lower() == ".json" else "\n".join(lines), encoding="utf-8")
    return path


def load(folder: Path, task: str) -> TaskData:
    (data,) = load_task_data(folder, task).values()
    return data


def only_row(folder: Path, task: str, row: object) -> dict:
    write(folder / f"{task}.jsonl", row)
    (row,) = load(folder, task).rows
    return row


def put_mmlu(folder: Path, name: str, content: str) -> Path:
    """All subjects of MMLU, with one file in the place of anatomy's questions."""
    write_mmlu(folder, questions=1, examples=1)
    (folder / "mmlu" / "test" / "anatomy_test.csv").unlink()
    path = folder / "mmlu" / "test" / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


# Forms


@pytest.mark.parametrize(
    ("task", "row", "fields"),
    [
        ("arc_easy", HUB | {"id": "x"}, HUB),
        (
            "arc_easy",
            {
                "id": "x",
                "question": {"stem": "Why?", "choices": [{"text": "So.", "label": "1"}, {"text": "No.", "label": "2"}]},
                "answerKey": "2",
            },
            HUB,
        ),
        (
            "arc_challenge",
            ASKED,
            {"question": "Why?", "choices": {"text": ["So.", "No."], "label": ["A", "B"]}, "answerKey": "B"},
        ),
        (
            "arc_challenge",
            {"question": "Question: Why?", "choices": ["a", "b", "c", "d", "e"], "answer": "E"},
            {
                "question": "Question: Why?",
                "choices": {"text": ["a", "b", "c", "d", "e"], "label": ["A", "B", "C", "D", "E"]},
                "answerKey": "E",
            },
        ),
        ("hellaswag", STORY | {"ind": 4, "split": "val"}, STORY | {"label": 1}),
        ("hellaswag", STORY | {"ctx_b": "", "label": 0}, STORY | {"ctx_b": "", "label": 0}),
        ("hellaswag", ASKED, {"query": ASKED["query"], "choices": ["So.", "No."], "label": 1}),
        ("piqa", GOAL | {"id": 7}, GOAL),
        ("piqa", GOAL | {"label": "0"}, GOAL | {"label": 0}),
        ("piqa", ASKED, {"goal": "Why?", "sol1": "So.", "sol2": "No.", "label": 1}),
        ("gsm8k", SUM | {"id": 1}, SUM),
        ("gsm8k", SUM | {"answer": "#### -1,200.5"}, SUM | {"answer": "#### -1,200.5"}),
    ],
)
def test_a_row_comes_out_in_the_fields_of_lm_eval(tmp_path, task, row, fields):
    assert only_row(tmp_path, task, row) == fields


def test_only_the_query_form_of_hellaswag_is_ready(tmp_path):
    for task, row, ready in [("hellaswag", ASKED, True), ("hellaswag", STORY, False), ("piqa", ASKED, False)]:
        write(tmp_path / f"{task}.jsonl", row)
        assert load(tmp_path, task).ready is ready


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("anatomy_test.jsonl", json.dumps(FOUR | {"subject": "anatomy"})),
        ("anatomy_test.json", json.dumps([FOUR])),
        ("anatomy_test.jsonl", json.dumps({"query": "Question: Which? ", "choices": list("abcd"), "gold": 3})),
        ("anatomy_test.csv", "question,choice0,choice1,choice2,choice3,answer\nWhich?,a,b,c,d,3\n"),
        ("anatomy_test.csv", "Answer,Choice3,choice1,choice2,choice0,Question\r\nD,d,b,c,a,Which?\r\n"),
        ("anatomy_test.csv", 'subject,query,choice0,choice1,choice2,choice3,label\n"a, b",Which?,a,b,c,d, 3\n'),
        ("anatomy_test.csv", "Which?,a,b,c,d,D\n"),
        ("anatomy_test.csv", "\ufeff\nWhich?,a,b,c,d,D"),
    ],
)
def test_forms_of_mmlu(tmp_path, name, content):
    put_mmlu(tmp_path, name, content)
    assert load_task_data(tmp_path, "mmlu")["mmlu_anatomy"].rows == (FOUR,)


@pytest.mark.parametrize(
    ("task", "content", "fields"),
    [
        (
            "arc_easy",
            'question,choice0,choice1,answer\n"Why, and\nhow?",So.,No.,B\n',
            {"question": "Why, and\nhow?", "choices": {"text": ["So.", "No."], "label": ["A", "B"]}, "answerKey": "B"},
        ),
        (
            "hellaswag",
            "query,choice0,choice1,gold\nWhy?,So.,No.,1\n",
            {"query": "Why?", "choices": ["So.", "No."], "label": 1},
        ),
        ("piqa", 'goal,sol1,sol2,label\n"To row,",pull.,push.,1\n', GOAL),
        ("piqa", 'goal,choice0,choice1,label\n"To row,",pull.,push.,1\n', GOAL),
        ("gsm8k", 'question,answer\n1+2?,"It is <<1+2=3>>3.\n#### 3"\n', SUM),
    ],
)
def test_a_csv_with_a_header_serves_every_task(tmp_path, task, content, fields):
    (tmp_path / f"{task}.csv").write_text(content, encoding="utf-8")
    assert load(tmp_path, task).rows == (fields,)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_does_not_hurt(tmp_path, ending):
    plain = {
        ".jsonl": json.dumps(SUM),
        ".json": json.dumps([SUM]),
        ".csv": 'question,answer\n1+2?,"It is <<1+2=3>>3.\n#### 3"\n',
    }
    (tmp_path / f"gsm8k{ending}").write_text("\ufeff" + plain[ending], encoding="utf-8")
    assert load(tmp_path, "gsm8k").rows == (SUM,)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=20).filter(
    str.strip
)


@settings(max_examples=100, deadline=None)
@given(TEXT, st.sampled_from(["", "Question: "]), st.sampled_from(["", "\nAnswer:", "\nAnswer: ", "\n", " "]))
@example("Question: Why?", "", "")
def test_a_question_is_the_same_whatever_the_prompt_put_around_it(text, before, behind):
    word = f"a{text}z"  # ends in letters, so that nothing of its own looks like the prompt's
    with tempfile.TemporaryDirectory() as folder:
        row = only_row(Path(folder), "piqa", {"query": f"{before}{word}{behind}", "choices": ["a", "b"], "gold": 0})
    assert row["goal"] == word


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=4, max_size=4), st.integers(0, 3)), min_size=1, max_size=4))
def test_any_text_survives_csv(questions):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "arc_easy.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["question", "choice0", "choice1", "choice2", "choice3", "answer"])
            writer.writerows([question, *choices, answer] for question, choices, answer in questions)
        rows = load(Path(name), "arc_easy").rows
    assert [(row["question"], row["choices"]["text"], "ABCD".index(row["answerKey"])) for row in rows] == questions


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "label", "stem"]), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["query", "question", "goal", "choices", "gold", "answer", "label", "answerKey", "sol1", "sol2", "endings", "ctx_b"]
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLAIN), st.dictionaries(KEYS, JSON) | JSON)
def test_any_row_is_read_or_refused_in_one_line(task, row):
    with tempfile.TemporaryDirectory() as folder:
        try:
            only_row(Path(folder), task, row)
        except InputError as error:
            message = str(error)
        else:
            return
    assert f"{task}.jsonl:1: " in message
    assert "\n" not in message


# Refusals of rows


def without(row: dict, key: str) -> dict:
    return {name: value for name, value in row.items() if name != key}


def choices(**changed: object) -> dict:
    return HUB | {"choices": HUB["choices"] | changed}


@pytest.mark.parametrize(
    ("task", "row", "parts"),
    [
        # the right answer
        ("arc_easy", without(HUB, "answerKey"), ["answerKey is missing"]),
        ("arc_easy", HUB | {"answerKey": None}, ["answerKey is null"]),
        ("arc_easy", HUB | {"answerKey": "C"}, ["answerKey is 'C'", "labels are '1, 2'"]),
        ("arc_easy", HUB | {"answerKey": 2}, ["answerKey is 2", "not a text"]),
        ("arc_easy", choices(label=["2", "2"]), ["answerKey is '2'", "'2, 2'"]),
        ("arc_easy", without(ASKED, "gold"), ["gold or answer or label is missing"]),
        ("arc_easy", ASKED | {"gold": None}, ["gold is null"]),
        ("arc_easy", ASKED | {"gold": 2}, ["gold is 2", "0 to 1"]),
        ("arc_easy", ASKED | {"gold": -1}, ["gold is -1", "0 to 1"]),
        ("arc_easy", ASKED | {"gold": True}, ["gold is True", "not a number"]),
        ("arc_easy", ASKED | {"gold": 1.0}, ["gold is 1.0", "not a number"]),
        ("arc_easy", ASKED | {"gold": "B"}, ["gold is 'B'", "not a number"]),
        ("hellaswag", STORY | {"label": "B"}, ["label is 'B'", "not a number"]),
        ("hellaswag", STORY | {"label": ""}, ["label is ''", "not a number"]),
        ("hellaswag", STORY | {"label": "9" * 5000}, ["label is '9999", "not a number"]),
        ("hellaswag", without(STORY, "label"), ["label is missing"]),
        ("piqa", GOAL | {"label": -1}, ["label is -1", "0 to 1"]),
        ("piqa", GOAL | {"label": "2"}, ["label is 2", "0 to 1"]),
        ("gsm8k", SUM | {"answer": "It is 3."}, ['"#### number"']),
        ("gsm8k", SUM | {"answer": "It is 3.\n#### three"}, ['"#### number"']),
        ("gsm8k", SUM | {"answer": 3}, ["answer is 3", "not a text"]),
        ("gsm8k", without(SUM, "answer"), ["answer is missing"]),
        # the question
        ("arc_easy", HUB | {"question": " \n"}, ["question is empty"]),
        ("arc_easy", HUB | {"question": None}, ["question is null"]),
        ("arc_easy", HUB | {"question": {"choices": [{}, {}]}}, ["question is {'choices'", "not a text"]),
        ("arc_easy", ASKED | {"query": ""}, ["query is empty"]),
        ("arc_easy", ASKED | {"query": "Question: \nAnswer:"}, ["query is empty but for the prompt's words"]),
        ("arc_easy", without(ASKED, "query"), ["query or question or goal is missing"]),
        ("hellaswag", STORY | {"ctx_a": ""}, ["ctx_a is empty"]),
        ("hellaswag", STORY | {"ctx_b": 3}, ["ctx_b is 3", "not a text"]),
        ("hellaswag", without(STORY, "activity_label"), ["activity_label is missing"]),
        ("piqa", without(GOAL, "goal"), ["goal is missing"]),
        ("gsm8k", SUM | {"question": ""}, ["question is empty"]),
        # the choices
        ("arc_easy", choices(text=["So.", ""]), ["text[1] is empty"]),
        ("arc_easy", choices(text=["So.", 3]), ["text[1] is 3", "not a text"]),
        ("arc_easy", choices(text=["So.", "No.", "Oh."]), ["label has 2 instead of 3"]),
        ("arc_easy", choices(text=["So."], label=["1"]), ["text has 1 instead of two or more"]),
        ("arc_easy", choices(label=None), ["label is null"]),
        ("arc_easy", HUB | {"choices": None}, ["choices is null"]),
        ("arc_easy", {"question": {"stem": "Why?", "choices": "So."}}, ["not a list of objects"]),
        ("arc_easy", {"question": {"stem": "Why?", "choices": ["So."]}}, ["not a list of objects"]),
        ("arc_easy", {"question": {"stem": "Why?"}}, ["choices is missing"]),
        ("arc_easy", {"question": {"choices": [{"text": "So."}] * 2}}, ["stem is missing"]),
        ("arc_easy", {"question": {"stem": "Why?", "choices": [{"text": "So."}] * 2}}, ["label[0] is None"]),
        ("arc_easy", ASKED | {"choices": ["So."]}, ["choices has 1 instead of two or more"]),
        ("arc_easy", ASKED | {"choices": ["So.", " "]}, ["choices[1] is empty"]),
        ("arc_easy", ASKED | {"choices": ["So.", None]}, ["choices[1] is None", "not a text"]),
        ("arc_easy", ASKED | {"choices": "So."}, ["choices is not a list"]),
        ("hellaswag", STORY | {"endings": ["rows."]}, ["endings has 1 instead of two or more"]),
        ("hellaswag", STORY | {"endings": ["rows.", ""]}, ["endings[1] is empty"]),
        ("piqa", ASKED | {"choices": ["a", "b", "c"]}, ["choices has 3 instead of 2"]),
        ("piqa", GOAL | {"sol2": ""}, ["sol2 is empty"]),
        ("piqa", GOAL | {"sol1": None}, ["sol1 is null"]),
        # the form
        ("arc_easy", GOAL, ["unknown form (its keys: 'goal, sol1, sol2, label')", "answerKey"]),
        ("hellaswag", SUM, ["unknown form (its keys: 'question, answer')", "activity_label"]),
        ("piqa", {}, ["unknown form (its keys: '')", "sol1"]),
        ("gsm8k", {"a\nb": 1}, ["unknown form", "question and answer"]),
        ("gsm8k", "1+2?", ["no object", "question and answer"]),
        ("gsm8k", [SUM], ["no object"]),
    ],
)
def test_bad_rows(tmp_path, task, row, parts):
    good = {"arc": HUB, "hellaswag": STORY, "piqa": GOAL, "gsm8k": SUM}[task.split("_", maxsplit=1)[0]]
    path = write(tmp_path / f"{task}.jsonl", good, row)
    refused(lambda: load_task_data(tmp_path, task), f"{path}:2: ", *parts)


@pytest.mark.parametrize(
    ("name", "content", "line", "parts"),
    [
        ("anatomy_test.csv", "Which?,a,b,c,D\n", 1, ["5 columns instead of 6"]),
        ("anatomy_test.csv", "Which?,a,b,c,d,E\n", 1, ["answer is 4", "0 to 3"]),
        ("anatomy_test.csv", "Which?,a,b,c,d,d\n", 1, ["answer is 'd'", "not a number"]),
        ("anatomy_test.csv", 'Which?,a,b,c,d,D\n\n"Or\nnot?",a,b,,d,D\n', 3, ["choices[2] is empty"]),
        ("anatomy_test.csv", '"Or\n\nnot?",a,b,c,d,D\n ,a,b,c,d,D\n', 4, ["question is empty"]),
        ("anatomy_test.csv", 'Which?,a,b,c,d,D\nWhich?,"a,b,c,d,D\n', 2, ["2 columns instead of 6"]),
        ("anatomy_test.csv", f'Which?,a,b,c,d,D\nWhich?,"{"a" * 200_000}\n', 2, ["not CSV", "quote"]),
        (
            "anatomy_test.csv",
            "question,choice0,choice1,choice2,answer\nWhich?,a,b,c,2\n",
            2,
            ["choices has 3 instead of 4"],
        ),
        (
            "anatomy_test.csv",
            "question,choice1,choice2,answer\nWhich?,a,b,1\n",
            2,
            ["choice1, choice2 instead of choice0"],
        ),
        ("anatomy_test.csv", "question,choice0,choice0,answer\nWhich?,a,b,1\n", 2, ["correct the header"]),
        ("anatomy_test.csv", "question,A,B,answer\nWhich?,a,b,1\n", 2, ["unknown form", "'question, a, b, answer'"]),
        ("anatomy_test.csv", "question,choice0,choice1,answer\nWhich?,a,1\n", 2, ["3 columns instead of 4"]),
        ("anatomy_test.jsonl", json.dumps(FOUR | {"choices": list("abc")}), 1, ["choices has 3 instead of 4"]),
        ("anatomy_test.jsonl", json.dumps(without(FOUR, "answer")), 1, ["gold or answer or label is missing"]),
        ("anatomy_test.jsonl", json.dumps(FOUR | {"answer": False}), 1, ["answer is False", "not a number"]),
    ],
)
def test_bad_files_of_mmlu(tmp_path, name, content, line, parts):
    path = put_mmlu(tmp_path, name, content)
    refused(lambda: load_task_data(tmp_path, "mmlu"), f"{path}:{line}: ", *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("gsm8k.jsonl", b"", ["holds no questions"]),
        ("gsm8k.jsonl", b"\xef\xbb\xbf\n \n", ["holds no questions"]),
        ("gsm8k.json", b"[]", ["holds no questions"]),
        ("gsm8k.csv", b"", ["holds no questions"]),
        ("gsm8k.csv", b"question,answer\n", ["holds no questions"]),
        ("gsm8k.jsonl", b"\n{", ["gsm8k.jsonl:2", "not a line of JSON"]),
        ("gsm8k.json", b"{}{}", ["not JSON"]),
        ("gsm8k.json", b"[3]", ["item 0", "no object"]),
        ("gsm8k.jsonl", b"caf\xe9", ["not UTF-8"]),
        ("gsm8k.csv", b"caf\xe9", ["not UTF-8"]),
    ],
)
def test_bad_files(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    refused(lambda: load_task_data(tmp_path, "gsm8k"), str(tmp_path / name), *parts)


@pytest.mark.parametrize(("first", "second"), [(STORY, ASKED), (ASKED, STORY)])
def test_hellaswag_is_in_one_form(tmp_path, first, second):
    path = write(tmp_path / "hellaswag.jsonl", first, first, second)
    refused(lambda: load_task_data(tmp_path, "hellaswag"), f"{path}:3: ", "another form")
    questions = write(tmp_path / "hellaswag.jsonl", first)
    examples = write(tmp_path / "hellaswag_train.jsonl", second)
    refused(lambda: load_task_data(tmp_path, "hellaswag"), str(questions), str(examples), "one form")


def test_other_tasks_may_mix_forms(tmp_path):
    write(tmp_path / "arc_easy.jsonl", HUB, ASKED)
    assert [row["answerKey"] for row in load(tmp_path, "arc_easy").rows] == ["2", "B"]


# Files


@pytest.mark.parametrize(
    ("task", "name", "split"),
    [
        ("gsm8k", "gsm8k.jsonl", ""),
        ("gsm8k", "gsm8k_train_1500.jsonl", "train"),
        ("gsm8k", "GSM8K-Test.JSON", "test"),
        ("gsm8k", "gsm8k_val.jsonl", "validation"),
        ("gsm8k", "gsm8k-valid-2.jsonl", "validation"),
        ("gsm8k", "gsm8k_dev.json", "dev"),
        ("gsm8k", "gsm8k/test.jsonl", "test"),
        ("gsm8k", "GSM8K/Validation.jsonl", "validation"),
        ("gsm8k", "gsm8k/train_7.jsonl", "train"),
        ("gsm8k", "gsm8k/gsm8k_test.jsonl", "test"),
        ("arc_challenge", "ARC-Challenge-Test.jsonl", "test"),
        ("arc_easy", "ARC-Easy/ARC-Easy-Dev.jsonl", "dev"),
        ("arc_easy", "arc-easy/test.jsonl", "test"),
    ],
)
def test_names_of_files(tmp_path, task, name, split):
    write(tmp_path / name, SUM if task == "gsm8k" else HUB)
    data = load(tmp_path, task)
    assert (data.task, data.split, data.files, data.examples) == (task, split, (name,), None)


@pytest.mark.parametrize(
    "name",
    [
        "test.jsonl",  # in the folder of all tasks, it could be any task's
        "arc_easy/train.jsonl",
        "gsm8k_1500.jsonl",
        "gsm8k_testing.jsonl",
        "my_gsm8k_test.jsonl",
        "gsm8k_test.txt",
        "other/gsm8k_test.jsonl",
        "gsm8k/gsm8k/gsm8k_test.jsonl",
        "gsm8k_test.jsonl/a.txt",  # a folder of that name
    ],
)
def test_other_names_are_not_taken(tmp_path, name):
    write(tmp_path / name, SUM)
    refused(lambda: load_task_data(tmp_path, "gsm8k"), "no file for it")


SECRET = ("validation", "", "test", "dev", "train")


@pytest.mark.parametrize(
    ("task", "order"),
    [("arc_easy", ("test", "", "validation", "dev", "train")), ("hellaswag", SECRET), ("piqa", SECRET)],
)
def test_which_split_is_asked_and_which_gives_examples(tmp_path, task, order):
    row = {"arc_easy": HUB, "hellaswag": STORY, "piqa": GOAL}[task]
    key = {"arc_easy": "question", "hellaswag": "ctx_a", "piqa": "goal"}[task]
    paths = {split: tmp_path / f"{task}_{split}.jsonl" if split else tmp_path / f"{task}.jsonl" for split in order}
    for split, path in paths.items():
        write(path, row | {key: f"of {split}"})
    for place, split in enumerate(order):
        left = order[place + 1 :]
        source = next((name for name in ("train", "dev", "validation") if name in left), None)
        data = load(tmp_path, task)
        assert data.split == split
        assert [asked[key] for asked in data.rows] == [f"of {split}"]
        assert data.examples == (None if source is None else ({**data.rows[0], key: f"of {source}"},))
        assert data.files == tuple(paths[name].name for name in (split, source) if name is not None)
        paths[split].unlink()


@pytest.mark.parametrize(
    "names",
    [
        ("gsm8k_train.jsonl", "gsm8k_train_1500.jsonl"),
        ("gsm8k.json", "gsm8k.jsonl"),
        ("gsm8k_val.jsonl", "gsm8k_validation.jsonl"),
        ("gsm8k_test.jsonl", "gsm8k/test.jsonl"),
        ("gsm8k-test.jsonl", "gsm8k_test.jsonl"),
    ],
)
def test_two_files_for_one_split(tmp_path, names):
    paths = [write(tmp_path / name, SUM) for name in names]
    refused(lambda: load_task_data(tmp_path, "gsm8k"), "gsm8k: ", *map(str, paths), "keep one")


def test_nothing_found_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(InputError) as caught:
        load_task_data(tmp_path, "arc_easy")
    assert str(caught.value) == (
        f"arc_easy: no file for it in {tmp_path}; looked for "
        f"arc_easy[_test|_validation|_dev|_train].jsonl, .json, .csv in {tmp_path} and {tmp_path}/arc_easy; "
        "put one there, or leave --data out to take it from the hub"
    )


def test_a_folder_that_is_none(tmp_path):
    refused(lambda: load_task_data(tmp_path / "none", "piqa"), str(tmp_path / "none"), "No such file")
    path = write(tmp_path / "piqa.jsonl", GOAL)
    refused(lambda: load_task_data(path, "piqa"), str(path), "no folder")


def test_an_unknown_task(tmp_path):
    refused(lambda: load_task_data(tmp_path, "arc_eazy"), "arc_eazy: ", "did you mean arc_easy")
    refused(lambda: load_task_data(tmp_path, "mmlu_anatomy"), "mmlu_anatomy: ", "mmlu")


# MMLU


def test_the_subjects_are_those_of_lm_eval():
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        pytest.skip("lm-eval is not installed")
    files = (Path(spec.origin).parent / "tasks" / "mmlu" / "default").glob("mmlu_*.yaml")
    tasks = [re.search(r'^"task": "mmlu_(.*)"$', path.read_text(), re.MULTILINE)[1] for path in files]
    assert tuple(sorted(tasks)) == MMLU_SUBJECTS


def test_mmlu_has_an_entry_for_each_subject(tmp_path):
    write_mmlu(tmp_path, questions=2, examples=5)
    loaded = load_task_data(tmp_path, "mmlu")
    assert list(loaded) == [f"mmlu_{subject}" for subject in MMLU_SUBJECTS]
    for subject, data in zip(MMLU_SUBJECTS, loaded.values(), strict=True):
        assert (data.task, data.split, data.ready) == (f"mmlu_{subject}", "test", False)
        assert (len(data.rows), len(data.examples)) == (2, 5)
        assert data.files == (f"mmlu/test/{subject}_test.csv", f"mmlu/dev/{subject}_dev.csv")
        for row in data.rows + data.examples:
            assert subject.replace("_", " ") in row["question"]
            first, second = map(int, re.findall("[0-9]+", row["question"]))
            assert int(row["choices"][row["answer"]]) == first + second


@pytest.mark.parametrize(
    "place",
    ["", "mmlu", "mmlu_test", "MMLU-dev", "mmlu/test", "mmlu/dev", "mmlu/val", "data/test", "data/dev", "data/val"],
)
def test_places_of_mmlu(tmp_path, place):
    for subject in MMLU_SUBJECTS:
        write(tmp_path / place / f"{subject}_test.jsonl", FOUR)
    data = load_task_data(tmp_path, "mmlu")["mmlu_virology"]
    assert data.files == ((Path(place) / "virology_test.jsonl").as_posix(),)
    assert data.examples is None


def test_which_split_of_mmlu_is_asked(tmp_path):
    write_mmlu(tmp_path)
    folder = tmp_path / "mmlu"
    paths = {
        "test": folder / "test" / "anatomy_test.csv",
        "": write(folder / "anatomy.jsonl", FOUR),
        "validation": write(folder / "val" / "anatomy_val.jsonl", FOUR),
        "dev": folder / "dev" / "anatomy_dev.csv",
    }
    write(tmp_path / "anatomy_train.jsonl", FOUR)
    for split, path in paths.items():
        data = load_task_data(tmp_path, "mmlu")["mmlu_anatomy"]
        assert (data.split, tmp_path / data.files[0]) == (split, path)
        assert (data.examples is None) == (split == "dev")
        path.unlink()
    refused(lambda: load_task_data(tmp_path, "mmlu"), "1 of its 57 subjects are missing (anatomy) in", "put one there")


def test_subjects_of_mmlu_that_are_missing(tmp_path):
    write_mmlu(tmp_path)
    for subject in ("virology", "sociology", "marketing", "astronomy"):
        for path in (tmp_path / "mmlu").rglob(f"{subject}_*.csv"):
            path.unlink()
    refused(
        lambda: load_task_data(tmp_path, "mmlu"),
        "mmlu: 4 of its 57 subjects are missing (astronomy, marketing, sociology, ...) in",
        "<subject>[_test|_validation|_dev].jsonl, .json, .csv",
        f"in {tmp_path} and {tmp_path}/{{mmlu,mmlu_test,mmlu_dev,mmlu/test,mmlu/dev,mmlu/val,data/test,data/dev,data/val}}",
    )


def test_two_files_for_one_split_of_a_subject(tmp_path):
    write_mmlu(tmp_path)
    again = write(tmp_path / "data" / "test" / "anatomy_test.jsonl", FOUR)
    refused(lambda: load_task_data(tmp_path, "mmlu"), "anatomy: ", "mmlu/test/anatomy_test.csv", str(again), "keep one")


# Whole files


@pytest.mark.parametrize(
    ("task", "split", "rows", "examples"),
    [
        ("arc_easy", "", 12, None),
        ("arc_challenge", "", 12, None),
        ("hellaswag", "validation", 12, None),
        ("piqa", "validation", 12, None),
        ("gsm8k", "test", 12, 8),
    ],
)
def test_the_stand_ins(task, split, rows, examples):
    data = load(OURS, task)
    assert (data.split, len(data.rows), data.ready) == (split, rows, False)
    assert (data.examples and len(data.examples)) == examples
    assert len({json.dumps(row) for row in data.rows + (data.examples or ())}) == rows + (examples or 0)


def test_the_sums_of_the_stand_ins_are_right():
    data = load(OURS, "gsm8k")
    for row in data.rows + data.examples:
        for formula, value in re.findall("<<(.*?)=(.*?)>>", row["answer"]):
            assert eval(formula) == float(value), row
        assert float(value) == float(row["answer"].split("#### ")[1].replace(",", "")), row


@pytest.mark.parametrize(
    ("task", "split", "rows"),
    [("arc_challenge", "", 1172), ("piqa", "", 1838), ("gsm8k", "train", 1500), ("mmlu", "dev", 285)],
)
def test_real_files(data_dir, task, split, rows):
    folder = data_dir / "tasks"
    if not folder.is_dir():
        pytest.skip("no tasks/ in the folder of data")
    loaded = load_task_data(folder, task).values()
    assert sum(len(data.rows) for data in loaded) == rows
    assert {data.split for data in loaded} == {split}
    assert all(data.examples is None and len(data.files) == 1 for data in loaded)
    asked = [row.get("question", row.get("goal")) for data in loaded for row in data.rows]
    assert not any(text.startswith("Question:") for text in asked)
    if task in {"arc_challenge", "piqa"}:
        assert all(text == text.strip() for text in asked)


def test_real_multi_line_cells(data_dir):
    path = data_dir / "tasks" / "mmlu_dev" / "college_computer_science_dev.csv"
    if not path.is_file():
        pytest.skip("no mmlu_dev/ in the folder of data")
    data = load_task_data(path.parent.parent, "mmlu")["mmlu_college_computer_science"]
    records = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))[1:]
    assert any("\n" in row["question"] for row in data.rows)
    assert [[row["question"], *row["choices"], str(row["answer"])] for row in data.rows] == records


def test_neither_lm_eval_nor_datasets_is_imported():
    code = "import sys, qexport.measurement.tasks.data; print({'lm_eval', 'datasets', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
