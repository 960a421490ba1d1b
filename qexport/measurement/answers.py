"""An artifact's answers to the requests of a benchmark, from this process or from a fresh one.

A fresh process writes each answer to a file at once, under a key made from its request. A run that was killed
continues at the next request. The child is ``python -m qexport.measurement.answers``; it knows tokens but no benchmark.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qexport.core import (
    Artifact,
    Conditions,
    InputError,
    NotComparable,
    Provider,
    QExportError,
    cpu,
    load_artifact,
    progress,
    scratch_folder,
)
from qexport.inputs import read_tokenizer
from qexport.measurement import child, memory
from qexport.measurement.conditions import import_runtime, of_session
from qexport.runtime import (
    BATCH_ROWS,
    Batching,
    Likelihood,
    Passage,
    Prompt,
    Session,
    generate_until,
    loglikelihoods,
    open_session,
)

HUNG_S = 4 * 3600.0
"""Seconds without an answer until a child counts as hung. A batch of long sequences takes minutes on two cores."""

_Request = TypeVar("_Request", Passage, Prompt)


class Respondent(Protocol):
    """Gives the answers of an artifact."""

    def likelihoods(self, passages: Sequence[Passage]) -> list[Likelihood]:
        """One likelihood for each passage, in order."""

    def continuations(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """The new tokens of each prompt, in order."""


class Here:
    """Answers from a session in this process."""

    def __init__(self, artifact: Artifact, session: Session, *, rows: int = BATCH_ROWS) -> None:
        """Let ``session`` of ``artifact`` answer at most ``rows`` requests at once."""
        config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))
        self._batching = Batching.of(artifact.manifest, config, rows=rows)
        self._folder, self._session = artifact.path, session

    def likelihoods(self, passages: Sequence[Passage]) -> list[Likelihood]:
        """See :meth:`Respondent.likelihoods`."""
        found: dict[Passage, Likelihood] = {}
        self.score(list(dict.fromkeys(passages)), found.update)
        return [found[passage] for passage in passages]

    def continuations(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """See :meth:`Respondent.continuations`."""
        found: dict[Prompt, tuple[int, ...]] = {}
        self.write(list(dict.fromkeys(prompts)), found.update)
        return [found[prompt] for prompt in prompts]

    def score(self, passages: Sequence[Passage], done: Callable[[Mapping[Passage, Likelihood]], None]) -> None:
        """Score distinct passages; ``done`` gets the results of each batch."""
        loglikelihoods(
            self._session,
            passages,
            batching=self._batching,
            done=lambda batch: done({passages[index]: likelihood for index, likelihood in batch.items()}),
        )

    def write(self, prompts: Sequence[Prompt], done: Callable[[Mapping[Prompt, tuple[int, ...]]], None]) -> None:
        """Continue distinct prompts; ``done`` gets the results of each batch."""
        if not prompts:
            return  # a tokenizer takes seconds to import
        tokenizer = read_tokenizer(self._folder)
        generate_until(
            self._session,
            prompts,
            batching=self._batching,
            read=lambda tokens: str(tokenizer.decode(list(tokens))),
            done=lambda batch: done({prompts[index]: tokens for index, tokens in batch.items()}),
        )


class Opened(BaseModel):
    """The conditions and facts of a session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conditions: Conditions
    facts: dict[str, float | int | str]


class _Line(BaseModel):
    """One line of a file of answers: a session, or an answer from the session above."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opened: Opened | None = None
    key: str = ""
    log_likelihood: float | None = None
    greedy: bool | None = None
    tokens: tuple[int, ...] | None = None


class _Question(BaseModel):
    """The input of a child."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Path
    provider: Provider
    threads: int
    rows: int
    passages: tuple[Passage, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    answers: Path
    ended: Path
    """The file that is made at the end; it holds the error that stopped the child, if any."""


class _Ended(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    error: str | None = None
    message: str = ""


class Apart:
    """Answers from fresh processes, kept in a file."""

    def __init__(
        self,
        artifact: Artifact,
        answers: Path,
        *,
        row: str,
        provider: Provider = "cpu",
        threads: int | None = None,
        rows: int = BATCH_ROWS,
    ) -> None:
        """Set up the answers of an artifact.

        Args:
            artifact: the artifact that answers.
            answers: the file of answers; answers already in it are used, and it is made if it is missing.
            row: the artifact's name in the table.
            provider: the execution provider.
            threads: the number of threads; None takes every processor that this process may use.
            rows: the most requests that run at once.
        """
        self._artifact, self._file, self._row = artifact, answers, row
        self._provider, self._threads, self._rows = provider, threads or cpu.cores(), rows

    def likelihoods(self, passages: Sequence[Passage]) -> list[Likelihood]:
        """See :meth:`Respondent.likelihoods`.

        Raises:
            UnsupportedHere: the artifact does not fit into memory, or its process died or hung.
            NotComparable: the file has answers that were made under other conditions.
            QExportError: the error that stopped the process.
        """
        lines = self._answered(passages, lambda missing: self._question(passages=tuple(missing)))
        return [Likelihood(line.log_likelihood or 0.0, bool(line.greedy)) for line in lines]

    def continuations(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """See :meth:`Respondent.continuations`; raises as :meth:`likelihoods`."""
        lines = self._answered(prompts, lambda missing: self._question(prompts=tuple(missing)))
        return [line.tokens or () for line in lines]

    @property
    def opened(self) -> Opened:
        """The session that answered.

        Raises:
            InputError: no session answered.
        """
        opened, _ = _read(self._file)
        if opened is None:
            raise InputError(f"{self._file}: nothing was answered; ask something first")
        return opened

    def _question(self, *, passages: tuple[Passage, ...] = (), prompts: tuple[Prompt, ...] = ()) -> _Question:
        return _Question(
            artifact=self._artifact.path.resolve(),
            provider=self._provider,
            threads=self._threads,
            rows=self._rows,
            passages=passages,
            prompts=prompts,
            answers=self._file.resolve(),
            ended=Path(),
        )

    def _answered(
        self, requests: Sequence[_Request], question: Callable[[Iterable[_Request]], _Question]
    ) -> list[_Line]:
        keys = [_key(request) for request in requests]
        _, known = _read(self._file)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        if missing:
            memory.require_fit(self._artifact, self._provider)
            with progress.task(f"answering, {self._row}", total=len(missing)) as advance:
                self._ask(question(missing.values()), advance)
            _, known = _read(self._file)
        return [known[key] for key in keys]

    def _ask(self, question: _Question, advance: progress.Advance) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        seen = _count(self._file)

        def look() -> bool:
            nonlocal seen
            before, seen = seen, _count(self._file)
            for _ in range(seen - before):
                advance()
            return seen > before

        with scratch_folder("answering") as name:
            folder = Path(name)
            question = question.model_copy(update={"ended": folder / "ended.json"})
            output = folder / "output"
            code = child.watch_child(
                __name__, question.model_dump_json(), output, threads=self._threads, timeout_s=HUNG_S, look=look
            )
            look()
            if code is None or not question.ended.is_file():
                died = child.no_answer(f"requests to {self._row}", code, output, HUNG_S)
                raise memory.killed(self._artifact, str(died)) if isinstance(died, child.Killed) else died
            ended = _Ended.model_validate_json(question.ended.read_text())
        if ended.error is not None:
            raise child.raised(ended.error, ended.message)


def _key(request: Passage | Prompt) -> str:
    """The key of a request, the same in every run."""
    return hashlib.sha256(json.dumps([type(request).__name__, *request]).encode()).hexdigest()


def _count(path: Path) -> int:
    """The number of answers in a file: lines that begin with a key."""
    return path.read_bytes().count(b'{"key"') if path.is_file() else 0


def _read(path: Path) -> tuple[Opened | None, dict[str, _Line]]:
    """The session of a file of answers, and its answers by key; an incomplete last line is cut off.

    Raises:
        InputError: another line is not an answer.
        NotComparable: two sessions answered under different conditions.
    """
    if not path.is_file():
        return None, {}
    content = path.read_bytes()
    whole, _, torn = content.rpartition(b"\n")
    if torn:
        with path.open("r+b") as handle:
            handle.truncate(len(content) - len(torn))
    opened: Opened | None = None
    found: dict[str, _Line] = {}
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            raise InputError(f"{path}:{number}: not an answer of qexport; remove the file and start anew") from error
        if line.opened is None:
            found[line.key] = line
        else:
            _require_like(path, opened or line.opened, line.opened)
            opened = line.opened
    return opened, found


def _require_like(path: Path, before: Opened, now: Opened) -> None:
    if now.conditions != before.conditions:
        raise NotComparable(
            f"{path}: cannot be resumed, it was begun under other conditions (machine, threads, provider or versions); "
            "start anew with --overwrite"
        )


def main() -> None:
    """The child: read a question from stdin, and append answers to its file."""
    question = _Question.model_validate_json(child.read_question())
    try:
        _answer(question)
        ended = _Ended()
    except QExportError as error:
        ended = _Ended(error=type(error).__name__, message=str(error))
    beside = question.ended.with_suffix(".part")
    beside.write_text(ended.model_dump_json())
    beside.replace(question.ended)


def _answer(question: _Question) -> None:
    artifact = load_artifact(question.artifact)
    versions = import_runtime(artifact.manifest)
    session = open_session(artifact, provider=question.provider, threads=question.threads, observe="kernels")
    here = Here(artifact, session, rows=question.rows)
    opened = Opened(conditions=of_session(session, versions), facts=session.facts())
    before, _ = _read(question.answers)
    if before is not None:
        _require_like(question.answers, before, opened)
    with question.answers.open("a", encoding="utf-8") as handle:

        def add(lines: Iterable[_Line]) -> None:
            handle.writelines(line.model_dump_json(exclude_none=True) + "\n" for line in lines)
            handle.flush()

        add([_Line(opened=opened)])
        here.score(
            question.passages,
            lambda batch: add(
                _Line(key=_key(passage), log_likelihood=found.log_likelihood, greedy=found.greedy)
                for passage, found in batch.items()
            ),
        )
        here.write(
            question.prompts,
            lambda batch: add(_Line(key=_key(prompt), tokens=tokens) for prompt, tokens in batch.items()),
        )


if __name__ == "__main__":
    main()
