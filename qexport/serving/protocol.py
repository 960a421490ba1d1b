"""Requests in OpenAI's form: the fields that are read, the fields that allow only one value, and the texts of refusals.

A setting is obeyed, or has no effect on greedy text, or is refused; none is ignored silently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qexport.core import near_names
from qexport.serving.strict_json import cut, loads, quoted

PROMPTS = 64
"""The most prompts of one request."""
_MOST_NEW_TOKENS = 2**31 - 1
"""More than every context, and short enough to repeat in a message."""

_GREEDY = "text is generated greedily here"
_ONLY: Mapping[str, tuple[tuple[object, ...], str]] = {
    "temperature": ((0,), _GREEDY),
    "top_p": ((1,), _GREEDY),
    "top_k": ((-1, 1), _GREEDY),
    "n": ((1,), "a prompt has one greedy answer"),
    "best_of": ((1,), "a prompt has one greedy answer"),
    "presence_penalty": ((0,), "no logit is changed here"),
    "frequency_penalty": ((0,), "no logit is changed here"),
    "logit_bias": (({},), "no logit is changed here"),
    "logprobs": ((False,), "probabilities are not given out"),
    "top_logprobs": ((), "probabilities are not given out"),
    "echo": ((False,), "the prompt is not repeated"),
    "suffix": (("",), "text is continued, not filled in"),
    "stop": (([],), "an answer ends at the model's own end, or after max_tokens"),
    "tools": (([],), "tools are not called"),
    "tool_choice": (("none",), "tools are not called"),
    "functions": (([],), "tools are not called"),
    "response_format": (({"type": "text"},), "the form of an answer is not enforced"),
    "modalities": ((["text"],), "answers are text"),
    "store": ((False,), "nothing is kept"),
}
"""The values that these settings may have, apart from null, and the reason why others are refused."""
_WITHOUT_EFFECT = frozenset({"seed", "user", "metadata", "safety_identifier", "service_tier", "prompt_cache_key"})
"""Fields that never change greedy text."""


class Refused(Exception):
    """A refused request, with the message and the status for its sender."""

    def __init__(self, message: str, *, status: int = 400, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.field, self.code = message, status, field, code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body, in OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}}


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def require_few(prompts: int) -> None:
    """Check that one request has at least one prompt, and not too many.

    Raises:
        Refused: the request has none or too many.
    """
    if not 1 <= prompts <= PROMPTS:
        raise Refused(f"prompt: {prompts} prompts; give 1 to {PROMPTS} in one request", field="prompt")


def _few(given: object) -> object:
    """Count prompts before any is validated."""
    if isinstance(given, list) and given and not isinstance(given[0], int):
        require_few(len(given))
    return given


# Stop at the first wrong entry: otherwise pydantic would make an error for each of a million.
_Ids = Annotated[list[int], Field(fail_fast=True)]
_Texts = Annotated[list[str], Field(fail_fast=True)]
_NewTokens = Annotated[int, Field(ge=1, le=_MOST_NEW_TOKENS)]


class StreamOptions(_Form):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _Request(_Form):
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    """vLLM's extension: return the ids of the answer with its text."""


class CompletionRequest(_Request):
    prompt: Annotated[str | _Ids | _Texts | Annotated[list[_Ids], Field(fail_fast=True)], BeforeValidator(_few)]
    max_tokens: _NewTokens | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, always as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [each for each in self.prompt if isinstance(each, int)]
        return [ids] if ids else [each for each in self.prompt if not isinstance(each, int)]


class _Part(_Form):
    type: Literal["text"]
    text: str


class _Message(_Form):
    role: str
    content: str | Annotated[list[_Part], Field(fail_fast=True)]
    name: str | None = None


class ChatRequest(_Request):
    messages: Annotated[list[_Message], Field(min_length=1, fail_fast=True)]
    max_tokens: _NewTokens | None = None
    max_completion_tokens: _NewTokens | None = None

    @property
    def most(self) -> int | None:
        """The most new tokens; ``max_tokens`` is the older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def plain(self) -> list[dict[str, str]]:
        """The messages in the form for templates, with their parts joined."""
        return [
            {
                "role": message.role,
                "content": message.content
                if isinstance(message.content, str)
                else "".join(part.text for part in message.content),
            }
            | ({"name": message.name} if message.name is not None else {})
            for message in self.messages
        ]


_Kind = TypeVar("_Kind", bound=_Request)


def parse(kind: type[_Kind], body: bytes) -> _Kind:
    """Read a request.

    Raises:
        Refused: the body is not JSON, lacks a field, or asks for something that is not served.
    """
    try:
        given = loads(body)
    except ValueError as error:
        raise Refused(f"the body is not JSON ({error})") from error
    if not isinstance(given, dict):
        raise Refused("the body is not a JSON object")
    asked = {}
    for name, value in given.items():
        if name in _WITHOUT_EFFECT or (value is None and name in _ONLY):
            continue
        if name not in _ONLY:
            asked[name] = value
            continue
        allowed, reason = _ONLY[name]
        # False equals 0 in Python but not for a client: `logprobs: 0` asks for some.
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed):
            instead = f"give {json.dumps(allowed[0])}, or leave it out" if allowed else "leave it out"
            raise Refused(f"{name} {quoted(value)} is not served: {reason}; {instead}", field=name)
    if unknown := [name for name in asked if name not in kind.model_fields]:
        known = [*kind.model_fields, *_ONLY, *_WITHOUT_EFFECT]
        name = cut(unknown[0])
        raise Refused(f"{name} is not known here; {near_names(name, known)}", field=name)
    try:
        # Clients send null for a field that was not given.
        return kind.model_validate({name: value for name, value in asked.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = str(first["loc"][0])
        said = "must be a string, a list of ids, or a list of strings or of lists of ids" if place == "prompt" else ""
        raise Refused(f"{place}: {said or first['msg']}", field=place) from error
