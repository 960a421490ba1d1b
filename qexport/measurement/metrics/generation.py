"""Greedy generation of a fixed number of tokens: one prompt after another, and all as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from qexport.measurement.metrics.trial import Open, Rows, Samples, Trial
from qexport.runtime import Generated, generate, padded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qexport.runtime import Decoder

_WARMUPS = 2
"""Prompts before the first that counts, and batches; a prompt makes many steps, so fewer are needed than sentences."""
_TOLD = 16
"""Tokens of each row that are kept in the record."""


def one_by_one(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
    """Time each prompt alone. The cache is allocated once, before the first prompt.

    With several passes, the quickest answer to each prompt counts.
    """
    session = open_session()
    decoder = session.decoder(batch=1, capacity=max(map(len, trial.sequences)) + trial.new_tokens)
    warmups = [_answer(decoder, trial, ids) for ids in trial.sequences[: min(trial.warmups, _WARMUPS)]]
    passes = [[_answer(decoder, trial, ids) for ids in trial.sequences] for _ in range(trial.repeats)]
    answers = [min(several, key=attrgetter("total_s")) for several in zip(*passes, strict=True)]
    total_s = sum(generated.total_s for generated in answers)
    tokens = float(sum(generated.tokens.size for generated in answers))
    told: dict[str, float | int | str] = {
        f"tokens_{index}": _told(generated, 0) for index, generated in enumerate(answers)
    }
    figures = {
        metric: Samples(
            columns=(metric, "tokens", "round"),
            rows=_rows(answers, trial, figure),
            warmups=_rows(warmups, trial, figure),
        )
        for metric, figure in _FIGURES.items()
    }
    return figures | {
        "sequential_s": _once_a_round("sequential_s", total_s, tokens, trial),
        "tokens_per_s": _once_a_round("tokens_per_s", tokens / total_s, tokens, trial, told | session.facts()),
    }


def as_batch(open_session: Open, trial: Trial) -> Mapping[str, Samples]:
    """Time all prompts as one batch. Shorter prompts are padded on the left."""
    session = open_session()
    ids, mask = padded(trial.sequences, "left")
    decoder = session.decoder(batch=len(ids), capacity=ids.shape[1] + trial.new_tokens)
    for _ in range(min(trial.warmups, _WARMUPS)):
        generate(decoder, ids, mask, new_tokens=trial.new_tokens)
    passes = [generate(decoder, ids, mask, new_tokens=trial.new_tokens) for _ in range(trial.repeats)]
    generated = min(passes, key=attrgetter("total_s"))
    tokens = float(generated.tokens.size)
    told: dict[str, float | int | str] = {f"tokens_{row}": _told(generated, row) for row in range(len(ids))}
    return {
        "batch_s": _once_a_round("batch_s", generated.total_s, tokens, trial),
        "batch_tokens_per_s": _once_a_round(
            "batch_tokens_per_s", tokens / generated.total_s, tokens, trial, told | session.facts()
        ),
    }


def _answer(decoder: Decoder, trial: Trial, prompt: NDArray[np.int64]) -> Generated:
    return generate(decoder, *padded([prompt], "left"), new_tokens=trial.new_tokens)


_Figure = Callable[[Generated, int], tuple[float, int]]
_FIGURES: Mapping[str, _Figure] = {
    "first_token_s": lambda generated, prompt: (generated.first_token_s, prompt),
    "token_latency_s": lambda generated, _: (generated.token_latency_s, generated.tokens.size),
    "generation_s": lambda generated, _: (generated.total_s, generated.tokens.size),
}
"""Seconds of an answer, and the number of tokens that they depend on: prompt tokens or new tokens."""


def _rows(answers: Sequence[Generated], trial: Trial, figure: _Figure) -> Rows:
    pairs = [figure(generated, len(ids)) for generated, ids in zip(answers, trial.sequences, strict=False)]
    return tuple((seconds, float(tokens), float(trial.round)) for seconds, tokens in pairs)


def _once_a_round(
    metric: str, value: float, tokens: float, trial: Trial, facts: Mapping[str, float | int | str] | None = None
) -> Samples:
    return Samples(
        columns=(metric, "tokens", "round"), rows=((value, tokens, float(trial.round)),), facts=dict(facts or {})
    )


def _told(generated: Generated, row: int) -> str:
    """The first tokens of a row, so that a reader can compare two rows."""
    return " ".join(map(str, generated.tokens[row, :_TOLD].tolist()))
