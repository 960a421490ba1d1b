"""Merges the records of several reports into one list that has each run once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qexport.core import RECORDS_NAME, InputError, Measurement, read_records, shown


def merge_runs(sources: Sequence[Path]) -> list[Measurement]:
    """Read the records of reports and files of records, in the given order.

    Records without a run name, from old versions, get the name of their folder or file.

    Args:
        sources: folders of reports, or ``.jsonl`` files.

    Raises:
        InputError: a source has no records or cannot be read, or a record occurs twice.
    """
    if not sources:
        raise InputError("report: no runs were named; give the folder of a report, or several")
    merged: list[Measurement] = []
    names: set[str] = set()
    files: set[Path] = set()
    origin: dict[tuple[str, str, str], Path] = {}
    for source in sources:
        path = _file(source)
        if path.resolve() in files:
            raise InputError(f"{source}: named twice; name each run once")
        files.add(path.resolve())
        records = _named(path, source, names)
        if not records:
            raise InputError(f"{path}: has no records; run `qexport compare` first")
        for record in records:
            key = record.run, record.row, record.metric
            if key in origin:
                again = "twice" if origin[key] == path else f"in {origin[key]} too"
                raise InputError(
                    f"{path}: {record.metric} of {record.row} in the run {record.run} is {again}; name each run once"
                )
            origin[key] = path
        names |= {record.run for record in records}
        merged += records
    return merged


def _file(source: Path) -> Path:
    if not source.is_dir():
        return source
    path = source / RECORDS_NAME
    if not path.is_file():
        raise InputError(f"{source}: not a report, it has no {RECORDS_NAME}; check the path")
    return path


def _named(path: Path, source: Path, names: set[str]) -> list[Measurement]:
    """The records of a file; those without a run get the folder's or file's name, or the path if the name is taken."""
    resolved = path.resolve()
    name = resolved.parent.name if resolved.name == RECORDS_NAME else resolved.stem
    run = shown(str(source) if name in names else name)
    return [record if record.run else record.model_copy(update={"run": run}) for record in read_records(path)]
