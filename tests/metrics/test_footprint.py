from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from qexport.metrics import Trial, footprint
from qexport.runtime import open_session
from tests import decoders

MIB = 2**20


def test_stored_figures_are_read_off_the_artifact(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(30)))
    assert footprint.weight_bytes(artifact) == 30 * 30 * 4
    assert footprint.disk_bytes(artifact) == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())


def test_peak_is_a_high_water_mark_in_bytes():
    before = footprint.peak_rss_bytes()
    block = np.ones(200 * MIB, np.uint8)
    peak, now = footprint.peak_rss_bytes(), footprint.rss_bytes()
    del block
    assert peak >= now >= 200 * MIB
    # The kernel counts pages in batches per processor, so the mark wavers by some kilobytes.
    assert footprint.peak_rss_bytes() + MIB >= peak >= before
    assert footprint.rss_bytes() < peak - 150 * MIB or not sys.platform.startswith("linux")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss alone is there")
def test_a_child_does_not_inherit_its_parents_peak():
    block = np.ones(300 * MIB, np.uint8)
    code = "from qexport.metrics import footprint; print(footprint.peak_rss_bytes())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert block[-1] == 1
    assert int(answer.stdout) < 150 * MIB


def test_peak_rss_keeps_the_baseline_as_a_fact(tmp_path):
    session = open_session(decoders.save(tmp_path / "a", decoders.bigram(np.eye(3))))
    trial = Trial(sequences=(np.array([0, 1, 2]),) * 9, warmups=0, round=0, baseline_rss_bytes=7)
    samples = footprint.peak_rss(session, trial)
    assert samples.columns == ("peak_rss_bytes",)
    assert samples.rows[0][0] >= 20 * MIB
    assert samples.facts == {"baseline_rss_bytes": 7}


@pytest.mark.gpu
def test_peak_device_counts_the_weights(tmp_path):
    table = np.ones((2048, 2048))
    artifact = decoders.save(tmp_path / "a", decoders.bigram(table))
    session = open_session(artifact, provider="cuda", observe="device memory")
    trial = Trial(sequences=(np.array([0, 1, 2]),), warmups=0, round=0, baseline_rss_bytes=0)
    ((peak,),) = footprint.peak_device(session, trial).rows
    assert 16 * MIB <= peak < 18 * MIB
