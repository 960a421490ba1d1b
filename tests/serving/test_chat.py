"""Conversations become the text, and the ids, that transformers makes of them."""

from __future__ import annotations

import json
import shutil

import pytest

from qexport.core.errors import InputError
from qexport.serving.chat import ChatTemplate, TemplateRefused, load_template
from qexport.serving.tokens import Tokens
from tests.conftest import ROOT

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}\n"
    "{% endfor %}\n"
    "    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
STRICT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 > 3 %}{% break %}{% endif %}[{{ message | tojson }}]{{ strftime_now('%Y') }}{% endfor %}"
    "{% if tools is none and not documents %}!{% endif %}"
)
TALK = [
    {"role": "user", "content": "  Hello <b> \u00fc"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "And now?"},
]


@pytest.fixture
def folder(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "reference" / name, tmp_path)
    return tmp_path


def with_template(folder, template):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))


@pytest.mark.parametrize("template", [CHATML, STRICT])
@pytest.mark.parametrize("messages", [TALK, TALK[:1]])
def test_text_and_ids_are_those_of_transformers(folder, template, messages):
    from transformers import AutoTokenizer

    with_template(folder, template)
    theirs, tokens = AutoTokenizer.from_pretrained(str(folder)), Tokens(folder)
    text = load_template(folder, tokens).render(messages)
    assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True)
    assert list(tokens.encode(text, special=False)) == ids


def test_a_template_in_a_file_of_its_own_comes_first(folder):
    with_template(folder, "settings")
    (folder / "chat_template.jinja").write_text("file")
    assert load_template(folder, Tokens(folder)).render(TALK) == "file"


def test_of_named_templates_the_default_is_taken(folder):
    with_template(folder, [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}])
    assert load_template(folder, Tokens(folder)).render(TALK) == "yes"
    with_template(folder, [{"name": "tool_use", "template": "no"}])
    with pytest.raises(InputError, match="tool_use"):
        load_template(folder, Tokens(folder))


def test_no_template_is_none(folder):
    assert load_template(folder, Tokens(folder)) is None


def test_a_template_that_is_no_jinja_is_an_error(folder):
    with pytest.raises(InputError, match="line 1"):
        ChatTemplate("{% for %}", {})


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (STRICT, "roles must alternate"),
        ("{{ messages[7].content.strip() }}", "no element 7"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_template_refuses_and_what_the_sandbox_refuses_it(template, reason):
    with pytest.raises(TemplateRefused, match=reason):
        ChatTemplate(template, {"bos_token": ""}).render([TALK[1]])
