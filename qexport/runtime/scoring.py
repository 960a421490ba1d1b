"""Answers to the requests of a benchmark: log-likelihoods of continuations, and texts generated up to a stop word.

A question, which its choices have in common, runs once; each choice continues from a copy of its cache. A choice of one
token needs no run of its own. Requests are batched with others of similar length. If an artifact's activations are
rounded in ranges that a whole batch shares, every sequence runs whole and alone instead: in a batch, its scores would
depend on its neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qexport.core import ContractError
from qexport.inputs import Architecture
from qexport.runtime.decoding import padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qexport.core import Manifest
    from qexport.runtime.decoding import Decoder
    from qexport.runtime.session import Session

BATCH_ROWS = 64
"""Most sequences that run at once."""

_LOGITS = 2**27
"""Most logits held at once, 512 MiB. They bound a batch of long sequences, or of a large vocabulary."""
_CACHED_TOKENS = 2**13
"""Most tokens in the caches of a batch: 600 MB for GPT-2 in float32, 1 GB for a model of 8 billion weights in
float16."""
_PADDING = 8
"""A batch ends before a row that is shorter than its first row by more than this, and by more than an eighth."""


class Passage(NamedTuple):
    """A passage to score: the tokens of ``continuation`` after those of ``context``, at least one each."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    log_likelihood: float
    """The log-likelihood of all tokens of the continuation together, in nats."""
    greedy: bool
    """True if greedy generation would write the continuation."""


class Prompt(NamedTuple):
    """A prompt to continue greedily."""

    tokens: tuple[int, ...]
    until: tuple[str, ...]
    """Texts that end the answer."""
    stop: tuple[int, ...]
    """Tokens that end the answer."""
    new_tokens: int
    """Most tokens of the answer."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The limits on sequences that run together."""

    vocabulary: int
    context: int | None = None
    """Most tokens of a sequence; None if nothing bounds them."""
    rows: int = BATCH_ROWS
    alone: bool = False
    """True if every sequence runs whole and alone."""
    switch: float | None = None
    """Sequences above this length run alone: there Phi-3 switches its rotary factors for the whole batch."""

    @classmethod
    def of(cls, manifest: Manifest, config: Mapping[str, Any], *, rows: int = BATCH_ROWS) -> Batching:
        """The batching that an artifact's kind and its model's configuration allow."""
        architecture = Architecture.of(config)
        return cls(
            vocabulary=int(config["vocab_size"]),
            context=architecture.context_length,
            rows=rows,
            alone=depends_on_batch(manifest),
            switch=architecture.longrope_switch,
        )

    @property
    def reach(self) -> float:
        """The length up to which a row does not disturb the others in its batch."""
        return min(limit for limit in (self.context, self.switch, math.inf) if limit is not None)


def depends_on_batch(manifest: Manifest) -> bool:
    """True if the results of a sequence depend on the others in its batch.

    They do if a range of activations is taken over all tokens at once: with dynamic 8-bit integers for each tensor, and
    with LLM.int8, which looks for outliers in the columns of the whole batch.
    """
    in_torch = manifest.kind == "torch"
    return any(
        node.activation == "dynamic" or (in_torch and node.weight_dtype == "int8") for node in manifest.quantized
    )


def loglikelihoods(
    session: Session,
    passages: Sequence[Passage],
    *,
    batching: Batching,
    done: Callable[[Mapping[int, Likelihood]], None],
) -> None:
    """Score passages, in the order that is fastest.

    Args:
        session: the opened artifact.
        passages: the passages to score, none of them twice.
        batching: the limits on sequences that run together.
        done: called with the likelihoods of each batch, by index into ``passages``.

    Raises:
        ContractError: a likelihood is not finite.
    """
    forks = session.decoder(batch=1, capacity=1).forks
    for batch in _batches(_rows(passages, batching, forks=forks), batching):
        tally = _Tally(passages)
        decoder = _read(session, batch, tally)
        forked = [(place, index) for place, row in enumerate(batch) for index in row.forks]
        forked.sort(key=lambda fork: -len(passages[fork[1]].continuation))
        while forked:
            room = len(batch[0].tokens) + len(passages[forked[0][1]].continuation)
            together = max(1, min(batching.rows, _CACHED_TOKENS // room))
            _go_on(decoder, forked[:together], tally, batching)
            del forked[:together]
        done(tally.likelihoods())


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A sequence that runs from its start."""

    tokens: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]
    """Passages that are scored from this sequence's logits, each with the position that predicts its first token."""
    forks: tuple[int, ...] = ()
    """Passages whose first token alone is predicted here; this sequence is their context."""
    alone: bool = False


def _rows(passages: Sequence[Passage], batching: Batching, *, forks: bool) -> list[_Row]:
    """The sequences to run, the longest first, so that memory runs out at once or not at all."""
    by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, passage in enumerate(passages):
        by_context[passage.context].append(index)
    rows: list[_Row] = []
    for context, indices in by_context.items():
        end = len(context) - 1
        short = [index for index in indices if len(passages[index].continuation) == 1]
        long = [index for index in indices if len(passages[index].continuation) > 1]
        longest = max(len(passages[index].continuation) for index in indices)
        alone = batching.alone or (batching.switch is not None and len(context) + longest > batching.switch)
        fed = sum(len(passages[index].continuation) - 1 for index in long)
        # A token fed in a step costs about 1.5 times as much as one of a long sequence.
        if forks and not alone and len(context) * (len(long) - 1) > fed / 2:
            rows.append(_Row(tokens=context, reads=tuple((index, end) for index in short), forks=tuple(long)))
            continue
        whole = [(context + passages[index].continuation[:-1], [(index, end)]) for index in long]
        if short and (alone or not whole):
            whole.append((context, []))
        if short:
            whole[-1][1].extend((index, end) for index in short)
        rows.extend(_Row(tokens=tokens, reads=tuple(reads), alone=alone) for tokens, reads in whole)
    return sorted(rows, key=lambda row: (-len(row.tokens), row.tokens))


def _batches(rows: Sequence[_Row], batching: Batching) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    for row in rows:
        if batch and (row.alone or batch[0].alone or not _fits(batch[0].tokens, row.tokens, len(batch) + 1, batching)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _fits(first: Sequence[int], tokens: Sequence[int], rows: int, batching: Batching) -> bool:
    """True if a batch that begins with its longest sequence may have these tokens as its last row."""
    padding = len(first) - len(tokens)
    return rows <= batching.rows and (
        padding <= max(_PADDING, len(first) // 8) and rows * len(first) * batching.vocabulary <= _LOGITS
    )


class _Tally:
    """Log-likelihoods of a batch, summed token by token."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = passages
        self._sums: dict[int, float] = defaultdict(float)
        self._greedy: dict[int, bool] = defaultdict(lambda: True)

    def add(self, logits: NDArray[np.float32], indices: Sequence[int], targets: Sequence[int]) -> None:
        """Count one token of each passage.

        Args:
            logits: the logits that predict the tokens, ``[tokens, vocab]``.
            indices: the passage of each token.
            targets: the tokens.
        """
        highest = logits.max(axis=1)
        chosen = logits[np.arange(len(targets)), targets]
        # Sum in float64: in float32 the sums over a large vocabulary would lose the fourth digit.
        with np.errstate(invalid="ignore"):  # `likelihoods` refuses values that are not finite
            rest = np.log(np.exp(logits - highest[:, np.newaxis]).sum(axis=1, dtype=np.float64))
            likelihoods = chosen - highest - rest
        for index, likelihood, greedy in zip(
            indices, likelihoods.tolist(), (logits.argmax(axis=1) == targets).tolist(), strict=True
        ):
            self._sums[index] += likelihood
            self._greedy[index] &= greedy

    def likelihoods(self) -> dict[int, Likelihood]:
        """The likelihood of each passage.

        Raises:
            ContractError: a likelihood is not finite.
        """
        if not all(map(np.isfinite, self._sums.values())):
            raise ContractError("a likelihood is not finite: the artifact computes NaN or Inf")
        return {index: Likelihood(total, self._greedy[index]) for index, total in self._sums.items()}


def _read(session: Session, batch: Sequence[_Row], tally: _Tally) -> Decoder:
    """Run sequences from their start and count every prediction; the decoder that ran them can be forked."""
    lengths = [len(row.tokens) for row in batch]
    decoder = session.decoder(batch=len(batch), capacity=lengths[0])
    logits = decoder.prefill(*padded([np.array(row.tokens) for row in batch], decoder.side))
    for place, row in enumerate(batch):
        start = lengths[0] - lengths[place] if decoder.side == "left" else 0
        for index, position in row.reads:
            targets = tally.passages[index].continuation
            predicting = logits[place, start + position : start + position + len(targets)]
            tally.add(predicting, [index] * len(targets), targets)
        if row.forks:
            predicting = np.broadcast_to(logits[place, start + lengths[place] - 1], (len(row.forks), logits.shape[2]))
            tally.add(predicting, row.forks, [tally.passages[index].continuation[0] for index in row.forks])
    return decoder


def _go_on(decoder: Decoder, forks: Sequence[tuple[int, int]], tally: _Tally, batching: Batching) -> None:
    """Feed continuations token by token behind their contexts, the longest first.

    Rows that have ended are still fed. They are dropped once they are half of the rows, or before they leave the
    model's reach.

    Args:
        decoder: the decoder that has run the contexts.
        forks: the row of each context, and the passage.
        tally: the sums to add to.
        batching: the limits on the length of a row.
    """
    contexts = [len(tally.passages[index].context) for _, index in forks]
    continuations = [tally.passages[index].continuation for _, index in forks]
    rows = np.array([place for place, _ in forks])
    decoder = decoder.fork(rows, steps=len(continuations[0]) - 1)
    for step in range(1, len(continuations[0])):
        going = sum(len(tokens) > step for tokens in continuations)
        furthest = max(contexts[going : len(rows)], default=0) + step
        if going <= len(rows) // 2 or furthest > batching.reach:
            rows = np.arange(going)
            decoder = decoder.fork(rows, steps=len(continuations[0]) - step)
        fed = [tokens[min(step, len(tokens)) - 1] for tokens in continuations[: len(rows)]]
        logits = decoder.advance(np.array(fed))
        indices = [index for _, index in forks[:going]]
        tally.add(logits[:going], indices, [tokens[step] for tokens in continuations[:going]])


def generate_until(
    session: Session,
    prompts: Sequence[Prompt],
    *,
    batching: Batching,
    read: Callable[[Sequence[int]], str],
    done: Callable[[Mapping[int, tuple[int, ...]]], None],
) -> None:
    """Continue prompts greedily, each until it has ended.

    Args:
        session: the opened artifact.
        prompts: the prompts to continue.
        batching: the limits on sequences that run together.
        read: turns tokens into the text in which stop words are looked for.
        done: called with the new tokens of each batch, by index into ``prompts``; the text may go on behind a stop
            word.
    """
    if not session.decoder(batch=1, capacity=1).forks:  # a row that has ended stays to the end of its batch
        batching = replace(batching, switch=batching.reach)
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index].tokens), prompts[index]))
    for batch in _prompt_batches(prompts, order, batching):
        answers = _answer([prompts[index] for index in batch], session, read, batching)
        done(dict(zip(batch, answers, strict=True)))


def _prompt_batches(prompts: Sequence[Prompt], order: Sequence[int], batching: Batching) -> Iterator[list[int]]:
    batch: list[int] = []
    room = 0
    for index in order:
        prompt = prompts[index]
        first = prompts[batch[0]].tokens if batch else prompt.tokens
        room = max(room, len(first) + prompt.new_tokens)
        alone = batching.alone or (batching.switch is not None and room > batching.switch)
        full = (len(batch) + 1) * room > _CACHED_TOKENS or not _fits(first, prompt.tokens, len(batch) + 1, batching)
        if batch and (alone or full):
            yield batch
            batch, room = [], len(prompt.tokens) + prompt.new_tokens
        batch.append(index)
    if batch:
        yield batch


def _answer(
    prompts: Sequence[Prompt], session: Session, read: Callable[[Sequence[int]], str], batching: Batching
) -> list[tuple[int, ...]]:
    """The new tokens of each prompt; rows that have ended are dropped as in :func:`_go_on`."""
    answers: list[list[int]] = [[] for _ in prompts]

    def ended(place: int) -> bool:
        tokens, prompt = answers[place], prompts[place]
        if len(tokens) == prompt.new_tokens or tokens[-1] in prompt.stop:
            return True
        text = read(tokens) if prompt.until else ""
        return any(word in text for word in prompt.until)

    steps = max(prompt.new_tokens for prompt in prompts)
    longest = max(len(prompt.tokens) for prompt in prompts)
    decoder = session.decoder(batch=len(prompts), capacity=longest + steps)
    latest = decoder.begin(*padded([np.array(prompt.tokens) for prompt in prompts], decoder.side))
    places, going = list(range(len(prompts))), set(range(len(prompts)))
    for step in itertools.count(1):
        for place, token in zip(places, latest.tolist(), strict=True):
            if place in going:
                answers[place].append(token)
                if ended(place):
                    going.remove(place)
        if not going:
            break
        furthest = max((len(prompts[place].tokens) + step for place in places if place not in going), default=0)
        if decoder.forks and (len(going) <= len(places) // 2 or furthest > batching.reach):
            rows = np.array([row for row, place in enumerate(places) if place in going])
            decoder, latest = decoder.fork(rows, steps=steps - step), latest[rows]
            places = [places[row] for row in rows]
        latest = decoder.step(latest)
    return [tuple(tokens) for tokens in answers]
