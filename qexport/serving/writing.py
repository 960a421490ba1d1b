"""Greedy continuation, step by step: for one prompt, or for many as a padded batch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from qexport.core import InputError
from qexport.inputs import Architecture
from qexport.runtime import Batching, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qexport.core import Artifact
    from qexport.runtime import Decoder, Session

Prompt = tuple[int, ...]
Finish = Literal["stop", "length"]

_LOGITS = 2**27
"""The most logits of a batch of prompts, 512 MiB; this bounds the rows that run together."""


class Token(NamedTuple):
    """One new token of a prompt."""

    row: int
    id: int
    finish: Finish | None
    """The reason why no token follows; None if one may."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a model for requests."""

    context: int
    """The most tokens of a row, with the prompt."""
    vocabulary: int
    stop: frozenset[int]
    """Tokens that end an answer."""


def read_limits(artifact: Artifact, end: int | None) -> Limits:
    """The limits of an artifact from its configuration.

    Args:
        artifact: the artifact whose side files are read.
        end: EOS of its tokenizer, used if no configuration names an end.

    Raises:
        InputError: ``config.json`` is missing, or names no context.
    """
    config, generation = _config(artifact, "config.json"), _config(artifact, "generation_config.json")
    architecture = Architecture.of(config)
    if architecture.context_length is None or architecture.vocabulary is None:
        raise InputError(f"{artifact.path / 'config.json'}: names no vocabulary or context; export the model again")
    named = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = [end] if named is None else named if isinstance(named, list) else [named]
    return Limits(
        context=architecture.context_length,
        vocabulary=architecture.vocabulary,
        stop=frozenset(token for token in ends if token is not None),
    )


def _config(artifact: Artifact, name: str) -> dict[str, Any]:
    file = artifact.path / name
    if not file.is_file():
        return {}
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


class Writer:
    """Continues prompts with one session, one call at a time."""

    def __init__(self, artifact: Artifact, session: Session, limits: Limits) -> None:
        self._session, self._limits = session, limits
        self._batching = Batching.of(artifact.manifest, _config(artifact, "config.json"))
        self._switch = math.inf if self._batching.switch is None else self._batching.switch

    def write(self, prompts: Sequence[Prompt], *, new_tokens: int) -> Iterator[list[Token]]:
        """New tokens as they come, those of one step together. Nothing runs after the iterator is closed.

        Each row gets the same tokens as it gets alone. Rows run separately if a shared range of activations, or
        a switch of the rotary factors, would make them depend on each other.

        Args:
            prompts: the prompts, of at least one token each; with ``new_tokens`` they must fit into the context.
            new_tokens: the most new tokens of each prompt.
        """
        for rows in self._groups(prompts, new_tokens):
            yield from self._run({row: prompts[row] for row in rows}, new_tokens)

    def _groups(self, prompts: Sequence[Prompt], new_tokens: int) -> Iterator[list[int]]:
        longest = max(map(len, prompts))
        together = max(1, min(self._batching.rows, _LOGITS // (longest * self._limits.vocabulary)))
        if self._batching.alone or longest + new_tokens > self._switch:
            together = 1
        for first in range(0, len(prompts), together):
            yield list(range(first, min(first + together, len(prompts))))

    def _run(self, prompts: Mapping[int, Prompt], new_tokens: int) -> Iterator[list[Token]]:
        rows = [list(prompt) for prompt in prompts.values()]
        longest = max(map(len, rows))
        decoder, latest = self._begin(rows, new_tokens)
        going = set(prompts)
        for step in range(1, new_tokens + 1):
            tokens = []
            for row, place, token in zip(prompts, rows, latest.tolist(), strict=True):
                place.append(token)
                if row in going:
                    finish: Finish | None = (
                        "stop" if token in self._limits.stop else "length" if step == new_tokens else None
                    )
                    tokens.append(Token(row, token, finish))
            going.difference_update(token.row for token in tokens if token.finish)
            yield tokens
            if not going:
                return
            if longest + step == self._switch + 1:
                # From here on the rotary factors of all positions differ, also in the cache; transformers drops it.
                decoder, latest = self._begin(rows, new_tokens - step)
            else:
                latest = decoder.step(latest)  # rows that have ended stay in the batch

    def _begin(self, rows: Sequence[Sequence[int]], new_tokens: int) -> tuple[Decoder, NDArray[np.int64]]:
        decoder = self._session.decoder(batch=len(rows), capacity=max(map(len, rows)) + new_tokens)
        return decoder, decoder.begin(*padded([np.array(row) for row in rows], decoder.side))
