from __future__ import annotations

import subprocess
import sys

import pytest

from qexport.core import cpu


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Put another processor's /proc/cpuinfo in place."""

    def put(text: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(cpu, "_CPUINFO", path)
        cpu._cpuinfo.cache_clear()

    yield put
    cpu._cpuinfo.cache_clear()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2", False),
        ("fpu avx2 avx512f", False),
        ("fpu avx2 avx_vnni", True),
        ("avx2 avx512f avx512_vnni amx_int8", True),
    ],
)
def test_vnni_by_the_flags_of_an_x86_processor(cpuinfo, flags, expected):
    cpuinfo(
        f"processor : 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t: {flags}\n\nprocessor : 1\nflags : avx512_vnni\n"
    )
    assert cpu.has_vnni() is expected
    assert cpu.cpu_name() == "Some CPU @ 2.00GHz"
    assert set(cpu.isa()) == set(flags.split()) - {"fpu"}
    assert list(cpu.isa()) == sorted(cpu.isa())


def test_arm_processors_have_dot_products_and_a_part_number(cpuinfo):
    cpuinfo("processor : 0\nFeatures : fp asimd asimddp i8mm\nCPU implementer : 0x41\nCPU part : 0xd0c\n")
    assert cpu.has_vnni()
    assert cpu.isa() == ("asimddp", "i8mm")
    assert "0xd0c" in cpu.cpu_name()


def test_this_machine_has_a_name_and_cores():
    assert cpu.cpu_name()
    assert cpu.cores() >= 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="affinity is a matter of Linux")
def test_cores_are_those_the_process_may_use():
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from qexport.core import cpu; print(cpu.cores())"
    answer = subprocess.run([sys.executable, "-c", pinned], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "1"
