"""Rows measured with one process each: what cannot disturb anything at once, what is timed in short batches that take turns.

Each row's process stays alive between its batches (A B C A B C), so that the machine's drift falls on all rows alike, and
no more than one of them works while anything is timed. A fresh process for every figure and round, which is what
:func:`qexport.measure.measure_rounds` takes, spends most of its time on imports.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from qexport import measure, progress, ram
from qexport.load import Meter
from qexport.measure import Job, merge_rounds
from qexport.worker import Worker

if TYPE_CHECKING:
    from qexport.record import Measurement

AT_ONCE = ("resident memory", "perplexity", "sentence perplexity")
"""Probes whose figures other processes cannot disturb, in the order in which a row's process answers them."""
TIMED = ("sentences", "generation", "batched generation")
PROBES_HERE = frozenset(AT_ONCE + TIMED)

_TOTAL = {"sentences": "latency_s", "generation": "sequential_s", "batched generation": "batch_s"}
"""The metric whose samples of a pass add up to the pass."""
_BATCH_S = 0.08
"""Work of a batch: much longer than the clock's resolution, much shorter than the machine's drift."""
_ROUNDS = 12
"""Batches of a row: a second of work where a batch is as short as it may be."""
_ENOUGH_S = 0.5
"""A first pass that takes longer tells how long a batch is; a shorter one is repeated, since caches were cold."""
_LONGER = 1.2
"""Generation takes so many times as long as the sentences before it."""
_PACE = 1.3
"""Seconds of a round for each second of its passes: asking a process and reading its answer take the rest."""
_LONGEST_STRIDE = 3
"""A row with long batches takes part in every second or third round: four batches at least, which are a second of work."""
_STARTING = 2
"""Processes that import and load at the same time."""

Done = Callable[[list["Measurement"]], None]


@dataclass(kw_only=True)
class _Row:
    """One row of the table, and its process."""

    jobs: Mapping[str, Job]
    """By probe."""
    worker: Worker = field(default_factory=Worker)


class Interleaved:
    """Rows under way. Their processes end with the ``with``."""

    def __init__(self, done: Done) -> None:
        """Nothing runs yet.

        Args:
            done: called with the measurements of a row and a probe as soon as they are complete, in the thread that
                calls the methods here.
        """
        self._done = done
        self._rows: list[_Row] = []
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

    def start(self, jobs: Mapping[str, Job]) -> None:
        """Begin a row: its process is started, and answers all that is not timed, while the caller goes on.

        Args:
            jobs: by probe, some of :data:`PROBES_HERE`.
        """
        row = _Row(jobs=jobs)
        self._rows.append(row)
        self._pending.append((row, self._starters.submit(self._begin, row)))

    def collect(self, *, wait: bool = False) -> None:
        """Hand over the finished measurements of the started rows; with ``wait``, those of all rows.

        Raises:
            QExportError: what a row's process stopped with.
        """
        while self._pending and (wait or self._pending[0][1].done()):
            _, future = self._pending.pop(0)
            for records in future.result():
                self._done(records)

    def _begin(self, row: _Row) -> list[list[Measurement]]:
        found = []
        for probe in (probe for probe in AT_ONCE if probe in row.jobs):
            # Memory does not depend on what runs beside; two scoring rows would share the threads that each is given.
            with self._scoring if probe != AT_ONCE[0] else contextlib.nullcontext():
                found.append(measure.measure(row.jobs[probe], row.worker.ask))
        if not set(TIMED) & row.jobs.keys():
            row.worker.end()
        elif ram.available_bytes() < self._enough_bytes:
            self._crowded = True
            row.worker.end()
        return found

    @property
    def crowded(self) -> bool:
        """Too much memory would be held if all processes waited for their turns: what is timed must be timed otherwise."""
        return self._crowded

    def time(self, left_s: float = 0.0) -> None:
        """Time all rows in turn, probe by probe; no process of theirs does anything else meanwhile.

        Args:
            left_s: for what comes afterwards, for the progress line.
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
            # What is still to be timed is not known yet; it took a little longer than what comes before it.
            whole_s = sum(timing.left_s(0) for timing in timings)
            start = time.perf_counter()
            for number in range(_ROUNDS):
                own_s = sum(timing.left_s(number) for timing in timings)
                # Batches take longer than their passes; how much longer, the rounds behind tell.
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
        """Run every sequence once, so that nothing is met for the first time later, and see how long that takes."""
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
        return measure.measure(job, self._worker.ask)

    def _failed(self, records: list[Measurement]) -> bool:
        """True if a batch came to nothing; the row is skipped with the reason."""
        failed = all(record.skipped is not None for record in records)
        if failed:
            self._taken = [records]
            self._stride = 0
        return failed

    def left_s(self, number: int) -> float:
        """Seconds of the batches from a round on."""
        return sum(self._batch_s for later in range(number, _ROUNDS) if self._takes(later))

    def _takes(self, number: int) -> bool:
        return self._stride > 0 and number % self._stride == 0

    def take(self, number: int) -> None:
        """Take part in a round, if it is one of this row's."""
        if self._takes(number):
            records = self._measure(replace(self._job, round=number))
            if not self._failed(records):
                self._taken.append(records)

    def records(self, others: float) -> list[Measurement]:
        """One measurement for each metric, with what other processes took of the machine as a fact."""
        merged = [merge_rounds(rounds) for rounds in zip(*self._taken, strict=True)]
        return measure.with_load(merged, others)
