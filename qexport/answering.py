"""An artifact's answers to the requests of a benchmark, from this process or from a fresh one.

A fresh one writes its answers to a file as they come, each under a key made of its request, so that a run that was killed
goes on at the next request. The child is ``python -m qexport.answering``; it knows tokens, and no benchmark.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qexport import child, cpu, fits, progress
from qexport.artifact import Artifact, load_artifact
from qexport.conditions import import_runtime, of_session
from qexport.errors import InputError, NotComparable, QExportError
from qexport.inputs.pretrained import read_tokenizer
from qexport.metrics.tasks import ROWS, Batching, Likelihood, Passage, Prompt, generate_until, loglikelihoods
from qexport.record import Conditions
from qexport.runtime import Provider, Session, open_session
from qexport.scratch import scratch_folder

HUNG_S = 4 * 3600.0
"""A child that answers nothing for so long counts as hung. A batch of long sequences takes minutes on two cores."""

_Request = TypeVar("_Request", Passage, Prompt)


class Respondent(Protocol):
    """Whoever answers for an artifact."""

    def likelihoods(self, passages: Sequence[Passage]) -> list[Likelihood]:
        """One for each passage, in order."""

    def continuations(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """The new tokens of each prompt, in order."""


class Here:
    """Answers from a session in this process."""

    def __init__(self, artifact: Artifact, session: Session, *, rows: int = ROWS) -> None:
        """Let ``session`` of ``artifact`` answer, at most ``rows`` requests at once."""
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
        """Score passages, none of them twice; ``done`` is told those of each batch."""
        loglikelihoods(
            self._session,
            passages,
            batching=self._batching,
            done=lambda batch: done({passages[index]: likelihood for index, likelihood in batch.items()}),
        )

    def write(self, prompts: Sequence[Prompt], done: Callable[[Mapping[Prompt, tuple[int, ...]]], None]) -> None:
        """Continue prompts, none of them twice; ``done`` is told those of each batch."""
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
    """What a session says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conditions: Conditions
    facts: dict[str, float | int | str]


class _Line(BaseModel):
    """One line of a file of answers: a session, or an answer of the one before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opened: Opened | None = None
    key: str = ""
    log_likelihood: float | None = None
    greedy: bool | None = None
    tokens: tuple[int, ...] | None = None


class _Question(BaseModel):
    """What a child is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Path
    provider: Provider
    threads: int
    rows: int
    passages: tuple[Passage, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    answers: Path
    ended: Path
    """Made at the end; it holds the error that the child stopped with."""


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
        rows: int = ROWS,
    ) -> None:
        """Ask an artifact.

        Args:
            artifact: that answers.
            answers: file of answers, those that are there among them; made if it is not there.
            row: the artifact's name in the table.
            provider: where it runs.
            threads: None takes every processor this process may use.
            rows: most requests that are run at once.
        """
        self._artifact, self._file, self._row = artifact, answers, row
        self._provider, self._threads, self._rows = provider, threads or cpu.cores(), rows

    def likelihoods(self, passages: Sequence[Passage]) -> list[Likelihood]:
        """See :meth:`Respondent.likelihoods`.

        Raises:
            UnsupportedHere: the artifact does not fit into memory, or its process died or hung.
            NotComparable: some answers are there and were made under other conditions.
            QExportError: what the process stopped with.
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
            InputError: none did.
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
            fits.require_fit(self._artifact, self._provider)
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
                raise fits.killed(self._artifact, str(died)) if isinstance(died, child.Killed) else died
            ended = _Ended.model_validate_json(question.ended.read_text())
        if ended.error is not None:
            raise child.raised(ended.error, ended.message)


def _key(request: Passage | Prompt) -> str:
    """The same for the same request, in every run."""
    return hashlib.sha256(json.dumps([type(request).__name__, *request]).encode()).hexdigest()


def _count(path: Path) -> int:
    """How many answers a file holds: lines that begin with a key."""
    return path.read_bytes().count(b'{"key"') if path.is_file() else 0


def _read(path: Path) -> tuple[Opened | None, dict[str, _Line]]:
    """The session of a file of answers, and its answers by key; a line that a killed process left unended is cut off.

    Raises:
        InputError: another line is no answer.
        NotComparable: two sessions answered under unlike conditions.
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
            raise InputError(f"{path}:{number}: no answer of qexport; remove the file and start anew") from error
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
    """The child: read a question from stdin, and write answers to the end of its file."""
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
