"""Kills of whole commands, by hand: ``python -m tests.kills.run --kills 100``.

Each command is killed before and after each of its renames, then at random moments. After each kill what the output held must
be there, old or new and whole; after the last run, which nothing disturbs, no file of any killed process may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qexport.core.artifact import load_artifact
from qexport.core.errors import QExportError
from qexport.core.record import read_records
from qexport.gating.baseline import read_baseline

ROOT = Path(__file__).resolve().parents[2]
HOOK = Path(__file__).resolve().parent / "hook"
GONE_S = 10.0
"""Until the children of a killed command must have noticed."""
BUDGETS = '[budgets.perplexity]\nat_most = 1.5\nof = "baseline"\n'
REPORTS = ("gate.md", "gate.json", "junit.xml", "code-quality.json")
_OF_TORCH = "torchinductor_"
"""PyTorch's cache of compiled code, one folder a user, which every import of some of its modules makes."""
MEASURED = ("disk_bytes", "perplexity")
ROWS = ("fp32", "w4a16-rtn")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, and what must be true of its output after any kill."""

    name: str
    words: Callable[[Path, Path], list[str]]
    """By the folder of right inputs and the place of outputs."""
    check: Callable[[Path, bool], None]
    """Raises where the place is not as it must be; True where there was an output before."""
    leaves: frozenset[str]
    """All that may be in the place in the end."""


@dataclass(kw_only=True)
class Tally:
    """What became of the kills of one command."""

    renames: int = 0
    at_renames: int = 0
    random: int = 0
    finished: int = 0
    """Runs that were done before the kill came."""
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def whole_artifact(place: Path, was_there: bool) -> None:
    if was_there or (place / "out").exists():
        load_artifact(place / "out", verify=True)


def whole_comparison(place: Path, _was_there: bool) -> None:
    out = place / "out"
    if out.exists():
        records = read_records(out / "records.jsonl")
        assert {(each.row.split(" ")[0], each.metric) for each in records} == {
            (row, name) for row in ROWS for name in MEASURED
        }
        for artifact in (out / "artifacts").iterdir():
            load_artifact(artifact, verify=True)


def whole_baseline(place: Path, was_there: bool) -> None:
    if was_there or (place / "gate.json").exists():
        read_baseline(place / "gate.json")


def whole_reports(place: Path, _was_there: bool) -> None:
    for name in REPORTS:
        path = place / "reports" / name
        if path.exists():
            assert path.read_text(encoding="utf-8").rstrip().endswith(("}", "]", ">", "|", ".", ")", "`")), (
                f"{name} is cut"
            )


def commands() -> list[Command]:
    out = frozenset({"out"})
    return [
        Command(
            name="quantize",
            words=lambda right, place: [
                "quantize",
                f"{right}/fp32",
                "-o",
                f"{place}/out",
                "--recipe",
                "int8-dynamic",
                "--overwrite",
            ],
            check=whole_artifact,
            leaves=out,
        ),
        Command(
            name="export",
            words=lambda right, place: ["export", f"{right}/model", "-o", f"{place}/out", "--overwrite"],
            check=whole_artifact,
            leaves=out,
        ),
        Command(
            name="compare",
            words=lambda right, place: [
                *("compare", f"{right}/model", "-o", f"{place}/out", "--text", f"{right}/text.txt", "--keep-artifacts"),
                *("--recipes", ",".join(ROWS), "--metrics", ",".join(MEASURED), "--resume"),
            ],
            check=whole_comparison,
            leaves=out,
        ),
        Command(
            name="gate --update",
            words=lambda right, place: [
                *("gate", f"{right}/fp32", f"{right}/int8", "--baseline", f"{place}/gate.json"),
                *("--config", f"{right}/gate.toml", "--update"),
            ],
            check=whole_baseline,
            leaves=frozenset({"gate.json"}),
        ),
        Command(
            name="gate",
            words=lambda right, place: [
                *("gate", f"{right}/fp32", f"{right}/int8", "--baseline", f"{right}/gate.json"),
                *("--config", f"{right}/gate.toml", "-o", f"{place}/reports"),
            ],
            check=whole_reports,
            leaves=frozenset({"reports"}),
        ),
    ]


class Bench:
    """Where one command is run and killed."""

    def __init__(self, command: Command, right: Path, folder: Path, seed: int) -> None:
        self.command, self._right = command, right
        self.place, self.temporary = folder / "place", folder / "tmp"
        self._count = folder / "count"
        self.place.mkdir(parents=True)
        self.temporary.mkdir()
        self._random = random.Random(f"{command.name}:{seed}")
        self.tally = Tally()
        self._records = 0

    def start(self, kills_at: str = "") -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(HOOK), str(ROOT)])
        settings = {
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": path,
            "KILLS_AT": kills_at,
            "KILLS_PARENT": str(os.getpid()),
        }
        words = [sys.executable, "-m", "qexport", "--quiet", *self.command.words(self._right, self.place)]
        return subprocess.Popen(words, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def undisturbed(self, kills_at: str = "") -> float:
        """A run to its end, and how many seconds it took."""
        began = time.monotonic()
        child = self.start(kills_at)
        _, said = child.communicate()
        if child.returncode:
            raise AssertionError(f"{self.command.name} ended with {child.returncode}: {said.decode()[-300:]}")
        return time.monotonic() - began

    def renames(self) -> int:
        """How many renames a run makes, when there is an output and when there is none."""
        found = 0
        for _ in range(2):
            self.undisturbed(f"count:{self._count}")
            found = max(found, int(self._count.read_text()) if self._count.exists() else 0)
            self._forget_finished()
        return found

    def kill(self, *, at: str = "", after_s: float = 0.0) -> None:
        """One kill, and a look at what became of the output."""
        if self._random.random() < 0.3:
            self._clear()
        was_there = any((self.place / name).exists() for name in ("out", "gate.json"))
        child = self.start(at)
        if not at:
            time.sleep(after_s)
            child.send_signal(signal.SIGKILL)
        _, said = child.communicate()
        if child.returncode == 0:
            self.tally.finished += 1
        elif child.returncode != -signal.SIGKILL:
            self.tally.lost.append(f"exit {child.returncode}: {said.decode()[-200:]}")
        self._look(was_there)

    def _look(self, was_there: bool) -> None:
        waited = time.monotonic()
        while alive := list(self._processes()):
            if time.monotonic() - waited > GONE_S:
                self.tally.left.append(f"{len(alive)} processes")
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        try:
            self.command.check(self.place, was_there)
            self._count_records()
        except (AssertionError, QExportError, OSError) as error:
            self.tally.lost.append(f"{type(error).__name__}: {error}"[:300])
            self._clear()
        self._forget_finished()

    def _processes(self) -> Iterator[int]:
        """What still runs of the command: a process that has its temporary folder in its environment."""
        mark = f"TMPDIR={self.temporary}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    yield int(path.parent.name)
            except OSError:
                continue

    def _count_records(self) -> None:
        """Measurements that were kept stay kept."""
        journals = list(self.place.glob(".out*.jsonl")) + list(self.place.glob("out*.jsonl"))
        count = sum(len(path.read_bytes().splitlines()) for path in journals)
        whole = (self.place / "out").exists()
        assert whole or count >= self._records, f"{count} records where there were {self._records}"
        self._records = 0 if whole else count

    def _forget_finished(self) -> None:
        """A comparison that is whole is begun anew."""
        if self.command.name == "compare" and (self.place / "out").exists():
            self._clear()

    def _clear(self) -> None:
        for path in self.place.iterdir():
            if path.name in ("out", "gate.json", "reports"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.command.name == "compare":
            for path in self.place.glob("*.jsonl"):
                path.unlink()
            self._records = 0

    def end(self) -> None:
        """A last run, after which nothing of those before may be left."""
        self.undisturbed()
        self.command.check(self.place, True)
        left = {path.name for path in self.place.iterdir()} - self.command.leaves
        left |= {f"tmp/{path.name}" for path in self.temporary.iterdir() if not path.name.startswith(_OF_TORCH)}
        self.tally.left += sorted(left)


def prepare(right: Path, model: Path) -> None:
    """Right inputs: a model, two artifacts of it, a text, budgets and a baseline."""
    right.mkdir()
    shutil.copytree(model, right / "model")
    story = "Once upon a time there was a little dog. The dog liked to play in the park with Lily. "
    (right / "text.txt").write_text("\n<|endoftext|>\n".join(f"{number} cats. {story * 4}" for number in range(6)))
    (right / "gate.toml").write_text(f'text = "text.txt"\n{BUDGETS}')
    qexport = [sys.executable, "-m", "qexport", "--quiet"]
    gate = ["gate", "fp32", "int8", "--baseline", "gate.json", "--config", "gate.toml", "--update"]
    for words in (
        ["export", "model", "-o", "fp32"],
        ["quantize", "fp32", "-o", "int8", "--recipe", "int8-dynamic"],
        gate,
    ):
        subprocess.run([*qexport, *words], cwd=right, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100, help="of each command, at random moments")
    parser.add_argument("--only", help="one command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=ROOT / "../shared/data/models/stories260K")
    asked = parser.parse_args()
    print("| command | renames | killed at a rename | killed at random | done before the kill | lost | left |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        work = Path(name)
        prepare(work / "right", asked.model)
        wanted = [command for command in commands() if asked.only in (None, command.name)]
        tallies = [of(command, work, asked.kills, asked.seed) for command in wanted]
    return int(any(tally.lost or tally.left for tally in tallies))


def of(command: Command, work: Path, kills: int, seed: int) -> Tally:
    """All kills of one command; its line of the table is printed."""
    bench = Bench(command, work / "right", work / command.name.replace(" ", ""), seed)
    tally = bench.tally
    tally.renames = bench.renames()
    takes_s = bench.undisturbed()
    bench._forget_finished()
    for number in range(1, tally.renames + 1):
        for moment in ("before", "after"):
            bench.kill(at=f"{moment}:{number}")
            tally.at_renames += 1
    for _ in range(kills):
        bench.kill(after_s=bench._random.uniform(0.0, takes_s))
        tally.random += 1
    bench.end()
    figures = (tally.renames, tally.at_renames, tally.random, tally.finished, len(tally.lost), len(tally.left))
    print(f"| {command.name} | {' | '.join(map(str, figures))} |", flush=True)
    for words in (*tally.lost, *tally.left):
        print(json.dumps(words), file=sys.stderr)
    return tally


if __name__ == "__main__":
    sys.exit(main())
