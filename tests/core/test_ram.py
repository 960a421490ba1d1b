from __future__ import annotations

import psutil
import pytest

from qexport.core import cuda, ram
from qexport.core.errors import UnsupportedHere
from qexport.measurement import memory
from tests import decoders


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A control group of 1000 bytes, of which 700 are in use and 200 of these only cached."""
    (tmp_path / "limit").write_text("1000\n")
    (tmp_path / "used").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    monkeypatch.setattr(ram, "_CGROUPS", ((str(tmp_path), "limit", "used", "inactive_file"),))
    return tmp_path


def test_a_container_leaves_less_than_the_machine(group):
    assert ram.available_bytes() == 500


def test_a_group_without_a_limit_leaves_all(group):
    (group / "limit").write_text("max\n")
    assert ram.available_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_no_group_at_all(group):
    (group / "limit").unlink()
    assert ram.available_bytes() > 10**6


def test_what_is_in_use_and_what_is_free_are_the_whole(monkeypatch):
    total = psutil.virtual_memory().total
    monkeypatch.setattr(ram, "_CGROUPS", ())
    assert ram.in_use_bytes() + ram.available_bytes() == pytest.approx(total, rel=0.05)


def test_a_model_too_large_to_export_is_told_so_with_the_estimate():
    with pytest.raises(
        UnsupportedHere, match=r"huge: exporting 1,000,000 million weights takes about 12000\.6 GB"
    ) as told:
        memory.require_export_fit(10**12, "huge")
    assert "GB are free" in str(told.value)
    memory.require_export_fit(10**6, "small")


def test_a_model_too_large_for_the_device_is_told_so(tmp_path, monkeypatch):
    import numpy as np

    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.ones((300, 300))))
    monkeypatch.setattr(cuda, "free_bytes", lambda: 1000)
    memory.require_fit(artifact, "cpu")
    with pytest.raises(UnsupportedHere, match="memory on the device"):
        memory.require_fit(artifact, "cuda")
