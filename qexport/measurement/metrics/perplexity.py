"""Negative log-likelihood per token sequence.

The same samples serve two metrics: ``perplexity`` over windows, ``exp(sum NLL / sum tokens)``, and
``sentence_perplexity`` over sentences, the mean of each sentence's own perplexity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ContractError
from qexport.measurement.metrics.trial import Samples, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qexport.runtime import Session

COLUMNS = ("nll_nats", "tokens")

_CHUNK_VALUES = 2**21
"""Logits converted to float64 at once: 16 MiB and two temporaries of that size, for any vocabulary and length."""


def score(session: Session, trial: Trial) -> Samples:
    """Score every sequence by itself: each token except the first, given all tokens before it.

    Raises:
        ContractError: a likelihood is not finite.
    """
    rows = []
    for number, ids in enumerate(trial.sequences):
        nll = sequence_nll(session.logits(ids[np.newaxis])[0], ids)
        if not np.isfinite(nll):
            raise ContractError(
                f"sequence {number} has a likelihood that is not finite: the artifact computes NaN or Inf"
            )
        rows.append((nll, float(len(ids) - 1)))
    return Samples(columns=COLUMNS, rows=tuple(rows))


def sequence_nll(logits: NDArray[np.float32], ids: NDArray[np.int64]) -> float:
    """Summed negative log-likelihood in nats of ``ids[1:]``, in float64 and bounded memory.

    Args:
        logits: ``[sequence, vocab]``; row ``i`` predicts ``ids[i + 1]``, the last row nothing.
        ids: ``[sequence]``.
    """
    step = max(1, _CHUNK_VALUES // logits.shape[1])
    total = 0.0
    for start in range(0, len(ids) - 1, step):
        targets = ids[1:][start : start + step]
        chunk = logits[start : start + len(targets)].astype(np.float64)
        highest = chunk.max(axis=1)
        chosen = chunk[np.arange(len(targets)), targets]
        chunk -= highest[:, np.newaxis]
        np.exp(chunk, out=chunk)
        total += float((np.log(chunk.sum(axis=1)) + highest - chosen).sum())
    return total
