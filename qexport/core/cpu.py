"""Facts about the processor: its name, and the instructions that decide the INT8 kernels."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

INT8_ISA = ("amx_int8", "asimddp", "avx2", "avx512_vnni", "avx512f", "avx_vnni", "i8mm")
"""The flags, by their Linux names, that decide the INT8 kernels."""

_MACOS_FLAGS = {
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
}
_CPUINFO = Path("/proc/cpuinfo")
_SKYLAKE_FLAGS = {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
"""The flags, by their Linux names, of the instructions in OpenBLAS's kernels for Skylake servers."""


def cpu_name() -> str:
    """The processor's model name, or the name of the architecture if the system does not give a model name."""
    info = _cpuinfo()
    # arm kernels give no model name, but the implementer's code and the part number.
    if "model name" in info:
        return info["model name"]
    if "CPU part" in info:
        return f"{platform.machine()} implementer {info.get('CPU implementer', '?')} part {info['CPU part']}"
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def isa() -> tuple[str, ...]:
    """The flags of :data:`INT8_ISA` that this processor has, sorted."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    flags |= {flag for key, flag in _MACOS_FLAGS.items() if _sysctl(key) == "1"}
    return tuple(sorted(flags & set(INT8_ISA)))


def has_fma() -> bool:
    """True if this is an x86-64 processor with AVX2 and FMA: every Intel and AMD server since 2015."""
    return {"avx2", "fma"} <= set(_cpuinfo().get("flags", "").split())


def tune_blas() -> None:
    """Correct poor defaults of numpy's OpenBLAS, unless the user chose; to be called before numpy's import.

    OpenBLAS takes its slowest kernels on a processor that it does not know: on a Xeon of 2023 a product in float64
    takes 7.3 times as long with them, and 1.8 times as long with those of Haswell. Kernels add in different orders.
    Whatever rounds by a sum therefore adds in float64, and gives the same integers with each of them.

    After each product, OpenBLAS's threads look for work in a loop for 2**26 cycles, and hold up whatever else runs.
    2**18 cycles are a tenth of a millisecond. They cost no time in a GPTQ that ran alone, and saved 3.5 s of 22 s of
    processor time.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "18")
    if has_fma():
        wide = set(_cpuinfo()["flags"].split()) >= _SKYLAKE_FLAGS
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX" if wide else "Haswell")


def has_vnni() -> bool:
    """True if products of 8-bit integers are summed in 32 bits.

    Without VNNI, AVX2 and plain AVX-512 sum pairs of u8 x s8 products in 16 bits, which saturate: weights then need one
    bit less (``reduce_range``), or must be unsigned.
    """
    return bool({"avx512_vnni", "avx_vnni", "asimddp"} & set(isa()))


def cores() -> int:
    """Number of processors that this process may use, within the limits of ``taskset`` or a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty if the file does not exist."""
    if not _CPUINFO.is_file():
        return {}
    first = _CPUINFO.read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


@functools.cache
def _sysctl(key: str) -> str:
    """One value of the macOS kernel; empty on other systems, or if the kernel does not know the key."""
    if sys.platform != "darwin":
        return ""
    answer = subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False)
    return answer.stdout.strip()
