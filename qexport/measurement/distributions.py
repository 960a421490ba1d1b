"""Next-token distributions of the baseline, kept in a file, and the distance of another row from them.

A file holds for each position the highest logits, exact, the logarithm of the normalizer, and logits of tokens that are
drawn from the rest. The divergence has three parts:

1. The terms of the highest logits, exact.
2. The term of the rest as one token. With the first part this is a lower bound of the divergence (log-sum inequality).
3. The divergence within the rest, as the mean of ``r - 1 - ln r`` over the drawn tokens, with ``r`` the ratio of their
   probabilities within the rest. No term is negative, and the mean is that of the whole rest.

A vocabulary of at most :data:`TOP_LOGITS` tokens has no rest, and the divergence is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from qexport.core import NotComparable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DISTRIBUTIONS = "distributions"
"""The name of the file in a folder of its own."""
TOP_LOGITS, DRAWN_LOGITS = 256, 256
"""Kept logits of a position: 4 KiB. With these the mean divergence of SmolLM2-135M is within 0.2 % of the one over all
49,152 logits; docs/measure.md has the figures."""

_GROUP = 16
"""Logits whose maximum stands for them in the search for the highest."""
_LEAST_MASS = 1e-12
"""The least probability of the rest; below it is rounding."""

_CHUNK_VALUES = 2**21
"""Logits converted to float64 at once: 16 MiB and two temporaries of that size, for any vocabulary and length."""


def log_normalizers(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logarithm of the sum of exponentials of each row, in float64 and bounded memory.

    Args:
        logits: ``[positions, vocab]``.
    """
    step = max(1, _CHUNK_VALUES // logits.shape[1])
    found: NDArray[np.float64] = np.empty(len(logits))
    for start in range(0, len(logits), step):
        chunk = logits[start : start + step].astype(np.float64)
        highest = chunk.max(axis=1)
        chunk -= highest[:, np.newaxis]
        np.exp(chunk, out=chunk)
        found[start : start + step] = np.log(chunk.sum(axis=1)) + highest
    return found


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A sequence that was scored."""

    logits: NDArray[np.float32]
    """``[positions, vocab]``; row ``i`` predicts ``targets[i]``."""
    log_z: NDArray[np.float64]
    """The logarithm of the normalizer of each position."""
    targets: NDArray[np.int64]
    """The right token of each position."""

    @classmethod
    def of(cls, logits: NDArray[np.float32], ids: NDArray[np.int64]) -> Self:
        """The sequence ``ids`` with its logits ``[sequence, vocab]``, of which the last row predicts nothing."""
        rows = logits[: len(ids) - 1]
        return cls(logits=rows, log_z=log_normalizers(rows), targets=ids[1:])

    @property
    def target_log_p(self) -> NDArray[np.float64]:
        """The log-likelihood of each right token in nats."""
        return _log_p(self.logits[np.arange(len(self.targets)), self.targets], self.log_z)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The distributions of one sequence, as the file holds them."""

    targets: NDArray[np.int64]
    target_log_p: NDArray[np.float64]
    log_z: NDArray[np.float64]
    top_ids: NDArray[np.int32]
    """Tokens of the highest logits, ``[positions, kept]``; the highest first."""
    top_logits: NDArray[np.float32]
    rest_ids: NDArray[np.int32]
    """Tokens drawn from the rest, ``[positions, drawn]``, each with the chance that it has; none if the rest is empty."""
    rest_logits: NDArray[np.float32]

    @classmethod
    def of(cls, scored: Scored, top: int, drawn: int) -> Self:
        """The part of a scored sequence that is kept.

        Args:
            scored: a sequence.
            top: the highest logits of a position.
            drawn: the logits of the rest of a position.
        """
        vocab = scored.logits.shape[1]
        top_ids = _highest(scored.logits, min(top, vocab))
        rest_ids = _drawn(scored, top_ids, drawn if top < vocab else 0)
        return cls(
            targets=scored.targets,
            target_log_p=scored.target_log_p,
            log_z=scored.log_z,
            top_ids=top_ids,
            top_logits=np.take_along_axis(scored.logits, top_ids, axis=1),
            rest_ids=rest_ids,
            rest_logits=np.take_along_axis(scored.logits, rest_ids, axis=1),
        )


_PARTS = tuple(Kept.__annotations__)


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The distances of a scored sequence from the baseline, for each position."""

    kl_nats: NDArray[np.float64]
    rest: NDArray[np.float64]
    """The baseline's probability of the rest."""
    rest_nats: NDArray[np.float64]
    """The part of the divergence that is estimated from the tokens drawn from the rest; without it, a lower bound remains."""
    same_top: NDArray[np.bool_]
    probability_change: NDArray[np.float64]
    """Of the right token."""


def distances(kept: Kept, scored: Scored) -> Distances:
    """Compare a scored sequence with the baseline's.

    Raises:
        NotComparable: the sequence is another one.
    """
    if not np.array_equal(kept.targets, scored.targets):
        raise NotComparable("the baseline has scored other tokens; measure the rows in one run")
    log_z = kept.log_z[:, np.newaxis]
    log_p, log_q = _log_p(kept.top_logits, log_z), _log_q(scored, kept.top_ids)
    p, q = np.exp(log_p), np.exp(log_q)
    change = np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=p > 0)
    divergence = (p * change).sum(axis=1)
    rest, rest_nats = np.zeros_like(divergence), np.zeros_like(divergence)
    if kept.rest_ids.shape[1]:
        rest = np.maximum(1.0 - p.sum(axis=1), _LEAST_MASS)
        log_rest, log_rest_q = np.log(rest), np.log(np.maximum(1.0 - q.sum(axis=1), _LEAST_MASS))
        divergence += rest * (log_rest - log_rest_q)
        log_ratio = _log_q(scored, kept.rest_ids) - _log_p(kept.rest_logits, log_z)
        log_ratio += (log_rest - log_rest_q)[:, np.newaxis]
        rest_nats = rest * (np.expm1(log_ratio) - log_ratio).mean(axis=1)
    return Distances(
        kl_nats=np.maximum(divergence, 0.0) + rest_nats,  # below zero is rounding
        rest=rest,
        rest_nats=rest_nats,
        same_top=scored.logits.argmax(axis=1) == kept.top_ids[:, 0],
        probability_change=np.exp(scored.target_log_p) - np.exp(kept.target_log_p),
    )


def _log_p(logits: NDArray[np.float32], log_z: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.subtract(logits, log_z, dtype=np.float64)
    return found


def _log_q(scored: Scored, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    return _log_p(np.take_along_axis(scored.logits, ids, axis=1), scored.log_z[:, np.newaxis])


def _drawn(scored: Scored, top_ids: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Tokens of the rest of each position, at ``count`` equal steps of its cumulated probability."""
    found = np.empty((len(top_ids), count), np.int32)
    steps = (np.arange(count) + 0.5) / count if count else np.empty(0)
    for logits, log_z, top, chosen in zip(scored.logits, scored.log_z, top_ids, found, strict=True):
        p = np.exp(_log_p(logits, log_z))
        p[top] = 0.0
        cumulated = p.cumsum()
        chosen[:] = np.minimum(np.searchsorted(cumulated, steps * cumulated[-1]), len(p) - 1)
    return found


def _highest(logits: NDArray[np.float32], count: int) -> NDArray[np.int32]:
    """The tokens of the ``count`` highest logits of each row, the highest first.

    The ``count`` highest of the groups' maxima are ``count`` logits, so no logit below the least of them is sought. The
    few others are sorted. This takes a fifth of the time of ``np.argpartition`` over 50,000 logits.
    """
    rows, vocab = logits.shape
    groups = vocab // _GROUP
    floors = np.full(rows, -np.inf, np.float32)
    if groups >= count:
        maxima = logits[:, : groups * _GROUP].reshape(rows, _GROUP, groups).max(axis=1)
        floors = np.partition(maxima, groups - count, axis=1)[:, groups - count]
    found = np.empty((rows, count), np.int32)
    for row, floor, chosen in zip(logits, floors, found, strict=True):
        candidates = np.flatnonzero(row >= floor)
        chosen[:] = candidates[np.argsort(-row[candidates], kind="stable")[:count]]
    return found


@contextmanager
def keeping(path: Path) -> Iterator[Callable[[Scored], Kept]]:
    """Gives the function that writes one sequence after another; the file is there once all are written."""
    beside = path.with_suffix(".part")
    with beside.open("wb") as handle:

        def keep(scored: Scored) -> Kept:
            kept = Kept.of(scored, TOP_LOGITS, DRAWN_LOGITS)
            for part in _PARTS:
                np.save(handle, getattr(kept, part), allow_pickle=False)
            return kept

        yield keep
    beside.replace(path)


def kept_in(path: Path) -> Iterator[Kept]:
    """The distributions of a file, sequence by sequence."""
    with path.open("rb") as handle:
        size = path.stat().st_size
        while handle.tell() < size:
            yield Kept(**{part: np.load(handle, allow_pickle=False) for part in _PARTS})
