"""A tokenizer's chat template, rendered in Jinja's sandbox like in transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qexport.core import InputError

if TYPE_CHECKING:
    from qexport.serving.tokens import Tokens


class TemplateRefused(Exception):
    """The template has no form for these messages."""


class ChatTemplate:
    """Turns messages into text in the form that the model was tuned on."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        """Compile a template.

        Args:
            source: the template in Jinja.
            special: the special tokens by name, which templates write out.

        Raises:
            InputError: the source is not valid Jinja.
        """
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        # Names, filters and extensions match transformers 4.57, utils/chat_template_utils.py.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_generation_blocks(), loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f"the chat template cannot be read (line {error.lineno}: {error.message}); correct chat_template.jinja"
            ) from error
        self._special = dict(special)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text of a conversation, up to the start of the assistant's answer.

        Raises:
            TemplateRefused: the template raises an error, for instance on an unknown order of roles.
        """
        import jinja2

        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise TemplateRefused(str(error)) from error


def load_template(folder: Path, tokens: Tokens) -> ChatTemplate | None:
    """The chat template of a tokenizer, or None.

    Raises:
        InputError: the template cannot be read, or several exist without a default.
    """
    file = folder / "chat_template.jinja"
    found = file.read_text(encoding="utf-8") if file.is_file() else tokens.chat_template
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        if "default" not in named:
            raise InputError(
                f"{folder}: of its chat templates ({', '.join(named)}) none is named default; export again"
            )
        found = named["default"]
    return ChatTemplate(str(found), tokens.special) if found else None


def _generation_blocks() -> type[Any]:
    """A Jinja extension that accepts ``{% generation %}`` blocks, which mark the assistant's words for training."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012 (Jinja's own form)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return GenerationBlocks


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 (templates use this name)
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
