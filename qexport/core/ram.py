"""Memory of this machine and of this process, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_KIB = 1024
_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, and the names of the files of limit and use, and of the reclaimable cache in ``memory.stat``."""


def available_bytes() -> int:
    """Memory that this process may still take, within the limits of the system and of its container."""
    import psutil

    return min([psutil.virtual_memory().available, *_container_bytes()])


def _container_bytes() -> list[int]:
    """The memory that the limit of this process's control group leaves; empty without a limit.

    Version 2 of control groups is read before version 1. Cached files count as used there, but are released on demand.
    """
    for folder, limit, used, cached in _CGROUPS:
        try:
            most, now = (Path(folder, name).read_text().strip() for name in (limit, used))
            stat = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
        except OSError:
            continue
        return [max(0, int(most) - int(now) + int(stat.get(cached, 0)))] if most.isdigit() else []
    return []


def in_use_bytes() -> int:
    """Memory in use on the machine by all processes, without caches that can be dropped."""
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory.

    On Linux this is VmHWM, which starts anew with the program: ``ru_maxrss`` continues from the parent's.
    """
    if _STATUS.is_file():
        return _status_bytes("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB


def rss_bytes() -> int:
    """Memory of this process that is resident now; on systems other than Linux, its high-water mark so far."""
    return _status_bytes("VmRSS") if _STATUS.is_file() else peak_rss_bytes()


def private_and_shared_bytes() -> tuple[int, int]:
    """Resident memory in pages that only this process maps, and in all other pages."""
    import psutil

    memory = psutil.Process().memory_full_info()
    return memory.uss, max(0, memory.rss - memory.uss)


def _status_bytes(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * _KIB
