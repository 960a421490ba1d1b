"""One probe of one artifact: the job, the question that the child reads, and the answer that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from qexport.core import Artifact, Conditions, Provider, Published, QExportError

if TYPE_CHECKING:
    from qexport.inputs import TokenSet

TIMEOUT_S = 4 * 3600.0
"""Seconds until a child counts as hung. GPT-2 in bitsandbytes on two cores, the slowest row known, takes minutes."""


_WARMUPS = 5


@dataclass(frozen=True, kw_only=True)
class AnswerKey:
    """The way to read and judge the answer of a session."""

    read: Callable[[Sequence[int]], str]
    """Turns token ids into text."""
    prompt: str
    expected: tuple[str, ...] = ()
    """The accepted answers; empty if the answer is not judged."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One probe of one artifact."""

    artifact: Path
    row: str
    probe: str
    """A key of :data:`qexport.measurement.probes.PROBES`."""
    metrics: tuple[str, ...] = ()
    """The metrics to measure; empty for all metrics of the probe but distances, which are measured only if named."""
    tokens: TokenSet | None = None
    """The input tokens; None for figures without a run."""
    provider: Provider = "cpu"
    threads: int | None = None
    """Threads for the runtime; None takes every processor that this process may use."""
    warmups: int = _WARMUPS
    round: int = 0
    repeats: int = 1
    """Passes over all sequences in a round; the quickest of each sequence counts."""
    new_tokens: int = 0
    """The number of tokens to generate after each prompt; in a session an upper bound."""
    stop: tuple[int, ...] = ()
    """Tokens that end the answer of a session."""
    key: AnswerKey | None = None
    distributions: Path | None = None
    """The file of the baseline's distributions, see :mod:`qexport.measurement.distributions`; None without a comparison."""
    is_baseline: bool = False
    """True if the row is the baseline, which writes the file."""
    published: Mapping[str, Published] = field(default_factory=dict)
    """Published figures by metric."""
    run: str = ""
    stand_in: bool = False
    timeout_s: float = TIMEOUT_S


class Question(BaseModel):
    """A job in the form that the child gets; the token ids are in a file next to the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Path
    probe: str
    provider: Provider
    threads: int
    warmups: int
    round: int
    repeats: int = 1
    new_tokens: int
    stop: tuple[int, ...]
    metrics: tuple[str, ...] = ()
    distributions: Path | None = None
    is_baseline: bool = False
    sequences: Path
    answer: Path


class Figure(BaseModel):
    """Samples of one metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]
    samples: tuple[tuple[float, ...], ...]
    warmups: tuple[tuple[float, ...], ...] = ()
    facts: dict[str, float | int | str] = {}


class Answer(BaseModel):
    """The output of the child: samples and the conditions that only it knows, or the error that stopped it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    figures: dict[str, Figure] = {}
    """Figures by metric."""
    conditions: Conditions = Conditions()
    error: str | None = None
    """Name of an error class of qexport."""
    message: str = ""


Ask = Callable[[Job, Artifact, "TokenSet"], Answer]
"""Runs a job; raises UnsupportedHere if this machine cannot run it."""


def failed(error: QExportError) -> Answer:
    """The answer of a child that stopped with an error."""
    return Answer(error=type(error).__name__, message=str(error))
