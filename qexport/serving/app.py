"""The server's paths: completions, chat, the one model, and whether it is well."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qexport.serving.chat import ChatTemplate, TemplateRefused
from qexport.serving.protocol import ChatRequest, CompletionRequest, Refused, parse
from qexport.serving.tokens import TextStream, Tokens
from qexport.serving.worker import Busy, Worker
from qexport.serving.writing import Finish, Limits, Prompt, Token

if TYPE_CHECKING:
    from qexport.artifact import Artifact
    from qexport.runtime import Session

BODY_BYTES = 8 * 2**20
"""Longest body that is read."""
PROMPTS = 64
"""Most prompts of one request."""
_NEW_TOKENS = 16
"""Of a completion that names no number, as OpenAI has it; of a chat, all that the context has room for."""
_CLIENT_GONE = 499
_RETRY_S = "1"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Served:
    """An artifact that is ready to answer."""

    artifact: Artifact
    session: Session
    tokens: Tokens
    template: ChatTemplate | None
    limits: Limits
    worker: Worker

    @property
    def model(self) -> str:
        """The model's name, by which requests must ask for it."""
        return self.artifact.manifest.model.name


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one step added to the answer of one prompt."""

    row: int
    text: str
    ids: tuple[int, ...]
    finish: Finish | None


@dataclass(kw_only=True)
class _Answer:
    """The answer of one prompt, gathered."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.ids.extend(piece.ids)
        self.finish = piece.finish


def build_app(served: Served) -> Starlette:
    """The application over an artifact that is loaded."""
    paths = _Paths(served)
    return Starlette(
        routes=[
            Route("/v1/completions", paths.completions, methods=["POST"]),
            Route("/v1/chat/completions", paths.chat, methods=["POST"]),
            Route("/v1/models", paths.models),
            Route("/health", paths.health),
        ],
        exception_handlers={Refused: _refused, HTTPException: _http_error, Exception: _failed},
    )


class _Paths:
    def __init__(self, served: Served) -> None:
        self._served = served
        self._started = int(time.time())

    async def models(self, _: Request) -> Response:
        """The one model, in OpenAI's form."""
        entry = {"id": self._served.model, "object": "model", "created": self._started, "owned_by": "qexport"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def health(self, _: Request) -> Response:
        """200 with what runs, or 503 with the reason why nothing can be generated."""
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
            "ran": served.session.facts(),
            "requests": served.worker.requests,
            "failure": served.worker.failure,
        }
        return JSONResponse(body, 200 if well else 503)

    async def completions(self, request: Request) -> Response:
        """Continue one or many prompts."""
        asked = parse(CompletionRequest, await _body(request))
        self._require_model(asked.model)
        prompts = [
            self._served.tokens.encode(prompt) if isinstance(prompt, str) else tuple(prompt) for prompt in asked.prompts
        ]
        new_tokens = self._room(prompts, asked.max_tokens, otherwise=_NEW_TOKENS)
        return await self._answer(request, asked, _Completion(self._served.model, asked, prompts), new_tokens)

    async def chat(self, request: Request) -> Response:
        """Continue a conversation by the tokenizer's template."""
        asked = parse(ChatRequest, await _body(request))
        self._require_model(asked.model)
        if self._served.template is None:
            raise Refused("this tokenizer has no chat template; use /v1/completions", field="messages")
        try:
            text = self._served.template.render(asked.plain)
        except TemplateRefused as error:
            raise Refused(f"messages: the chat template refuses them ({error})", field="messages") from error
        prompts = [self._served.tokens.encode(text, special=False)]
        new_tokens = self._room(prompts, asked.most, otherwise=self._served.limits.context)
        return await self._answer(request, asked, _Chat(self._served.model, asked, prompts), new_tokens)

    def _require_model(self, name: str) -> None:
        if name != self._served.model:
            raise Refused(
                f"model {name!r} is not served here; ask for {self._served.model!r}",
                status=404,
                field="model",
                code="model_not_found",
            )

    def _room(self, prompts: Sequence[Prompt], asked: int | None, *, otherwise: int) -> int:
        """The new tokens of each prompt; asked for expressly, they must fit.

        Raises:
            Refused: there is no prompt or too many, one is empty or has a token that the model has not, or the longest does
                not leave the room.
        """
        limits = self._served.limits
        if not 1 <= len(prompts) <= PROMPTS:
            raise Refused(f"prompt: {len(prompts)} prompts; give 1 to {PROMPTS} in one request", field="prompt")
        for prompt in prompts:
            if not prompt:
                raise Refused("prompt: it has no tokens; give at least one", field="prompt")
            if wrong := [token for token in prompt if not 0 <= token < limits.vocabulary]:
                raise Refused(
                    f"prompt: token {wrong[0]} is none of the {limits.vocabulary} of the model", field="prompt"
                )
        longest = max(map(len, prompts))
        room = limits.context - longest
        if room < (asked or 1):
            raise Refused(
                f"{longest} tokens of prompt and {asked or 1} new ones are {longest + (asked or 1)}, and the model's "
                f"context has {limits.context}; shorten the prompt" + (" or lower max_tokens" if room > 0 else ""),
                code="context_length_exceeded",
            )
        return min(otherwise, room) if asked is None else asked

    async def _answer(
        self, request: Request, asked: CompletionRequest | ChatRequest, form: _Completion | _Chat, new_tokens: int
    ) -> Response:
        pieces = self._pieces(form.prompts, new_tokens)
        if not asked.stream:
            return await _unless_gone(request, _whole(form, pieces))
        # The first piece ahead of the response: what goes wrong until then has a status of its own.
        first = await anext(pieces)
        return StreamingResponse(_events(form, first, pieces), media_type="text/event-stream")

    async def _pieces(self, prompts: Sequence[Prompt], new_tokens: int) -> AsyncGenerator[list[Piece], None]:
        """The answers as they come, step by step, with text cut between characters."""
        streams = [TextStream(self._served.tokens, prompt) for prompt in prompts]

        def piece(token: Token) -> Piece:
            # The token that ends an answer is told among the ids and is no part of the text.
            written = () if token.finish == "stop" else (token.id,)
            text = streams[token.row].push(written, last=token.finish is not None)
            return Piece(row=token.row, text=text, ids=(token.id,), finish=token.finish)

        try:
            async with contextlib.aclosing(self._served.worker.write(prompts, new_tokens=new_tokens)) as steps:
                async for step in steps:
                    yield [piece(token) for token in step]
        except Busy as error:
            raise Refused(
                f"{self._served.worker.requests} requests wait already; ask again later", status=503, code="busy"
            ) from error


class _Form:
    """The frame of an answer, in OpenAI's form."""

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
    """Server-sent events; what goes wrong in the middle is one of them, for the status has gone out."""
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
        except Exception as error:  # noqa: BLE001 (whatever it is, the client is told)
            _log.exception("a request failed in the middle of its stream")
            yield _event(Refused(str(error), status=500).body)
            return
        if form.tells_usage:
            yield _event(form.chunk([]) | {"usage": form.usage(new_tokens)})
        yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _body(request: Request) -> bytes:
    """The body, as far as it may be long.

    Raises:
        Refused: it is longer.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES:
            raise Refused(f"the body has more than {BODY_BYTES} bytes; send less", status=413)
        parts.append(part)
    return b"".join(parts)


async def _unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """Do the work, but stop where the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return Response(status_code=_CLIENT_GONE)
    finally:
        for task in (working, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"Retry-After": _RETRY_S} if error.code == "busy" else None
    return JSONResponse(error.body, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(Refused(message, status=error.status_code).body, error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_CLIENT_GONE)
    return JSONResponse(Refused(" ".join(str(error).split()) or type(error).__name__, status=500).body, 500)
