"""The artifact answers what lm-eval's own ``hf`` model answers for the model it was made from: the idea of the whole."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qexport.core.silence import quiet
from qexport.inputs.experiment import Tasks
from qexport.measurement.tasks.load import load_task
from tests.measurement.tasks.conftest import SIX, ask, changed, differences, hf, ours, some_subjects, tolerance, unlike
from tests.plants import copy

SHORT = {"max_gen_toks": 16}
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</{{ message.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + TEMPLATE
PROMPTS = (
    "One day, a little fox went to the river.",
    "Question: How many stones has she?\nAnswer:",
    "The owl",
    "Once upon a time there was a girl. She had a red ball, and she liked to play with it in the park",
    "Once upon a time",
)


def load(names, plan):
    tasks = {name: load_task(name, plan) for name in names}
    return {name: some_subjects(task) if name == "mmlu" else task for name, task in tasks.items()}


def both(one, plan, names=SIX, **settings):
    """What the artifact and the model it was made from differ in."""
    tasks = load(names, plan)
    return differences(ask(ours(one.artifact), tasks, plan), ask(hf(one.source, **settings), tasks, plan))


def requests(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def answers(model, kind, *arguments):
    with quiet():
        return getattr(model, kind)(requests(kind, *arguments))


def agree(one, kind, *arguments, **settings):
    """The artifact's answers, once they are found to be those of the ``hf`` model."""
    found = answers(ours(one.artifact, **settings), kind, *arguments)
    wanted = answers(hf(one.source, **settings), kind, *arguments)
    assert [pair for pair in zip(found, wanted, strict=True) if unlike(*pair)] == []
    return found


def continuations(*texts, **settings):
    return [(text, {"until": [], "max_gen_toks": 24, "do_sample": False} | settings) for text in texts]


# Tasks


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize(("name", "limit"), [("llama", 4), ("gpt2", 2), ("stories", 3)])
def test_every_answer_to_six_tasks(subject, questions, name, limit, shots):
    limits = dict.fromkeys(SIX, limit) | {"mmlu": 2}
    plan = Tasks(data=questions, limit=limits, num_fewshot=shots, gen_kwargs=SHORT)
    assert both(subject(name), plan) == []


@pytest.mark.parametrize("name", ["gpt2", "stories"])
def test_every_answer_to_questions_that_the_field_asks(subject, data_dir, name):
    """Some are longer than the context of stories260K, and GPT-2's sums are beyond 1024 nats for some."""
    names = ("arc_challenge", "piqa", "gsm8k", "mmlu")
    limits = dict.fromkeys(names, 5) | {"mmlu": 1}
    plan = Tasks(data=data_dir / "tasks", limit=limits, num_fewshot=1, gen_kwargs=SHORT)
    assert both(subject(name), plan, names) == []


def test_each_tasks_own_number_of_examples(subject, questions):
    plan = Tasks(data=questions, limit=2, gen_kwargs=SHORT)
    one, tasks = subject("llama"), load(("gsm8k", "piqa"), plan)
    found, wanted = ask(ours(one.artifact), tasks, plan), ask(hf(one.source), tasks, plan)
    assert differences(found, wanted) == []
    assert found["n-shot"] == {"gsm8k": 5, "piqa": 0}


@pytest.mark.parametrize("multiturn", [True, False])
def test_in_a_chat_template_with_examples_and_a_system_instruction(subject, questions, tmp_path, multiturn):
    one = with_tokenizer(subject("llama"), tmp_path, chat_template=TEMPLATE)
    plan = Tasks(
        data=questions,
        limit=2,
        num_fewshot=2,
        gen_kwargs=SHORT,
        apply_chat_template=True,
        fewshot_as_multiturn=multiturn,
        system_instruction="Answer well.",
    )
    tasks = load(("arc_easy", "gsm8k"), plan)
    found, wanted = ask(ours(one.artifact), tasks, plan), ask(hf(one.source), tasks, plan)
    assert differences(found, wanted) == []
    (asked, _), *_ = found["samples"]["arc_easy"][0]["arguments"]
    assert asked.startswith("<system>Answer well.</system>\n<user>Question: ")
    assert asked.count("<user>") == (3 if multiturn else 1)
    assert asked.endswith("</user>\n<assistant>")


def test_a_template_that_knows_no_system_role_is_used_without(subject, questions, tmp_path):
    """As the ``hf`` model does."""
    one = with_tokenizer(subject("llama"), tmp_path, chat_template=STRICT)
    plan = Tasks(data=questions, limit=2, apply_chat_template=True, system_instruction="Answer well.")
    assert both(one, plan, ("arc_easy",)) == []


def test_an_instruction_ahead_of_every_question(subject, questions):
    plan = Tasks(data=questions, limit=2, num_fewshot=1, system_instruction="Answer well. ", gen_kwargs=SHORT)
    assert both(subject("llama"), plan, ("piqa", "gsm8k")) == []


@pytest.mark.parametrize("weight", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_one_weight_moved_a_little_is_found_out(subject, questions, tmp_path, weight):
    one = subject("llama")
    moved = nudged(one.artifact, tmp_path / "moved", weight)
    plan = Tasks(data=questions, limit=3, num_fewshot=0)
    tasks = load(("arc_easy", "mmlu"), plan)
    wanted = ask(hf(one.source), tasks, plan)
    assert differences(ask(ours(one.artifact), tasks, plan), wanted) == []
    assert [line for line in differences(ask(ours(moved), tasks, plan), wanted) if line.startswith("arc_easy")]


def nudged(artifact, folder, weight):
    """A copy of an artifact with one element of one weight moved by a twentieth of the weights' spread."""

    def nudge(path):
        model = onnx.load(path / "model.onnx")
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == weight]
        array = numpy_helper.to_array(tensor).copy()
        array.flat[np.abs(array).argmax()] += 0.05 * (array.std() or 1)
        tensor.CopyFrom(numpy_helper.from_array(array, weight))
        onnx.save(model, path / "model.onnx")

    return changed(artifact, folder, nudge)


# Requests


def test_choices_of_every_kind(subject):
    """Of one token and of many, none of them greedy or some, with blanks on either side."""
    one = subject("stories")
    contexts = (*PROMPTS, "The fox saw ", "  ", "Two lines\n\n", "<s>The owl")
    choices = (" yes", " no", "yes", " a big red ball.", ",", " ", "\n", " they went to the park to play together")
    found = agree(one, "loglikelihood", *[(context, choice) for context in contexts for choice in choices])
    assert len({likelihood for likelihood, _ in found}) > len(found) / 2
    (written,) = agree(one, "generate_until", *continuations("Once upon a time"))
    whole = agree(one, "loglikelihood", ("Once upon a time", written), ("Once upon a time", written + " no"))
    assert [greedy for _, greedy in whole] == [True, False]


@pytest.mark.parametrize("name", ["llama", "stories"])
@pytest.mark.parametrize("settings", [{}, {"prefix_token_id": 300}])
def test_an_empty_context_is_one_token(subject, name, settings):
    one = subject(name)
    begin = {"llama": "<|endoftext|>", "stories": "<s>"}[name]
    texts = [("", "The owl"), ("", "Once upon a time"), ("", f"{begin}The owl")]
    owl, _, begun = agree(one, "loglikelihood", *texts, **settings)
    assert (owl == begun) == (not settings)  # the same request: the token that begins is not scored then
    other = agree(one, "loglikelihood", *texts)
    assert (other[0] == owl) == (not settings)


@pytest.mark.parametrize("add", [True, False])
def test_bos_is_added_or_not(subject, add):
    one = subject("stories")
    pairs = [(prompt, " and then") for prompt in PROMPTS]
    scored = agree(one, "loglikelihood", *pairs, add_bos_token=add)
    agree(one, "generate_until", *continuations(*PROMPTS), add_bos_token=add)
    agree(one, "loglikelihood_rolling", *[(prompt,) for prompt in PROMPTS], add_bos_token=add)
    default = answers(ours(one.artifact), "loglikelihood", *pairs)
    assert (scored == default) == add


def test_bos_is_added_by_a_tokenizer_that_would_not_by_itself(subject, tmp_path):
    """Llama's class is told when it is loaded; to ask for special tokens alone would add none."""
    one = with_tokenizer(subject("stories"), tmp_path, tokenizer_class="LlamaTokenizerFast", add_bos_token=False)
    pairs = [(prompt, " and then") for prompt in PROMPTS]
    scored = agree(one, "loglikelihood", *pairs, add_bos_token=True)
    assert scored != agree(one, "loglikelihood", *pairs)
    assert ours(one.artifact, add_bos_token=True).tok_encode("The owl")[0] == 1


@pytest.mark.parametrize("name", ["llama", "stories"])
def test_texts_longer_than_the_context_are_scored_in_windows(subject, name):
    one = subject(name)
    text = " ".join(f"{prompt} It was {number}!" for number, prompt in enumerate(PROMPTS * 14))
    model = ours(one.artifact)
    assert len(model.tok_encode(text)) > 2 * model.max_length
    found = agree(one, "loglikelihood_rolling", (text,), (text[:2000],), ("Once",))
    assert found[0] < found[1] < found[2] < 0


def test_a_context_longer_than_the_model_is_cut_from_the_left_and_counted(subject):
    one = subject("llama")
    long = PROMPTS[3] * 40
    model, reference = ours(one.artifact), hf(one.source)
    kinds = {
        "loglikelihood": [(long, " yes"), (long, " a big red ball"), (PROMPTS[0], " yes")],
        "generate_until": continuations(long, PROMPTS[0]),
    }
    for kind, arguments in kinds.items():
        for found, wanted in zip(*(answers(each, kind, *arguments) for each in (model, reference)), strict=True):
            assert not unlike(found, wanted)
        assert model.truncated == {long}
        model.truncated.clear()


def test_to_the_last_position_and_not_a_token_further(subject):
    """One token more than the model has positions can be had: the last one is predicted and never fed."""
    one = subject("llama")
    model = ours(one.artifact)
    for many in (510, 511, 512, 513):
        words = model.tokenizer.decode([300] * many)
        assert len(model.tok_encode(words)) == many
        agree(one, "loglikelihood", (words, " yes"), (words, " a big red ball"))
    assert answers(model, "loglikelihood", (model.tokenizer.decode([300] * 513), " yes"))
    assert len(model.truncated) == 1
    agree(one, "generate_until", *continuations(model.tokenizer.decode([300] * 490), max_gen_toks=22))


def test_a_shorter_length_than_the_models_own(subject):
    one = subject("stories")
    agree(one, "loglikelihood", *[(prompt, " and then they went home") for prompt in PROMPTS], max_length=12)
    agree(one, "loglikelihood_rolling", *[(prompt,) for prompt in PROMPTS], max_length=12)
    agree(one, "generate_until", *continuations(*PROMPTS, max_gen_toks=6), max_length=12)


# Generation


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("name", ["llama", "stories"])
def test_generated_texts_whatever_hf_runs_at_once(subject, name, rows):
    one = subject(name)
    arguments = continuations(*PROMPTS)
    found = answers(ours(one.artifact), "generate_until", *arguments)
    assert found == answers(hf(one.source, batch_size=rows), "generate_until", *arguments)
    assert len(set(found)) > 1


def test_a_stop_word_in_the_middle_of_tokens_ends_the_text(subject):
    one = subject("stories")
    free, other = agree(one, "generate_until", *continuations(*PROMPTS[:2]))
    word = free[len(free) // 2 - 1 : len(free) // 2 + 2]
    stopped, unstopped = agree(one, "generate_until", *continuations(*PROMPTS[:2], until=[word, "never there"]))
    assert stopped == free.split(word)[0]
    assert (unstopped == other) == (word not in other)
    assert agree(one, "generate_until", *continuations(PROMPTS[0], until=word)) == [stopped]  # one word, in no list


def test_a_stop_token_of_the_models_folder_ends_the_text(subject, tmp_path):
    one = subject("stories")
    model = ours(one.artifact)
    (free,) = answers(model, "generate_until", *continuations(PROMPTS[0]))
    fifth = model.tokenizer.encode(free, add_special_tokens=False)[5]
    ends = with_file(one, tmp_path, "generation_config.json", bos_token_id=1, eos_token_id=[2, fifth])
    (short,) = agree(ends, "generate_until", *continuations(PROMPTS[0]))
    assert free.startswith(short)
    assert 0 < len(short) < len(free)


def test_special_tokens_in_the_middle_are_left_out(subject, tmp_path):
    from transformers import AutoTokenizer

    def mark(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.add_special_tokens({"additional_special_tokens": ["."]})
        tokenizer.save_pretrained(path)

    one = subject("stories")
    (plain,) = agree(one, "generate_until", *continuations(PROMPTS[0]))
    (found,) = agree(with_change(one, tmp_path, mark), "generate_until", *continuations(PROMPTS[0]))
    assert "." in plain
    assert "." not in found


def test_other_words_for_the_same_wishes(subject):
    """``max_new_tokens`` and its like are ``max_gen_toks``; a temperature of zero is greedy."""
    one = subject("stories")
    asked = (PROMPTS[0], {"until": ["."], "max_new_tokens": 9, "temperature": 0.0})
    plain = (PROMPTS[0], {"max_gen_toks": 9, "until": ["."]})
    first, second = (agree(one, "generate_until", each) for each in (asked, plain))
    assert first == second


def test_the_tolerance_is_a_float32_step_where_that_is_coarser():
    assert tolerance(-700.0) == 1e-4
    assert tolerance(-2000.0) == 2.0**-13
    assert unlike((-700.0, True), (-700.0002, True))
    assert unlike((-700.0, True), (-700.0, False))
    assert not unlike((-2000.0, True), (-2000.0001, True))


def with_tokenizer(one, folder, **changes):
    return with_file(one, folder, "tokenizer_config.json", **changes)


def with_file(one, folder, name, **changes):
    """A subject with changes in a file of JSON, on both sides."""

    def edit(path):
        (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | changes))

    return with_change(one, folder, edit)


def with_change(one, folder, change):
    """A subject after ``change`` had the folders of both sides."""
    source = copy(one.source, folder / "source")
    change(source)
    return type(one)(source, changed(one.artifact, folder / "artifact", change))
