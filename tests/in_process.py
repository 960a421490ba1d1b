"""Measurements and answers made in this process, where a fresh process for each would take most of a test's time.

A fresh process matters to resident memory, time limits, signals and OpenMP's variables. A test of those is marked
``real_child``; every other test gets these functions from :mod:`tests.conftest`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport import answering, cpu, measure
from qexport.artifact import file_sha256

if TYPE_CHECKING:
    import pytest

SCORES = ("perplexity", "sentence perplexity")
_remembered: dict[Any, Any] = {}
"""Answers by all that they depend on, the bytes of the artifact's files among it."""


def install(patch: pytest.MonkeyPatch) -> None:
    """Answer in this process from now on, until ``patch`` is undone."""
    patch.setattr(measure, "_ask_child", _measured_here)
    patch.setattr(answering.Apart, "_ask", _answered_here)


def _measured_here(job: measure.Job, artifact: Any, tokens: Any) -> Any:
    """The answer of the child; the scores of an fp32 artifact, to which all others are compared, are remembered."""
    if artifact.manifest.recipe != "fp32" or job.probe not in SCORES:
        return _asked_here(job, artifact, tokens)
    files = tuple((path.name, file_sha256(path)) for path in sorted(artifact.path.iterdir()))
    key = (job.probe, job.threads or cpu.cores(), job.provider, tokens.description, tokens.sha256, files)
    if key not in _remembered:
        _remembered[key] = _asked_here(job, artifact, tokens)
    return _remembered[key]


def _asked_here(job: measure.Job, artifact: Any, tokens: Any) -> Any:
    """Through the files and the JSON that the child uses."""
    with tempfile.TemporaryDirectory(prefix="qexport-measure-") as name:
        folder = Path(name)
        given = {field: getattr(job, field) for field in measure._Question.model_fields if hasattr(job, field)}
        question = measure._Question(
            **given
            | {
                "artifact": artifact.path.resolve(),
                "threads": job.threads or cpu.cores(),
                "sequences": folder / "sequences.npz",
                "answer": folder / "answer.json",
            }
        )
        np.savez(question.sequences, *tokens.sequences)
        with _warnings_of_a_child():
            answer = measure._answer(measure._Question.model_validate_json(question.model_dump_json()))
    return measure._Answer.model_validate_json(answer.model_dump_json())


def _answered_here(self: answering.Apart, question: Any, advance: Any) -> None:
    self._file.parent.mkdir(parents=True, exist_ok=True)
    before = answering._count(self._file)
    try:
        with _warnings_of_a_child():
            answering._answer(question)
    finally:
        for _ in range(answering._count(self._file) - before):
            advance()


@contextmanager
def _warnings_of_a_child() -> Iterator[None]:
    """Pytest turns warnings into errors here; in a child they are lines of a log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
