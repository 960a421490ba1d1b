"""Negative log-likelihood per token sequence, and the distance from the baseline's distributions in the same pass.

The same samples serve two metrics: ``perplexity`` over windows, ``exp(sum NLL / sum tokens)``, and
``sentence_perplexity`` over sentences, the mean of each sentence's own perplexity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import CATALOGUE, DISTANCES, ContractError
from qexport.measurement.distributions import Distances, Scored, distances, keeping, kept_in
from qexport.measurement.metrics.trial import Open, Samples, Trial

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from qexport.runtime import Session

COLUMNS = ("nll_nats", "tokens")

_DIGITS = 4
"""Significant digits of a token's divergence in a record, which may hold a hundred thousand."""


def score(session: Session, trial: Trial) -> Samples:
    """Score every sequence by itself: each token except the first, given all tokens before it.

    Raises:
        ContractError: a likelihood is not finite.
    """
    return Samples(columns=COLUMNS, rows=tuple(_row(scored) for scored in _scored(session, trial)))


def score_windows(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
    """Score every sequence as :func:`score`; if the trial asks for distances, compare it with the baseline's too.

    Raises:
        ContractError: a likelihood is not finite.
        NotComparable: the baseline has scored other tokens.
    """
    session = open_session()
    asked = [metric for metric in DISTANCES if metric in trial.metrics]
    rows, found = [], []
    with _compared(trial.distributions if asked else None, is_baseline=trial.is_baseline) as compared:
        for scored in _scored(session, trial):
            rows.append(_row(scored))
            found += compared(scored)
    facts = session.facts()
    figures = {"perplexity": Samples(columns=COLUMNS, rows=tuple(rows), facts=facts)}
    if found:
        figures |= {metric: _samples(metric, found, facts) for metric in asked}
    return figures


def sequence_nll(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> float:
    """Summed negative log-likelihood in nats of ``ids[1:]``, in float64 and bounded memory.

    Args:
        logits: ``[sequence, vocab]``; row ``i`` predicts ``ids[i + 1]``, the last row nothing.
        ids: ``[sequence]``.
    """
    return _row(Scored.of(logits, ids))[0]


def _scored(session: Session, trial: Trial) -> Iterator[Scored]:
    for number, ids in enumerate(trial.sequences):
        scored = Scored.of(session.logits(ids[np.newaxis])[0], ids)
        if not np.isfinite(scored.target_log_p.sum()):
            raise ContractError(
                f"sequence {number} has a likelihood that is not finite: the artifact computes NaN or Inf"
            )
        yield scored


def _row(scored: Scored) -> tuple[float, float]:
    return -float(scored.target_log_p.sum()), float(len(scored.targets))


@contextlib.contextmanager
def _compared(path: Path | None, *, is_baseline: bool) -> Iterator[Callable[[Scored], list[Distances]]]:
    """Gives the distances of each sequence from the baseline's; none if there is no file of distributions.

    The baseline itself writes the file, and its distances are zero.
    """
    if path is not None and is_baseline:
        with keeping(path) as keep:
            yield lambda scored: [distances(keep(scored), scored)]
    elif path is not None and path.is_file():
        kept = kept_in(path)
        yield lambda scored: [distances(next(kept), scored)]
    else:
        yield lambda _: []


def _samples(metric: str, found: Sequence[Distances], facts: dict[str, float | int | str]) -> Samples:
    """The samples of one distance, in the form of its metric."""
    match CATALOGUE[metric].form:
        case "token_median" | "token_p999":
            columns = (metric, "window")
            rows = tuple(
                (float(f"{value:.{_DIGITS - 1}e}"), float(number))
                for number, each in enumerate(found)
                for value in each.kl_nats
            )
        case _:
            columns = (metric, "tokens")
            rows = tuple((float(_OF_TOKENS[metric](each).sum()), float(len(each.kl_nats))) for each in found)
    rest: dict[str, float | int | str] = {
        "rest_share": float(np.concatenate([each.rest for each in found]).mean()),
        "rest_nats": float(np.concatenate([each.rest_nats for each in found]).mean()),
    }
    return Samples(columns=columns, rows=rows, facts=facts | rest)


_OF_TOKENS: Mapping[str, Callable[[Distances], NDArray[np.float64]]] = {
    "kl_divergence": lambda each: each.kl_nats,
    "same_top_share": lambda each: each.same_top.astype(np.float64),
    "probability_change_rms": lambda each: each.probability_change**2,
}
"""The values of the tokens of a sequence whose sum is a sample."""
