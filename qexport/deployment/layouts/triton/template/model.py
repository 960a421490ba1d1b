"""Greedy generation with the decoder that the parameter ``model`` of ``config.pbtxt`` names.

A request has either

* ``input_ids`` INT64 ``[batch, length]``, and for padded prompts ``attention_mask`` of that shape, 0 for padding, or
* ``text_input`` STRING ``[batch]``, if tokenizer.json is next to this file and the server's Python has ``tokenizers``,

with ``max_new_tokens`` INT64 ``[1]``, and ``stop_ids`` INT64 ``[n]`` to replace the model's own. -1 is not a token, so
-1 alone stops nothing. Each response has ``token_ids`` INT64 ``[batch]``, the next token of each row, and -1 for a row
that has ended with a stop id; after ``text_input`` also ``text_output`` STRING ``[batch]``, the new text. The last
response is marked as final. A cancelled request stops at the next token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

Array = np.ndarray[Any, Any]
_TYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}
_UNFINISHED = "\ufffd"
"""The tokenizer's output for the first bytes of a character whose other bytes are in later tokens."""


class TritonPythonModel:
    """The class that the Python backend expects."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the parameters of ``config.pbtxt``."""
        config = json.loads(args["model_config"])
        told = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._decoder = _Decoder(
            model=told["model"],
            cache=json.loads(told["cache"]),
            cache_type=_TYPES[told["cache_type"]],
            position_ids=json.loads(told["position_ids"]),
            right=told["padding"] == "right",
        )
        self._vocabulary = int(told["vocabulary"])
        self._max_batch = int(told["max_batch"])
        self._context_length = int(told["context_length"])
        self._stop_ids = json.loads(told["stop_ids"])
        self._tokenizer_path = Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"
        self._tokenizer: Any = None

    async def execute(self, requests: list[Any]) -> None:
        """Answer requests concurrently, so that steps of the same shape can form one batch of the decoder."""
        await asyncio.gather(*map(self._answer, requests))

    async def _answer(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            await self._send_tokens(request, sender)
        except Exception as error:  # noqa: BLE001 (an error that is not caught would leave the client waiting)
            kind = (
                pb_utils.TritonError.INVALID_ARG if isinstance(error, _RefusedError) else pb_utils.TritonError.INTERNAL
            )
            told = pb_utils.TritonError(str(error) or type(error).__name__, kind)
            sender.send(pb_utils.InferenceResponse(error=told), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _send_tokens(self, request: Any, sender: Any) -> None:
        prompts, mask, as_text = self._prompts(request)
        new_tokens = int(_given(request, "max_new_tokens")[0])
        if new_tokens < 1:
            raise _RefusedError(f"max_new_tokens is {new_tokens}; ask for at least 1")
        most = prompts.shape[1] + new_tokens
        if 0 < self._context_length < most:
            raise _RefusedError(
                f"{prompts.shape[1]} tokens and {new_tokens} new ones are more than the {self._context_length} that the "
                "model was made for; ask for fewer"
            )
        given = _given(request, "stop_ids")
        stop = self._stop_ids if given is None else given
        texts = (
            [_Text(self._tokenizer, row[kept == 1]) for row, kept in zip(prompts, mask, strict=True)] if as_text else []
        )
        ended = np.zeros(len(prompts), bool)
        made = 0
        async for latest in self._decoder.tokens(prompts, mask):
            if sender.is_cancelled():
                cancelled = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
                sender.send(
                    pb_utils.InferenceResponse(error=cancelled), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                )
                return
            made += 1
            told = np.where(ended, -1, latest)
            ended |= np.isin(latest, stop)
            last = made == new_tokens or bool(ended.all())
            outputs = [pb_utils.Tensor("token_ids", told)]
            if as_text:
                rows = [text.next(int(token), last=last) for text, token in zip(texts, told, strict=True)]
                outputs.append(pb_utils.Tensor("text_output", np.array([row.encode() for row in rows], object)))
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            sender.send(pb_utils.InferenceResponse(outputs), flags=flags)
            if last:
                return

    def _prompts(self, request: Any) -> tuple[Array, Array, bool]:
        """Token ids and mask ``[batch, length]``, and True if the request has text."""
        ids, mask, texts = (_given(request, name) for name in ("input_ids", "attention_mask", "text_input"))
        if (ids is None) == (texts is None):
            raise _RefusedError("give input_ids, or text_input where the model has it, and not both")
        if ids is None:
            if mask is not None:
                raise _RefusedError("attention_mask belongs to input_ids; leave it out with text_input")
            ids, mask = self._encoded([text.decode() for text in texts])
        elif mask is None:
            mask = np.ones_like(ids)
        if ids.shape != mask.shape:
            raise _RefusedError(
                f"attention_mask is {list(mask.shape)} and input_ids is {list(ids.shape)}; make them alike"
            )
        if not np.isin(mask, (0, 1)).all() or not mask.any(axis=1).all():
            raise _RefusedError("attention_mask: each row needs ones for its tokens and zeros for padding, and a token")
        if not 0 < len(ids) <= self._max_batch:
            raise _RefusedError(f"{len(ids)} rows, and the model takes 1 to {self._max_batch}; send as many")
        if ids[mask == 1].min() < 0 or ids[mask == 1].max() >= self._vocabulary:
            raise _RefusedError(f"input_ids: a token is not in 0 to {self._vocabulary - 1}; use the model's tokenizer")
        return np.where(mask == 1, ids, 0), mask, texts is not None

    def _encoded(self, texts: list[str]) -> tuple[Array, Array]:
        if self._tokenizer is None:
            try:
                from tokenizers import Tokenizer
            except ImportError as error:
                raise _RefusedError(
                    "text_input: this server's Python has no tokenizers; pip install it in the image, or send input_ids"
                ) from error
            self._tokenizer = Tokenizer.from_file(str(self._tokenizer_path))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        rows = [self._tokenizer.encode(text).ids for text in texts]
        longest = max(map(len, rows), default=0)
        ids, mask = np.zeros((2, len(rows), longest), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)], mask[index, : len(row)] = row, 1
        if not rows or not mask.any(axis=1).all():
            raise _RefusedError("text_input: a text has no tokens; send some")
        return ids, mask


class _Decoder:
    """The called model, one step at a time."""

    def __init__(self, *, model: str, cache: Any, cache_type: Any, position_ids: bool, right: bool) -> None:
        self._model = model
        self._cache = cache
        self._cache_type = cache_type
        self._position_ids = position_ids
        self._right = right
        self._outputs = ["logits", *(name.replace("past_key_values.", "present.", 1) for name in cache)]

    async def tokens(self, ids: Array, mask: Array) -> AsyncIterator[Array]:
        """The likeliest next token of each row ``[batch]``, without end."""
        # Padding between a prompt and its new tokens would use up a sliding window, which counts it.
        order = np.argsort(-mask if self._right else mask, axis=1, kind="stable")
        ids, mask = np.take_along_axis(ids, order, axis=1), np.take_along_axis(mask, order, axis=1)
        lengths = mask.sum(axis=1)
        past = [
            pb_utils.Tensor(name, np.zeros((len(ids), heads, 0, width), self._cache_type))
            for name, (heads, width) in self._cache.items()
        ]
        logits, past = await self._run(ids, mask, np.maximum(np.cumsum(mask, axis=1) - 1, 0), past)
        latest = logits[np.arange(len(ids)), lengths - 1 if self._right else -1].argmax(axis=1)
        while True:
            yield latest
            lengths += 1
            mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
            if self._right:
                mask = (np.arange(mask.shape[1]) < lengths[:, None]).astype(np.int64)
            logits, past = await self._run(latest[:, None], mask, lengths[:, None] - 1, past)
            latest = logits[:, -1].argmax(axis=1)

    async def _run(self, ids: Array, mask: Array, positions: Array, past: list[Any]) -> tuple[Array, list[Any]]:
        inputs = [pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask), *past]
        if self._position_ids:
            inputs.append(pb_utils.Tensor("position_ids", positions))
        response = await pb_utils.InferenceRequest(
            model_name=self._model,
            inputs=inputs,
            requested_output_names=self._outputs,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        ).async_exec()
        if response.has_error():
            raise pb_utils.TritonModelException(f"{self._model}: {response.error().message()}")
        found = {tensor.name(): tensor for tensor in response.output_tensors()}
        present = [
            pb_utils.Tensor(name, found[name.replace("past_key_values.", "present.", 1)].as_numpy())
            for name in self._cache
        ]
        return found["logits"].as_numpy(), present


class _Text:
    """The growing text of one row."""

    def __init__(self, tokenizer: Any, prompt: Array) -> None:
        self._tokenizer = tokenizer
        self._tokens = prompt.tolist()
        self._said = self._decoded()

    def next(self, token: int, *, last: bool) -> str:
        """The text that a token adds; an incomplete character is held back."""
        if token >= 0:
            self._tokens.append(token)
        text = self._decoded()
        if text.endswith(_UNFINISHED) and not last:
            return ""
        added, self._said = text[len(self._said) :], text
        return added

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._tokens))


class _RefusedError(Exception):
    """A request that cannot be answered, and what to change."""


def _given(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
