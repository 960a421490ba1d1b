"""Measurements and answers made in this process, where a fresh process for each would take most of a test's time.

A fresh process matters to resident memory, time limits, signals and OpenMP's variables. A test of those is marked
``real_child``; every other test gets these functions from :mod:`tests.conftest`.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from qexport.core import cpu
from qexport.core.artifact import file_sha256
from qexport.core.errors import QExportError
from qexport.measurement import answers, child, probing, subject
from qexport.measurement.job import Answer, Job, Question

if TYPE_CHECKING:
    import pytest

Result = TypeVar("Result")
SCORES = ("perplexity", "sentence perplexity")
_remembered: dict[Any, Any] = {}
"""Answers by all that they depend on, the bytes of the artifact's files among it."""


def install(patch: pytest.MonkeyPatch) -> None:
    """Answer in this process from now on, until ``patch`` is undone."""
    patch.setattr(probing, "_ask_child", _measured_here)
    patch.setattr(answers.Apart, "_ask", _answered_here)


def _measured_here(job: Job, artifact: Any, tokens: Any) -> Any:
    """The answer of the child; the scores of an fp32 artifact, to which all others are compared, are remembered."""
    if artifact.manifest.recipe != "fp32" or job.probe not in SCORES or job.distributions is not None:
        return _asked_here(job, artifact, tokens)
    files = tuple((path.name, file_sha256(path)) for path in sorted(artifact.path.iterdir()))
    key = (job.probe, job.threads or cpu.cores(), job.provider, tokens.description, tokens.sha256, files)
    if key not in _remembered:
        _remembered[key] = _asked_here(job, artifact, tokens)
    return _remembered[key]


def _asked_here(job: Job, artifact: Any, tokens: Any) -> Any:
    """Through the files and the JSON that the child uses."""
    with tempfile.TemporaryDirectory(prefix="qexport-measure-") as name:
        folder = Path(name)
        given = {field: getattr(job, field) for field in Question.model_fields if hasattr(job, field)}
        question = Question(
            **given
            | {
                "artifact": artifact.path.resolve(),
                "threads": job.threads or cpu.cores(),
                "sequences": folder / "sequences.npz",
                "answer": folder / "answer.json",
            }
        )
        np.savez(question.sequences, *tokens.sequences)
        asked = Question.model_validate_json(question.model_dump_json())
        answer = _like_a_child(lambda: subject._answer(asked))
    return Answer.model_validate_json(answer.model_dump_json())


def _answered_here(self: answers.Apart, question: Any, advance: Any) -> None:
    self._file.parent.mkdir(parents=True, exist_ok=True)
    before = answers._count(self._file)
    try:
        _like_a_child(lambda: answers._answer(question))
    finally:
        for _ in range(answers._count(self._file) - before):
            advance()


def _like_a_child(work: Callable[[], Result]) -> Result:
    """Warnings are lines of a log there, which pytest turns into errors here; an error reaches the parent in words only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return work()
        except QExportError as error:
            kind, message = type(error).__name__, str(error)
        # A session of onnxruntime that could not be loaded fails once more as it goes; a child writes that to its log.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            gc.collect()
        finally:
            sys.unraisablehook = hook
    raise child.raised(kind, message)
