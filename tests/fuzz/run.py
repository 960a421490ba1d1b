"""Fuzzing by hand or in CI: ``python -m tests.fuzz.run --seconds 60``.

Each input is a number: it seeds the generator that spoils a right input, so ``--only NAME:NUMBER`` makes it again. Children
read the inputs, since a native library may end the process, and a reader may not come back.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.targets import Target, targets

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTCOMES = ("refused", "done", "traceback", "hang")
HANG_S = 60.0
"""Of one input: the slowest right one takes 2 s."""


def outcome(target: Target, number: int, work: Path) -> tuple[str, str]:
    """What became of an input, and the last line that was said of it."""
    import typer

    from qexport.cli import process

    folder = work / f"{os.getpid()}"
    folder.mkdir()
    said, told = io.StringIO(), io.StringIO()
    try:
        target.spoil(folder, random.Random(f"{target.name}:{number}"))
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
            try:
                with process.reporting_errors():
                    target.read(folder)
                code = 0
            except typer.Exit as ended:
                code = ended.exit_code
            except SystemExit as ended:
                code = int(ended.code or 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = said.getvalue().strip().splitlines()
    if code == 0:
        return "done", ""
    if code not in (2, 3) or not lines or (code == 3 and len(lines) != 1):
        return "traceback", f"exit {code}: {' / '.join(lines)[:400]}"
    return "refused", lines[-1][:400]


def serve(inbox: Connection, right: Path, work: Path) -> None:
    """A child: read inputs until the parent hangs up."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kinds = targets(right)
    with contextlib.suppress(EOFError):
        while True:
            which, number = inbox.recv()
            try:
                found = outcome(kinds[which], number, work)
            except BaseException as error:  # noqa: BLE001 (every kind of it is a finding)
                found = ("traceback", f"{type(error).__name__}: {error}"[:400])
            inbox.send(found)


class Reader:
    """A child that reads inputs one after another; it is started anew after a crash or a hang."""

    def __init__(self, right: Path, work: Path) -> None:
        self._right, self._work = right, work
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would hang in the charts' V8
        self._pipe, inbox = context.Pipe()
        self._child = context.Process(target=serve, args=(inbox, self._right, self._work), daemon=True)
        self._child.start()
        inbox.close()

    def read(self, which: int, number: int) -> tuple[str, str]:
        """What became of an input."""
        self._pipe.send((which, number))
        if not self._pipe.poll(HANG_S):
            self._restart()
            return "hang", f"nothing after {HANG_S:.0f} s"
        try:
            found: tuple[str, str] = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._child.join()
            status = self._child.exitcode
            self._restart()
            return "traceback", f"the process ended with {status}"
        return found

    def _restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._child.kill()
        self._child.join()


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Path, Path]]:
    """A folder with right inputs, and one to work in."""
    from qexport.comparison import experiments, pipeline
    from qexport.exporting.pipeline import export
    from qexport.inputs.location import Trust

    with tempfile.TemporaryDirectory(prefix="qexport-fuzz-") as place:
        work = Path(place)
        export("reference", work / "fp32", exporter="fused", revision=None, trust=Trust(), overwrite=False)
        experiment = experiments.experiment_for("reference")
        run = experiments.only(experiments.measuring(experiment, ["weight_bytes", "disk_bytes"]), ["fp32", "w8a16-rtn"])
        pipeline.compare(run, work / "run")
        (work / "inputs").mkdir()
        yield work, work / "inputs"


def table(counts: dict[str, Counter[str]]) -> str:
    """The counts as Markdown."""
    lines = [f"| input | {' | '.join(OUTCOMES)} |", f"|---|{'---:|' * len(OUTCOMES)}"]
    total: Counter[str] = sum(counts.values(), Counter())
    for name, own in [*counts.items(), ("**all**", total)]:
        lines.append(f"| {name} | {' | '.join(str(own[each]) for each in OUTCOMES)} |")
    return "\n".join(lines)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=float, default=60.0, help="how long; each kind of input gets its turn")
    asked.add_argument("--inputs", type=int, default=0, help="how many, instead of how long")
    asked.add_argument("--first", type=int, default=0, help="number of the first input of each kind")
    asked.add_argument("--only", default="", metavar="NAME[:NUMBER]", help="one kind of input, or one input")
    given = asked.parse_args()
    name, _, number = given.only.partition(":")
    counts: dict[str, Counter[str]] = {}
    found: list[str] = []
    with prepared() as (right, work):
        kinds = targets(right)
        chosen = [which for which, kind in enumerate(kinds) if not name or kind.name == name]
        if not chosen:
            print(
                f"no kind of input is called {name}; known: {', '.join(kind.name for kind in kinds)}", file=sys.stderr
            )
            return 2
        reader = Reader(right, work)
        start, at, done = time.monotonic(), int(number or given.first), 0
        while done < (given.inputs or sys.maxsize) and (given.inputs or time.monotonic() - start < given.seconds):
            for which in chosen:
                what, line = reader.read(which, at)
                counts.setdefault(kinds[which].name, Counter())[what] += 1
                done += 1
                if number:
                    print(what, line)
                if what in ("traceback", "hang"):
                    found.append(f"{kinds[which].name}:{at} {what}: {line}")
            at += 1
            if number:
                break
        reader.close()
    print(table(counts))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
