"""The share of the processors that other processes use during a timing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable


class Meter:
    """Compares the processor time of all processes with that of this run."""

    def __init__(self, pids: Callable[[], Iterable[int]] = lambda: ()) -> None:
        """Start the meter.

        Args:
            pids: running children that belong to this run; children that ended and were waited for count anyway.
        """
        self._pids = pids
        self._start = self._now()

    def share_of_others(self) -> float:
        """Processor time of other processes since the start, as a share of the whole machine: 0 to 1."""
        wall_s, all_s, own_s = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return min(1.0, max(0.0, all_s - own_s) / max(wall_s * (os.cpu_count() or 1), 1e-9))

    def _now(self) -> tuple[float, float, float]:
        import psutil

        used = psutil.cpu_times()
        busy_s = sum(getattr(used, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        own = os.times()
        own_s = own.user + own.system + own.children_user + own.children_system
        for pid in self._pids():
            try:
                child = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            own_s += child.user + child.system
        return time.perf_counter(), busy_s, own_s
