from __future__ import annotations

import numpy as np
import pytest

from qexport.inputs.bundle import bundled
from qexport.inputs.prompts import Prompts, encode_prompts, load_prompts
from tests.inputs.conftest import refused, tiny_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}:{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}!{% endif %}"
)


def some(*texts: str, chat: bool = False) -> Prompts:
    return Prompts(origin="mine.txt", texts=texts, chat=chat)


# Files


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "The fox\n\n  saw it. \r\n", ("The fox", "saw it.")),
        ("a.txt", "\ufeffThe fox", ("The fox",)),
        (
            "a.jsonl",
            '"The fox"\n\n{"prompt": "saw\\nit", "text": "no"}\n{"text": "red"}\n',
            ("The fox", "saw\nit", "red"),
        ),
        ("a.json", '["The fox", {"prompt": "saw"}]', ("The fox", "saw")),
    ],
)
def test_prompts_of_a_file(tmp_path, name, content, texts):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    assert load_prompts(path) == Prompts(origin=name, texts=texts, chat=False)
    assert load_prompts(path, chat=True).chat


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"", ["holds no prompts"]),
        ("a.txt", b"\n \n", ["holds no prompts"]),
        ("a.txt", b"caf\xe9", ["not UTF-8", "byte 3"]),
        ("a.json", b"[]", ["holds no prompts"]),
        ("a.json", b'["a", " "]', ["item 1", "empty prompt"]),
        ("a.json", b'{"prompt": "a"}', ["holds no list"]),
        ("a.json", b"[1", ["not JSON"]),
        ("a.jsonl", b'"a"\n{"prompt": ""}\n', ["a.jsonl:2", "empty prompt"]),
        ("a.jsonl", b'{"question": "a"}\n', ["a.jsonl:1", '"prompt" or "text"']),
        ("a.jsonl", b"{", ["a.jsonl:1", "not a line of JSON"]),
        ("a.jsonl", b'"a"\n{"prompt": "\\ud83d"}\n', ["a.jsonl:2: half a surrogate pair"]),
        ("a.csv", b"a", ["unknown kind of prompts", ".jsonl"]),
    ],
)
def test_bad_files(tmp_path, name, content, parts):
    path = tmp_path / name
    path.write_bytes(content)
    refused(lambda: load_prompts(path), *parts)


def test_a_file_that_is_not_there(tmp_path):
    refused(lambda: load_prompts(tmp_path / "none.txt"), "No such file", "check the path")


def test_there_are_five_bundled_prompts():
    prompts = load_prompts(bundled("calibration/prompts.txt"))
    assert prompts.origin == "prompts.txt"
    assert len(set(prompts.texts)) == 5


# Tokens


def test_each_prompt_stands_behind_bos(tokenizer):
    tokens = encode_prompts(some("The fox", "a"), tokenizer, new_tokens=8, context=64)
    assert (tokens.kind, tokens.origin) == ("prompts", "mine.txt")
    assert [sequence[0] for sequence in tokens.sequences] == [tokenizer.bos_token_id] * 2
    assert all(sequence.dtype == np.int64 for sequence in tokens.sequences)
    assert tokenizer.decode(tokens.sequences[0][1:]) == "The fox"
    least, most = sorted(len(sequence) for sequence in tokens.sequences)
    assert tokens.description == f"8 new tokens after each of 2 prompts of {least} to {most} tokens, greedy"


def test_a_tokenizer_without_bos_adds_nothing():
    tokenizer = tiny_tokenizer(bos=False)
    (sequence,) = encode_prompts(some("The fox"), tokenizer, new_tokens=2, context=64).sequences
    assert tokenizer.decode(sequence) == "The fox"


def test_one_prompt_is_one_prompt(tokenizer):
    tokens = encode_prompts(some("The fox"), tokenizer, new_tokens=2, context=64)
    assert tokens.description == f"2 new tokens after 1 prompt of {tokens.tokens} tokens, greedy"


def test_a_chat_is_what_the_template_makes_of_it():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokens = encode_prompts(some("The fox", chat=True), tokenizer, new_tokens=2, context=64)
    (sequence,) = tokens.sequences
    assert tokenizer.decode(sequence) == "<|endoftext|>user:The fox!"
    assert list(sequence).count(tokenizer.bos_token_id) == 1
    assert tokens.description.endswith("in the chat template")


def test_a_chat_needs_a_template_that_works(tokenizer):
    refused(
        lambda: encode_prompts(some("The fox", chat=True), tokenizer, new_tokens=2, context=64),
        "mine.txt: prompt 1",
        "no chat template",
    )
    broken = tiny_tokenizer()
    broken.chat_template = "{{ raise_exception('only pairs\nof messages') }}"
    refused(
        lambda: encode_prompts(some("The fox", chat=True), broken, new_tokens=2, context=64),
        "prompt 1",
        "only pairs of",
    )


def test_a_prompt_and_its_new_tokens_fit_the_context(tokenizer):
    short, long = "a", "The fox saw a red stone"
    length = 1 + len(tokenizer(long)["input_ids"])
    encode_prompts(some(short, long), tokenizer, new_tokens=10, context=length + 10)
    refused(
        lambda: encode_prompts(some(short, long), tokenizer, new_tokens=11, context=length + 10),
        "mine.txt: prompt 2",
        f"{length} tokens",
        "11 new ones",
        f"context of {length + 10}",
    )


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", "The fox\n\nsaw <|end|> it\n", "a.txt:3"),
        ("a.jsonl", '"The fox"\n"saw <|end|>"\n', "a.jsonl:2"),
        ("a.json", '["The fox", "saw <|end|>"]', "a.json: item 1"),
    ],
)
def test_a_token_that_the_model_has_no_row_for(tmp_path, name, content, place):
    path, tokenizer = tmp_path / name, tiny_tokenizer()
    path.write_text(content)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    refused(
        lambda: encode_prompts(load_prompts(path), tokenizer, new_tokens=2, context=64, rows=300),
        f"{tmp_path}/{place}: the token <|end|> is number 300, and the model has rows for 0 to 299 only",
    )
    assert len(encode_prompts(load_prompts(path), tokenizer, new_tokens=2, context=64, rows=301).sequences) == 2


def test_a_template_may_put_such_a_token_in():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    tokenizer.chat_template = "<|user|>" + TEMPLATE
    refused(
        lambda: encode_prompts(some("The fox", chat=True), tokenizer, new_tokens=2, context=64, rows=300),
        "mine.txt: prompt 1: the token <|user|> is number 300",
    )
