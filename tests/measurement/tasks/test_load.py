"""lm-eval's tasks with local questions: its prompts word for word, and what is told of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter

import pytest

from qexport.core.errors import InputError, UnsupportedHere
from qexport.core.silence import quiet
from qexport.inputs.experiment import Tasks
from qexport.measurement.tasks.load import load_task
from qexport.measurement.tasks.subjects import MMLU_SUBJECTS
from tests.measurement.tasks.conftest import ROWS, SIX

ARC = [
    {
        "id": "1",
        "question": "Why?",
        "choices": {"text": ["So.", "No.", "Oh."], "label": ["A", "B", "C"]},
        "answerKey": "C",
    },
    {"id": "2", "question": "Which of\nthese?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"},
]
STORIES = [
    {
        "ind": 7,
        "activity_label": "Rowing",
        "ctx_a": "A man [sits]  in a boat.",
        "ctx_b": "he",
        "ctx": "A man [sits]  in a boat. he",
        "endings": ["rows [title] away.", "flies  off.", "eats it.", "sleeps."],
        "split": "val",
        "label": "1",
    },
    {
        "ind": 8,
        "activity_label": "Baking",
        "ctx_a": "She kneads.",
        "ctx_b": "",
        "ctx": "She kneads.",
        "endings": ["a", "b", "c", "d"],
        "split": "val",
        "label": "0",
    },
]
GOALS = [
    {"goal": "To row,", "sol1": "pull.", "sol2": "push.", "label": 1},
    {"goal": "To sleep,", "sol1": "lie down.", "sol2": "stand up.", "label": 0},
]
FOUR = [
    {"question": "Which?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 3},
    {"question": "Who?", "subject": "anatomy", "choices": ["e", "f", "g", "h"], "answer": 0},
]


def listed(question, choices, gold):
    return {"query": question, "choices": choices, "gold": gold}


ASKED = {
    "arc_easy": [
        listed("Question: Why?\nAnswer:", ["So.", "No.", "Oh."], 2),
        listed("Which of\nthese?", ["x", "y"], 0),
    ],
    "hellaswag": [
        listed("Rowing: A man  in a boat. He", ["rows. away.", "flies off.", "eats it.", "sleeps."], 1),
        listed("Baking: She kneads.", ["a", "b", "c", "d"], 0),
    ],
    "piqa": [listed("Question: To row,\n", ["pull.", "push."], 1), listed("To sleep,", ["lie down.", "stand up."], 0)],
    "mmlu": [listed("Question: Which?", ["a", "b", "c", "d"], 3), listed("Who?\n", ["e", "f", "g", "h"], 0)],
}
HUB = {"arc_easy": ARC, "hellaswag": STORIES, "piqa": GOALS, "mmlu": FOUR}
SPLITS = {"hellaswag": ("validation", "train"), "piqa": ("validation", "train"), "mmlu": ("test", "dev")}


def put(folder, task, rows, split=""):
    """Rows as a local file; of MMLU, in every subject."""
    names = MMLU_SUBJECTS if task == "mmlu" else (task,)
    folder.mkdir(exist_ok=True)
    for name in names:
        path = folder / f"{name}{split and '_'}{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prompts(task, seed=1234):
    """All that is asked, as lm-eval writes it."""
    found = {}
    with quiet():
        for name, part in task.parts.items():
            part.set_fewshot_seed(seed)
            part.build_all_requests(samples=task.asked[name])
            found[name] = [instance.args for instance in part.instances]
    return found


# Prompts


@pytest.mark.parametrize("shots", [0, 1])
@pytest.mark.parametrize("task", HUB)
def test_another_form_of_the_same_questions_gives_the_prompts_of_the_hubs_form(hub, tmp_path, task, shots):
    asked, examples = SPLITS.get(task, ("test", "train"))
    hub(lambda _path, _name: {asked: HUB[task][:1], examples: HUB[task][1:] * 2}, "test", "validation", "train", "dev")
    wanted = prompts(load_task(task, Tasks(num_fewshot=shots)))
    for name, rows in (("hub", HUB), ("listed", ASKED)):
        folder = put(put(tmp_path / name, task, rows[task][:1], asked), task, rows[task][1:] * 2, examples)
        assert prompts(load_task(task, Tasks(data=folder, num_fewshot=shots))) == wanted, name
    assert len(wanted) == (57 if task == "mmlu" else 1)
    first = next(iter(wanted.values()))
    assert len(first) == len(ASKED[task][0]["choices"])
    assert ("Baking" in first[0][0] or "these?" in first[0][0] or "sleep" in first[0][0] or "Who?" in first[0][0]) == (
        shots == 1
    )


@pytest.mark.parametrize("task", ["arc_easy", "arc_challenge", "hellaswag", "piqa"])
@pytest.mark.parametrize("shots", [3, 11])
def test_examples_of_the_same_rows_are_never_the_question_itself(task, shots):
    loaded = load_task(task, Tasks(data=ROWS, num_fewshot=shots))
    (part,) = loaded.parts.values()
    texts = [part.doc_to_text(document) for document in part.eval_docs]
    asked = list(dict.fromkeys(context for context, _ in prompts(loaded)[task]))
    assert len(asked) == len(texts) == 12
    for text, context in zip(texts, asked, strict=True):
        assert context.endswith(text)
        assert Counter(other in context.removesuffix(text) for other in texts) == {True: shots, False: 12 - shots}
        assert text not in context.removesuffix(text)


def test_examples_of_mmlu_are_the_first_ones_and_not_the_question(questions, tmp_path):
    """The dev split alone, which the field's few-shot examples come from."""
    folder = tmp_path / "mmlu"
    shutil.copytree(questions / "mmlu" / "dev", folder / "dev")
    loaded = load_task("mmlu", Tasks(data=tmp_path, num_fewshot=2))
    for name, part in list(loaded.parts.items())[::20]:
        texts = [part.doc_to_text(document) for document in part.eval_docs]
        contexts = list(dict.fromkeys(context for context, _ in prompts(loaded)[name]))
        for text, context in zip(texts, contexts, strict=True):
            others = [other for other in texts if other != text]
            assert [context.count(other) for other in others] == [1, 1]
            assert context.count(text) == 1
    assert loaded.split == "dev"


def test_a_seed_chooses_the_examples():
    loaded = load_task("piqa", Tasks(data=ROWS, num_fewshot=3, limit=4))
    assert prompts(loaded, 1) == prompts(loaded, 1)
    assert prompts(loaded, 1) != prompts(loaded, 2)


def test_more_examples_than_there_are(tmp_path):
    def most(task, folder=ROWS):
        with pytest.raises(InputError) as caught:
            load_task(task, Tasks(data=folder, num_fewshot=1000))
        message = str(caught.value)
        assert f"{task}: 1000 examples are asked for" in message
        assert "pass a smaller --num-fewshot, or add a file of examples" in message
        most = int(message.partition("there are only ")[2].partition(";")[0])
        assert prompts(load_task(task, Tasks(data=folder, num_fewshot=most)))
        with pytest.raises(InputError):
            load_task(task, Tasks(data=folder, num_fewshot=most + 1))
        return most

    assert most("arc_easy") == 11
    assert most("gsm8k") == 8
    twice = put(tmp_path, "piqa", [*GOALS, *GOALS, *GOALS[:1]])
    assert most("piqa", twice) == 2  # besides one that is there three times


# How many


@pytest.mark.parametrize(
    ("limit", "asked"),
    [
        (None, 12),
        (5, 5),
        (5.0, 5),
        (1, 1),
        (100, 12),
        (0.5, 6),
        (0.3, 4),
        (0.01, 1),
        ({"arc_easy": 3}, 3),
        ({"piqa": 3}, 12),
    ],
)
def test_a_limit_counts_as_in_lm_eval(limit, asked):
    loaded = load_task("arc_easy", Tasks(data=ROWS, limit=limit))
    assert len(loaded.asked["arc_easy"]) == asked
    if not isinstance(limit, dict):
        from lm_eval.evaluator_utils import get_sample_size

        assert min(get_sample_size(loaded.parts["arc_easy"], limit) or 12, 12) == asked


def test_a_limit_is_of_each_subject(questions):
    loaded = load_task("mmlu", Tasks(data=questions, limit=1))
    assert loaded.asked == dict.fromkeys((f"mmlu_{subject}" for subject in MMLU_SUBJECTS), range(1))


# What is told


def digest(folder, rows, name="arc_easy", task="arc_easy", **plan):
    put(folder, name, rows)
    found = load_task(task, Tasks(data=folder, **plan)).data_sha256
    (folder / f"{name}.jsonl").unlink()
    return found


def test_the_digest_is_of_the_questions_and_not_of_their_file(tmp_path):
    first = digest(tmp_path, ARC)
    assert digest(tmp_path, ARC, name="ARC-Easy_test") == first
    assert digest(tmp_path, ASKED["arc_easy"]) == first
    (tmp_path / "arc_easy.json").write_text(json.dumps(ARC))
    assert load_task("arc_easy", Tasks(data=tmp_path)).data_sha256 == first
    (tmp_path / "arc_easy.json").unlink()
    others = {
        "another answer": [ARC[0] | {"answerKey": "A"}, ARC[1]],
        "another question": [ARC[0] | {"question": "Why not?"}, ARC[1]],
        "another choice": [ARC[0], ARC[1] | {"choices": {"text": ["x", "z"], "label": ["A", "B"]}}],
        "another order": ARC[::-1],
        "fewer": ARC[:1],
        "more": [*ARC, ARC[0]],
    }
    assert len({first, *(digest(tmp_path, rows) for rows in others.values())}) == 1 + len(others)


def test_the_digest_is_of_what_is_asked_and_of_what_examples_are_chosen_from(tmp_path):
    changed = [ARC[0], ARC[1] | {"answerKey": "B"}]
    assert digest(tmp_path, ARC, limit=1) == digest(tmp_path, changed, limit=1)
    assert digest(tmp_path, ARC, limit=1, num_fewshot=1) != digest(tmp_path, changed, limit=1, num_fewshot=1)
    put(tmp_path, "arc_easy", ARC[:1], "train")
    plain, shown = digest(tmp_path, ARC), digest(tmp_path, ARC, num_fewshot=1)
    put(tmp_path, "arc_easy", changed[1:], "train")
    assert digest(tmp_path, ARC) == plain
    assert digest(tmp_path, ARC, num_fewshot=1) != shown


def test_where_questions_come_from_in_words_that_hold_anywhere(questions):
    origins = {name: load_task(name, Tasks(data=questions, limit=1)) for name in SIX}
    assert {name: (task.origin, task.split) for name, task in origins.items()} == {
        "arc_easy": ("arc_easy.jsonl", ""),
        "arc_challenge": ("arc_challenge.jsonl", ""),
        "hellaswag": ("hellaswag_validation.jsonl", "validation"),
        "piqa": ("piqa_validation.jsonl", "validation"),
        "gsm8k": ("gsm8k_test.jsonl and 1 more", "test"),
        "mmlu": ("mmlu/dev/abstract_algebra_dev.csv and 113 more", "test"),
    }


def test_settings_for_one_evaluation_stay_there():
    changed = load_task("gsm8k", Tasks(data=ROWS, gen_kwargs={"max_gen_toks": 7, "until": ["x"]}))
    assert changed.parts["gsm8k"].config.generation_kwargs["max_gen_toks"] == 7
    assert changed.parts["gsm8k"].config.generation_kwargs["do_sample"] is False
    plain = load_task("gsm8k", Tasks(data=ROWS)).parts["gsm8k"].config.generation_kwargs
    assert plain == {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0}
    assert load_task("piqa", Tasks(data=ROWS, gen_kwargs={"max_gen_toks": 7})).parts["piqa"].config.num_fewshot == 0


@pytest.mark.parametrize("task", SIX)
def test_libraries_say_nothing(questions, capfd, task):
    prompts(load_task(task, Tasks(data=questions, limit=1)))
    assert capfd.readouterr() == ("", "")


# The hub


@pytest.mark.parametrize("task", SIX)
def test_a_hub_that_cannot_be_reached(task, capfd):
    with pytest.raises(UnsupportedHere) as caught:
        load_task(task, Tasks())
    message = str(caught.value)
    assert message.startswith(f"{task}: its questions cannot be had from the hub")
    assert "--data" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_what_the_hub_gives(hub):
    hub(lambda path, _name: {"validation": GOALS} if path == "baber/piqa" else {}, "validation", "train")
    loaded = load_task("piqa", Tasks())
    assert (loaded.split, loaded.origin, loaded.asked) == ("validation", "baber/piqa", {"piqa": range(2)})


def test_without_lm_eval(monkeypatch, questions):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for plan in (Tasks(), Tasks(data=questions)):
        with pytest.raises(UnsupportedHere, match=r"lm-eval is not installed .*; install qexport\[eval\]"):
            load_task("piqa", plan)
