from __future__ import annotations

import mmap
import subprocess
import sys

import numpy as np
import pytest

from qexport.core import ram
from qexport.measurement.metrics import footprint
from qexport.measurement.metrics.trial import Trial
from qexport.runtime.opening import open_session
from tests import decoders

MIB = 2**20


def test_stored_figures_are_read_off_the_artifact(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(30)))
    assert footprint.weight_bytes(artifact) == 30 * 30 * 4
    assert footprint.disk_bytes(artifact) == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())


def test_peak_is_a_high_water_mark_in_bytes():
    before = ram.peak_rss_bytes()
    block = np.ones(200 * MIB, np.uint8)
    peak, now = ram.peak_rss_bytes(), ram.rss_bytes()
    del block
    assert peak >= now >= 200 * MIB
    # The kernel counts pages in batches per processor, so the mark wavers by some kilobytes.
    assert ram.peak_rss_bytes() + MIB >= peak >= before
    assert ram.rss_bytes() < peak - 150 * MIB or not sys.platform.startswith("linux")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss alone is there")
def test_a_child_does_not_inherit_its_parents_peak():
    block = np.ones(300 * MIB, np.uint8)
    code = "from qexport.core import ram; print(ram.peak_rss_bytes())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert block[-1] == 1
    assert int(answer.stdout) < 150 * MIB


def test_resident_memory_keeps_the_baseline_as_a_fact(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.ones((3000, 3000))))
    trial = Trial(sequences=(np.array([0, 1, 2]),) * 9, warmups=0, round=0, baseline_rss_bytes=ram.rss_bytes())
    figures = footprint.resident(lambda: open_session(artifact), trial)
    for metric, samples in figures.items():
        assert samples.columns == (metric,)
        assert samples.facts == {"baseline_rss_bytes": trial.baseline_rss_bytes}
    values = {metric: samples.rows[0][0] for metric, samples in figures.items()}
    assert values["loaded_rss_bytes"] >= 0
    assert values["peak_rss_bytes"] >= values["final_private_bytes"] >= 36 * 10**6  # the table
    assert values["final_shared_bytes"] > 0


def test_what_another_process_maps_too_is_not_private():
    before, _ = ram.private_and_shared_bytes()
    with mmap.mmap(-1, 50 * MIB) as block:  # an array might be put where freed pages are still resident
        block.write(b"1" * len(block))
        after, _ = ram.private_and_shared_bytes()
    assert after - before >= 45 * MIB


@pytest.mark.gpu
def test_device_memory_counts_the_weights(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.ones((2048, 2048))))
    trial = Trial(sequences=(np.array([0, 1, 2]),), warmups=0, round=0, baseline_rss_bytes=0)
    figures = footprint.on_device(lambda: open_session(artifact, provider="cuda", observe="device memory"), trial)
    ((loaded,),), ((peak,),) = figures["loaded_device_bytes"].rows, figures["peak_device_bytes"].rows
    assert 16 * MIB <= loaded <= peak < 18 * MIB
