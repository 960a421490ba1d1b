"""Measures rows with one process each: probes that nothing disturbs run at once, timed probes run in turns.

Each row's process stays alive between its batches (A B C A B C), so that the machine's drift affects all rows alike.
Only one process works while anything is timed. :func:`qexport.measurement.probing.measure_rounds` starts a fresh
process for every figure and round, which spends most of the time on imports.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait as wait_for
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qexport.core import progress, ram, scratch_folder
from qexport.measurement import probing
from qexport.measurement.cpu_load import Meter
from qexport.measurement.distributions import DISTRIBUTIONS
from qexport.measurement.job import Job
from qexport.measurement.probing import merge_rounds
from qexport.measurement.worker import Worker

if TYPE_CHECKING:
    from qexport.core import Measurement

AT_ONCE = ("resident memory", "perplexity", "sentence perplexity")
"""Probes that other processes cannot disturb, in the order in which a row's process runs them."""
TIMED = ("sentences", "generation", "batched generation")
PROBES_HERE = frozenset(AT_ONCE + TIMED)

_TOTAL = {"sentences": "latency_s", "generation": "sequential_s", "batched generation": "batch_s"}
"""The metric whose samples of a pass add up to the seconds of the pass."""
_BATCH_S = 0.08
"""Seconds of work in a batch: much longer than the clock's resolution, much shorter than the machine's drift."""
_ROUNDS = 12
"""Batches of a row: one second of work if each batch has the shortest length."""
_ENOUGH_S = 0.5
"""A first pass longer than this gives the length of a batch; a shorter one is repeated, since caches were cold."""
_LONGER = 1.2
"""Generation takes about this many times as long as the sentences before it."""
_PACE = 1.3
"""Seconds of a round for each second of its passes: sending a question and reading its answer take the rest."""
_LONGEST_STRIDE = 3
"""A row with long batches takes part in every second or third round: at least four batches, one second of work."""
_STARTING = 2
"""The number of processes that import and load at the same time."""

Done = Callable[[list["Measurement"]], None]


@dataclass(kw_only=True)
class _Row:
    """One row of the table, and its process."""

    jobs: Mapping[str, Job]
    """The jobs by probe."""
    worker: Worker = field(default_factory=Worker)


class Interleaved:
    """Rows in progress. Their processes end with the ``with``."""

    def __init__(self, done: Done) -> None:
        """Set up; nothing runs yet.

        Args:
            done: called with the measurements of a row and a probe as soon as they are complete, in the thread that
                calls the methods here.
        """
        self._done = done
        self._folder = scratch_folder("baseline")
        self._rows: list[_Row] = []
        self._baseline: Future[list[list[Measurement]]] | None = None
        self._pending: list[tuple[_Row, Future[list[list[Measurement]]]]] = []
        self._starters = ThreadPoolExecutor(_STARTING)
        self._scoring = threading.Lock()
        self._crowded = False
        self._enough_bytes = ram.available_bytes() // 2

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._starters.shutdown(wait=False, cancel_futures=True)
        for row in self._rows:
            row.worker.close()
        self._starters.shutdown()
        self._folder.cleanup()

    def compared(self, job: Job, *, is_baseline: bool) -> Job:
        """A job whose row is compared with the baseline's distributions, or is the baseline, which is started first."""
        return replace(job, distributions=Path(self._folder.name) / DISTRIBUTIONS, is_baseline=is_baseline)

    def start(self, jobs: Mapping[str, Job]) -> None:
        """Begin a row: start its process, which runs the untimed probes while the caller goes on.

        Args:
            jobs: the jobs by probe; each probe is one of :data:`PROBES_HERE`.
        """
        row = _Row(jobs=jobs)
        self._rows.append(row)
        begun = self._starters.submit(self._begin, row)
        self._pending.append((row, begun))
        if any(job.is_baseline for job in jobs.values()):
            self._baseline = begun

    def collect(self, *, wait: bool = False) -> None:
        """Hand over the finished measurements of the started rows; with ``wait``, those of all rows.

        Raises:
            QExportError: the error that stopped a row's process.
        """
        while self._pending and (wait or self._pending[0][1].done()):
            _, future = self._pending.pop(0)
            for records in future.result():
                self._done(records)

    def _begin(self, row: _Row) -> list[list[Measurement]]:
        found = []
        for probe in (probe for probe in AT_ONCE if probe in row.jobs):
            job = row.jobs[probe]
            if job.distributions is not None and not job.is_baseline and self._baseline is not None:
                wait_for([self._baseline])
            # Other processes do not change a row's memory; two rows that score at once would compete for threads.
            with self._scoring if probe != AT_ONCE[0] else contextlib.nullcontext():
                found.append(probing.measure(job, row.worker.ask))
        if not set(TIMED) & row.jobs.keys():
            row.worker.end()
        elif ram.available_bytes() < self._enough_bytes:
            self._crowded = True
            row.worker.end()
        return found

    @property
    def crowded(self) -> bool:
        """True if all waiting processes would hold too much memory together; then rows must be timed in another way."""
        return self._crowded

    def time(self, left_s: float = 0.0) -> None:
        """Time all rows in turn, probe by probe; their processes do nothing else meanwhile.

        Args:
            left_s: the seconds of the work that follows, for the progress line.
        """
        assert not self._pending, "rows are still being scored"
        probes = [probe for probe in TIMED if any(probe in row.jobs for row in self._rows)]
        for number, probe in enumerate(probes, start=1):
            self._time(probe, left_s, later=len(probes) - number)

    def _time(self, probe: str, left_s: float, *, later: int) -> None:
        meter = Meter(lambda: [pid for row in self._rows if (pid := row.worker.pid) is not None])
        timings = [_Timing(row.jobs[probe], row.worker) for row in self._rows if probe in row.jobs]
        with progress.task(f"measuring {probe}", total=(_ROUNDS + 1) * len(timings)) as advance:
            for timing in timings:
                timing.warm_up()
                advance()
            # The length of the later probes is not known yet; each took a little longer than the probe before it.
            whole_s = sum(timing.left_s(0) for timing in timings)
            start = time.perf_counter()
            for number in range(_ROUNDS):
                own_s = sum(timing.left_s(number) for timing in timings)
                # A batch takes longer than its passes; the finished rounds show by how much.
                behind_s = whole_s - own_s
                pace = (time.perf_counter() - start) / behind_s if behind_s else _PACE
                left = pace * (own_s + later * _LONGER * whole_s) + left_s
                progress.stage(f"measuring {probe}, round {number + 1} of {_ROUNDS}", left)
                for timing in timings:
                    timing.take(number)
                    advance()
        others = meter.share_of_others()
        for timing in timings:
            self._done(timing.records(others))


class _Timing:
    """The batches of one timed probe of one row."""

    def __init__(self, job: Job, worker: Worker) -> None:
        self._job, self._worker = job, worker
        self._taken: list[list[Measurement]] = []
        self._stride, self._batch_s = 1, 0.0

    def warm_up(self) -> None:
        """Run every sequence once, so that later runs meet nothing new, and find how long that takes."""
        pass_s = self._pass_s()
        if pass_s < _ENOUGH_S:
            pass_s = self._pass_s()
        if not self._stride:
            return
        repeats = max(1, math.ceil(_BATCH_S / pass_s))
        self._batch_s = repeats * pass_s
        self._stride = min(_LONGEST_STRIDE, math.ceil(self._batch_s / (1.5 * _BATCH_S)))
        self._job = replace(self._job, warmups=1, repeats=repeats)

    def _pass_s(self) -> float:
        records = self._measure(replace(self._job, warmups=0))
        if self._failed(records):
            return 1.0
        (total,) = (record for record in records if record.metric == _TOTAL[self._job.probe])
        return sum(seconds for seconds, *_ in total.samples)

    def _measure(self, job: Job) -> list[Measurement]:
        return probing.measure(job, self._worker.ask)

    def _failed(self, records: list[Measurement]) -> bool:
        """True if a batch failed; then the row is skipped with the reason."""
        failed = all(record.skipped is not None for record in records)
        if failed:
            self._taken = [records]
            self._stride = 0
        return failed

    def left_s(self, number: int) -> float:
        """The seconds of the batches from round ``number`` on."""
        return sum(self._batch_s for later in range(number, _ROUNDS) if self._takes(later))

    def _takes(self, number: int) -> bool:
        return self._stride > 0 and number % self._stride == 0

    def take(self, number: int) -> None:
        """Take part in a round if it is a round of this row."""
        if self._takes(number):
            records = self._measure(replace(self._job, round=number))
            if not self._failed(records):
                self._taken.append(records)

    def records(self, others: float) -> list[Measurement]:
        """One measurement for each metric; the load by other processes is among its facts."""
        merged = [merge_rounds(rounds) for rounds in zip(*self._taken, strict=True)]
        return probing.with_load(merged, others)
