"""The server's paths: completions, chat, the model, and its health."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qexport.inputs import without_row
from qexport.serving.body import Bodies, most_bytes, most_values
from qexport.serving.chat import ChatTemplate, TemplateRefused
from qexport.serving.lanes import Lanes
from qexport.serving.protocol import ChatRequest, CompletionRequest, Refused, parse, require_few
from qexport.serving.strict_json import cut, has_more_values
from qexport.serving.tokens import TextStream, Tokens
from qexport.serving.worker import Busy, Worker
from qexport.serving.writing import Finish, Limits, Prompt, Token

if TYPE_CHECKING:
    from qexport.core import Artifact
    from qexport.runtime import Session

_NEW_TOKENS = 16
"""The default of new tokens for a completion, as in OpenAI's API; a chat takes all the room in the context."""
_TOO_LONG = "context_length_exceeded"
_CLIENT_GONE = 499
_RETRY_S = "1"
_REASON_CHARACTERS = 300
"""The most characters of an error's text, which may repeat a part of the request."""

_log = logging.getLogger(__name__)


_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Served:
    """An artifact that is ready to answer."""

    artifact: Artifact
    session: Session
    ran: Mapping[str, float | int | str]
    """Facts of the kernels that ran; see :meth:`qexport.runtime.session.Session.facts`."""
    tokens: Tokens
    template: ChatTemplate | None
    limits: Limits
    worker: Worker

    @property
    def model(self) -> str:
        """The model's name in requests."""
        return self.artifact.manifest.model.name

    @property
    def rowless(self) -> str:
        """The tokens that the model has no row for, in words; empty if there are none."""
        return without_row(self.artifact.path, self.limits.vocabulary)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The addition of one step to the answer of one prompt."""

    row: int
    text: str
    ids: tuple[int, ...]
    finish: Finish | None


@dataclass(kw_only=True)
class _Answer:
    """The collected answer of one prompt."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.ids.extend(piece.ids)
        self.finish = piece.finish


def build_app(served: Served) -> Starlette:
    """The application for a loaded artifact."""
    paths = _Paths(served)
    app = Starlette(
        routes=[
            Route("/v1/completions", paths.completions, methods=["POST"]),
            Route("/v1/chat/completions", paths.chat, methods=["POST"]),
            Route("/v1/models", paths.models),
            Route("/health", paths.health),
        ],
        exception_handlers={
            Refused: _refused,
            Busy: _busy,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False  # a redirect would contain the client's Host header
    return app


class _Paths:
    def __init__(self, served: Served) -> None:
        self._served = served
        self._started = int(time.time())
        self._most_values = most_values(served.limits.context)
        self._bodies = Bodies(most_bytes(served.limits.context))
        self._lanes = Lanes()
        self._most_characters = served.tokens.most_characters(served.limits.context)

    async def models(self, _: Request) -> Response:
        """Describe the model, in OpenAI's form."""
        entry = {"id": self._served.model, "object": "model", "created": self._started, "owned_by": "qexport"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(self, _: Request) -> Response:
        """Answer 200 with the facts about the model, or 503 with the reason why it cannot generate."""
        served = self._served
        well = await served.worker.healthy()
        manifest = served.artifact.manifest
        body = {
            "status": "ok" if well else "failing",
            "model": served.model,
            "recipe": manifest.recipe,
            "artifact_sha256": served.artifact.sha256,
            "provider": served.session.provider,
            "device": served.session.device,
            "runtime": served.session.runtime,
            "threads": served.session.threads,
            "ran": dict(served.ran),
            "requests": served.worker.requests,
            "failure": served.worker.failure,
        }
        return JSONResponse(body, 200 if well else 503)

    async def completions(self, request: Request) -> Response:
        """Continue one or many prompts."""
        asked, prompts = await self._read(request, self._completion)
        new_tokens = self._room(prompts, asked.max_tokens, otherwise=_NEW_TOKENS)
        return await self._answer(request, asked, _Completion(self._served.model, asked, prompts), new_tokens)

    async def chat(self, request: Request) -> Response:
        """Continue a conversation with the tokenizer's template."""
        asked, prompts = await self._read(request, self._conversation)
        new_tokens = self._room(prompts, asked.most, otherwise=self._served.limits.context)
        return await self._answer(request, asked, _Chat(self._served.model, asked, prompts), new_tokens)

    async def _read(self, request: Request, of: Callable[[bytes], _Result]) -> _Result:
        """Read a request off the event loop; stop if the client disconnects."""
        async with self._bodies.reading(request) as body:

            def read() -> _Result:
                if has_more_values(body, self._most_values):
                    raise Refused(f"the body has more than {self._most_values} values; send less", status=413)
                return of(body)

            return await _unless_gone(request, self._lanes.run(read, body_bytes=len(body)))

    def _completion(self, body: bytes) -> tuple[CompletionRequest, list[Prompt]]:
        asked = parse(CompletionRequest, body)
        self._require_model(asked.model)
        require_few(len(asked.prompts))
        self._require_room(1, asked.max_tokens)
        texts = [prompt for prompt in asked.prompts if isinstance(prompt, str)]
        for text in texts:  # check all texts before one is tokenized
            self._require_short(text)
        return asked, [
            self._served.tokens.encode(prompt) if isinstance(prompt, str) else tuple(prompt) for prompt in asked.prompts
        ]

    def _conversation(self, body: bytes) -> tuple[ChatRequest, list[Prompt]]:
        asked = parse(ChatRequest, body)
        self._require_model(asked.model)
        if self._served.template is None:
            raise Refused("this tokenizer has no chat template; use /v1/completions", field="messages")
        self._require_room(1, asked.most)
        if len(asked.messages) > self._served.limits.context:
            raise Refused(
                f"messages: {len(asked.messages)} messages are more than the {self._served.limits.context} tokens of the "
                "model's context; leave the oldest out",
                field="messages",
                code=_TOO_LONG,
            )
        try:
            text = self._served.template.render(asked.plain)
        except TemplateRefused as error:
            reason = cut(str(error), _REASON_CHARACTERS)
            raise Refused(f"messages: the chat template refuses them ({reason})", field="messages") from error
        self._require_short(text)
        return asked, [self._served.tokens.encode(text, special=False)]

    def _require_short(self, text: str) -> None:
        """Refuse a text that cannot fit, before tokenizing takes seconds for each megabyte."""
        if self._most_characters is not None and len(text) > self._most_characters:
            raise Refused(
                f"{len(text)} characters of prompt are more than the model's context of {self._served.limits.context} "
                f"tokens can hold, which is {self._most_characters} at most; shorten the prompt",
                code=_TOO_LONG,
            )

    def _require_model(self, name: str) -> None:
        if name != self._served.model:
            raise Refused(
                f"model {cut(name)!r} is not served here; ask for {self._served.model!r}",
                status=404,
                field="model",
                code="model_not_found",
            )

    def _room(self, prompts: Sequence[Prompt], asked: int | None, *, otherwise: int) -> int:
        """The new tokens for each prompt; an explicit number must fit.

        Raises:
            Refused: the request has no prompt or too many, a prompt is empty or has a token outside the vocabulary, or
                    the longest leaves too little room.
        """
        require_few(len(prompts))
        longest = max(map(len, prompts))
        room = self._require_room(longest, asked)
        for prompt in prompts:
            if not prompt:
                raise Refused("prompt: it has no tokens; give at least one", field="prompt")
            if wrong := [token for token in prompt if not 0 <= token < self._served.limits.vocabulary]:
                raise Refused(
                    f"prompt: token {cut(str(wrong[0]))} is not among the {self._served.limits.vocabulary} of the model",
                    field="prompt",
                )
        return min(otherwise, room) if asked is None else asked

    def _require_room(self, longest: int, asked: int | None) -> int:
        """The number of tokens that fit into the context after the longest prompt."""
        context = self._served.limits.context
        room = context - longest
        if room < (asked or 1):
            raise Refused(
                f"{longest} tokens of prompt and {asked or 1} new ones are {longest + (asked or 1)}, and the model's "
                f"context has {context}; shorten the prompt" + (" or lower max_tokens" if room > 0 else ""),
                code=_TOO_LONG,
            )
        return room

    async def _answer(
        self, request: Request, asked: CompletionRequest | ChatRequest, form: _Completion | _Chat, new_tokens: int
    ) -> Response:
        pieces = self._pieces(form.prompts, new_tokens)
        if not asked.stream:
            return await _unless_gone(request, _whole(form, pieces))
        # The first piece comes before the response, so that errors until then have their own status.
        try:
            first = await _unless_gone(request, anext(pieces))
        except BaseException:
            await pieces.aclose()
            raise
        return StreamingResponse(_events(form, first, pieces), media_type="text/event-stream")

    async def _pieces(self, prompts: Sequence[Prompt], new_tokens: int) -> AsyncGenerator[list[Piece], None]:
        """The answers step by step, with text cut between characters."""
        streams = [TextStream(self._served.tokens, prompt) for prompt in prompts]

        def piece(token: Token) -> Piece:
            # The token that ends an answer is among the ids but is not part of the text.
            written = () if token.finish == "stop" else (token.id,)
            text = streams[token.row].push(written, last=token.finish is not None)
            return Piece(row=token.row, text=text, ids=(token.id,), finish=token.finish)

        async with contextlib.aclosing(self._served.worker.write(prompts, new_tokens=new_tokens)) as steps:
            async for step in steps:
                yield [piece(token) for token in step]


class _Form:
    """The frame of an answer in OpenAI's form."""

    def __init__(self, model: str, prefix: str, asked: CompletionRequest | ChatRequest, prompts: list[Prompt]) -> None:
        self.prompts, self._asked = prompts, asked
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    @property
    def tells_usage(self) -> bool:
        return self._asked.stream_options is not None and self._asked.stream_options.include_usage

    @property
    def tells_ids(self) -> bool:
        return self._asked.return_token_ids

    def usage(self, new_tokens: int) -> dict[str, int]:
        prompt = sum(map(len, self.prompts))
        return {"prompt_tokens": prompt, "completion_tokens": new_tokens, "total_tokens": prompt + new_tokens}

    def frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}

    def choice(self, row: int, finish: Finish | None, ids: Sequence[int], *, whole: bool) -> dict[str, Any]:
        told = {"prompt_token_ids": list(self.prompts[row])} if whole else {}
        return {
            "index": row,
            "logprobs": None,
            "finish_reason": finish,
            **({"token_ids": list(ids), **told} if self.tells_ids else {}),
        }


class _Completion(_Form):
    def __init__(self, model: str, asked: CompletionRequest, prompts: list[Prompt]) -> None:
        super().__init__(model, "cmpl", asked, prompts)

    def whole(self, answers: Sequence[_Answer]) -> dict[str, Any]:
        choices = [
            {"text": answer.text, **self.choice(row, answer.finish, answer.ids, whole=True)}
            for row, answer in enumerate(answers)
        ]
        return self.frame("text_completion", choices)

    def chunk(self, choices: list[Piece]) -> dict[str, Any]:
        return self.frame(
            "text_completion",
            [{"text": each.text, **self.choice(each.row, each.finish, each.ids, whole=False)} for each in choices],
        )

    def opening(self) -> list[dict[str, Any]]:
        return []


class _Chat(_Form):
    def __init__(self, model: str, asked: ChatRequest, prompts: list[Prompt]) -> None:
        super().__init__(model, "chatcmpl", asked, prompts)

    def whole(self, answers: Sequence[_Answer]) -> dict[str, Any]:
        message = {"role": "assistant", "content": answers[0].text}
        choice = self.choice(0, answers[0].finish, answers[0].ids, whole=True)
        return self.frame("chat.completion", [{"message": message, **choice}])

    def chunk(self, choices: list[Piece]) -> dict[str, Any]:
        return self.frame(
            "chat.completion.chunk",
            [
                {"delta": {"content": each.text}, **self.choice(each.row, each.finish, each.ids, whole=False)}
                for each in choices
            ],
        )

    def opening(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [
            self.frame("chat.completion.chunk", [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])
        ]


async def _whole(form: _Completion | _Chat, pieces: AsyncGenerator[list[Piece], None]) -> Response:
    answers = [_Answer() for _ in form.prompts]
    async with contextlib.aclosing(pieces):
        async for step in pieces:
            for piece in step:
                answers[piece.row].add(piece)
    usage = form.usage(sum(len(answer.ids) for answer in answers))
    return JSONResponse(form.whole(answers) | {"usage": usage})


async def _events(
    form: _Completion | _Chat, first: list[Piece], rest: AsyncGenerator[list[Piece], None]
) -> AsyncIterator[str]:
    """Server-sent events. An error in the middle is one of them, since the status was already sent."""
    new_tokens = 0
    async with contextlib.aclosing(rest):
        for opening in form.opening():
            yield _event(opening)
        try:
            step: list[Piece] | None = first
            while step is not None:
                new_tokens += len(step)
                if told := [piece for piece in step if piece.text or piece.finish or form.tells_ids]:
                    yield _event(form.chunk(told))
                step = await anext(rest, None)
        except Exception as error:  # noqa: BLE001 (the client gets every error)
            _log.exception("a request failed in the middle of its stream")
            yield _event(Refused(str(error), status=500).body)
            return
        if form.tells_usage:
            yield _event(form.chunk([]) | {"usage": form.usage(new_tokens)})
        yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _unless_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """Do the work, but stop if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"Retry-After": _RETRY_S} if error.code == "busy" else None
    return JSONResponse(error.body, error.status, headers)


async def _busy(request: Request, _: Exception) -> Response:
    return await _refused(request, Refused("too many requests wait already; ask again later", status=503, code="busy"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # From the scope: request.url contains the client's Host header, which may be no valid host.
    message = f"{cut(request.method)} {cut(request.scope['path'])}: {error.detail}"
    return JSONResponse(Refused(message, status=error.status_code).body, error.status_code, error.headers)


async def _gone(request: Request, _: Exception) -> Response:
    _log.info("%s disconnected before its answer", request.scope["client"])
    return Response(status_code=_CLIENT_GONE)


async def _failed(_: Request, error: Exception) -> Response:
    reason = cut(" ".join(str(error).split()), _REASON_CHARACTERS) or type(error).__name__
    return JSONResponse(Refused(reason, status=500).body, 500)
