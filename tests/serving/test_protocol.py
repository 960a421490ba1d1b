"""Every field of a request is heeded, known to be without effect, or refused by name."""

from __future__ import annotations

import json

import pytest

from qexport.serving.protocol import ChatRequest, CompletionRequest, Refused, parse


def completion(**fields):
    return parse(CompletionRequest, json.dumps({"model": "m", "prompt": "p"} | fields).encode())


def chat(**fields):
    talk = [{"role": "user", "content": "hello"}]
    return parse(ChatRequest, json.dumps({"model": "m", "messages": talk} | fields).encode())


@pytest.mark.parametrize(
    ("given", "prompts"),
    [("a", ["a"]), ([1, 2], [[1, 2]]), (["a", "b"], ["a", "b"]), ([[1], [2, 3]], [[1], [2, 3]]), ([], []), ("", [""])],
)
def test_the_forms_of_a_prompt(given, prompts):
    assert completion(prompt=given).prompts == prompts


@pytest.mark.parametrize("given", [7, True, [True], [1.5], ["a", 1], [[1], "a"], {"a": 1}, [["a"]], [None]])
def test_other_forms_of_a_prompt_are_refused(given):
    with pytest.raises(Refused, match="prompt: must be"):
        completion(prompt=given)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7},
        {"temperature": 1},
        {"top_p": 0.9},
        {"n": 2},
        {"best_of": 3},
        {"stop": ["."]},
        {"logprobs": 0},
        {"logprobs": 5},
        {"echo": True},
        {"suffix": "x"},
        {"logit_bias": {"5": 100}},
        {"presence_penalty": 0.1},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"top_k": 50},
    ],
)
@pytest.mark.parametrize("request_of", [completion, chat])
def test_what_is_not_heeded_is_refused_by_name(request_of, fields):
    (name,) = fields
    with pytest.raises(Refused, match=f"^{name} .* is not served: ") as refused:
        request_of(**fields)
    assert (refused.value.status, refused.value.field) == (400, name)


@pytest.mark.parametrize("request_of", [completion, chat])
def test_what_changes_no_greedy_text_is_taken(request_of):
    request_of(
        temperature=0.0,
        top_p=1.0,
        n=1,
        stop=None,
        logit_bias={},
        presence_penalty=0,
        seed=7,
        user="somebody",
        response_format={"type": "text"},
        logprobs=False,
        max_tokens=None,
    )


@pytest.mark.parametrize("name", ["tempratur", "use_beam_search", "min_tokens", "prompts"])
def test_an_unknown_field_is_refused_with_the_nearest(name):
    with pytest.raises(Refused, match=f"^{name} is not known here; ") as refused:
        completion(**{name: 1})
    if name == "tempratur":
        assert "did you mean temperature?" in refused.value.message


def test_a_field_of_the_other_path_is_unknown():
    with pytest.raises(Refused, match="messages is not known"):
        completion(messages=[])
    with pytest.raises(Refused, match="prompt is not known"):
        chat(prompt="a")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"model": None}, "model"),
        ({"stream_options": {"other": 1}}, "stream_options"),
    ],
)
def test_values_of_the_wrong_type_are_refused(fields, named):
    with pytest.raises(Refused, match=f"^{named}: "):
        completion(**fields)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe{"])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(Refused, match="the body is not"):
        parse(CompletionRequest, body)


def test_parts_of_a_message_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).plain == [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": "a", "tool_calls": []},
    ],
)
def test_messages_that_are_not_text_are_refused(message):
    with pytest.raises(Refused, match=r"^messages: "):
        chat(messages=[message])


def test_the_newer_name_of_max_tokens_comes_first():
    assert chat(max_tokens=3).most == 3
    assert chat(max_tokens=3, max_completion_tokens=5).most == 5
    assert chat().most is None
