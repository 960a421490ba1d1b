"""The journal of a run: measurements, and answers to tasks, beside the report's folder as they come, so that none is lost.

It goes once the report is written. A run that resumes starts from its journal, and from the report that is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qexport.core import (
    RECORDS_NAME,
    VERSION,
    InputError,
    Measurement,
    NotComparable,
    append_records,
    cpu,
    cut_off,
    read_records,
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The conditions of a comparison that are known before anything runs."""

    model: str
    stand_in: bool
    provider: str
    threads: int | None
    """None for every processor this process may use."""
    texts: Mapping[str, str]
    """Digest of the tokens that a metric is measured on."""

    def difference(self, record: Measurement) -> str:
        """The first difference between a measured record and these conditions, in words; empty if there is none."""
        conditions = record.conditions
        pairs = {
            "the model": (record.model, self.model),
            "stand-in": (record.stand_in, self.stand_in),
            "the machine": (conditions.machine, cpu.cpu_name()),
            "qexport": (conditions.commit, VERSION),
        }
        if conditions.provider:  # of what was run
            pairs |= {
                "the provider": (conditions.provider, self.provider),
                "threads": (conditions.threads, self.threads or cpu.cores()),
            }
        if conditions.text_sha256 and record.metric in self.texts:
            pairs["the tokens it is fed"] = (conditions.text_sha256, self.texts[record.metric])
        return next((f"{what} was {was}, and is {now}" for what, (was, now) in pairs.items() if was != now), "")


def check_journal(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to forget the records and answers of a run that was cut short.

    Raises:
        InputError: there are some, and neither flag says what shall become of them.
    """
    for path in (journal_path(folder), answers_path(folder)):
        if path.exists() and not (resume or overwrite):
            raise InputError(
                f"{path}: holds records of a run that was cut short; go on with --resume, or start anew with --overwrite"
            )


def journal_path(folder: Path) -> Path:
    """Where the journal of a report's folder lies."""
    return folder.with_name(f"{folder.name}.partial.jsonl")


def answers_path(folder: Path) -> Path:
    """Where the answers to tasks lie, a file for each artifact."""
    return folder.with_name(f"{folder.name}.answers")


class Journal:
    """Measurements and answers of one run, kept on disk as they come."""

    def __init__(self, folder: Path, *, resume: bool) -> None:
        """Start anew, or from the records of the report in ``folder`` and of the journal beside it.

        Raises:
            InputError: a file of records that cannot be read.
        """
        self._path, self._answers, self._name = journal_path(folder), answers_path(folder), folder.name
        self._by_key: dict[tuple[str, str], Measurement] = {}
        if not resume:
            self.close()
            return
        if self._path.is_file():
            cut_off(self._path)
        for path in (folder / RECORDS_NAME, self._path):
            if path.is_file() and path.stat().st_size:
                self._keep(read_records(path))

    @property
    def run(self) -> str:
        """When the comparison began; empty where nothing is there."""
        return next((record.run for record in self._by_key.values()), "")

    @property
    def records(self) -> list[Measurement]:
        return list(self._by_key.values())

    def require_like(self, expected: Expected) -> None:
        """Make sure that the records in the journal may stand in one table with the records to come.

        Raises:
            NotComparable: something differs.
        """
        for record in self.records:
            difference = "" if record.skipped is not None else expected.difference(record)
            if difference:
                raise NotComparable(
                    f"{self._name}: cannot be resumed, {difference} "
                    f"({record.metric} of {record.row}); start anew with --overwrite"
                )

    def require_same_artifact(self, row: str, sha256: str) -> None:
        """Make sure that a row's artifact, made again, is the one that was measured.

        Raises:
            NotComparable: it is another one.
        """
        before = {record.artifact_sha256 for record in self.records if record.row == row and record.skipped is None}
        if before - {sha256}:
            raise NotComparable(
                f"{row}: made again, its artifact is not the one that was measured; start anew with --overwrite"
            )

    def has(self, row: str, metrics: Sequence[str]) -> bool:
        """True if a row has a record of each metric, and a figure in at least one of them."""
        found = [self._by_key.get((row, metric)) for metric in metrics]
        return None not in found and any(record is not None and record.skipped is None for record in found)

    def add(self, records: Sequence[Measurement]) -> None:
        """Keep more; a record of the same row and metric replaces the one before."""
        self._keep(records)
        append_records(self._path, records)

    def answers(self, artifact_sha256: str) -> Path:
        """The file of an artifact's answers."""
        return self._answers / f"{artifact_sha256}.jsonl"

    def close(self) -> None:
        """Remove the files: the report has it all."""
        self._path.unlink(missing_ok=True)
        shutil.rmtree(self._answers, ignore_errors=True)

    def _keep(self, records: Iterable[Measurement]) -> None:
        self._by_key |= {(record.row, record.metric): record for record in records}
