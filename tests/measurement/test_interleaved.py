from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from qexport.core import ram
from qexport.core.errors import ContractError
from qexport.core.metrics import DISTANCES
from qexport.core.record import OTHERS
from qexport.measurement import interleaved, probing
from qexport.measurement.interleaved import Interleaved
from qexport.measurement.worker import Worker
from tests import decoders
from tests.measurement.test_probing import job, running, wait_for

PROBES = ("resident memory", "perplexity", "sentence perplexity", "sentences")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return {
        name: decoders.save(folder / name, decoders.bigram(np.eye(3) * number))
        for number, name in enumerate(("fp32", "other"))
    }


def jobs(artifact, row, probes=PROBES):
    return {probe: job(artifact, probe, row=row) for probe in probes}


def test_rows_are_measured_by_one_process_each_and_timed_in_turn(artifacts, monkeypatch):
    asked = []
    real = Worker.ask

    def noted(worker, job, artifact, tokens):
        answer = real(worker, job, artifact, tokens)
        asked.append((job.row, job.probe, job.round, worker.pid))
        return answer

    monkeypatch.setattr(Worker, "ask", noted)
    found = []
    with Interleaved(found.extend) as rows:
        for row, artifact in artifacts.items():
            rows.start(jobs(artifact, row))
        rows.collect(wait=True)
        pids = {row: {pid for name, _, _, pid in asked if name == row} for row in artifacts}
        assert [len(own) for own in pids.values()] == [1, 1]
        assert pids["fp32"] != pids["other"]
        rows.time()
        assert {pid for _, _, _, pid in asked} == set.union(*pids.values())
    for pid in set.union(*pids.values()):
        assert not running(pid)
    for row in artifacts:
        own = [probe for name, probe, _, _ in asked if name == row]
        assert own[:3] == ["resident memory", "perplexity", "sentence perplexity"]  # memory of a process that is fresh
    turns = [(number, name) for name, probe, number, _ in asked if probe == "sentences"][-2 * interleaved._ROUNDS :]
    assert turns == [(number, name) for number in range(interleaved._ROUNDS) for name in artifacts]
    records = {(record.row, record.metric): record for record in found}
    latency = records["fp32", "latency_s"]
    assert [sample[2] for sample in latency.samples] == [n for n in range(interleaved._ROUNDS) for _ in range(12)]
    assert min(sample[0] for sample in latency.samples) > 0
    assert 0 <= latency.facts[OTHERS] <= 1


def test_figures_that_time_cannot_change_are_those_of_a_fresh_process(artifacts):
    found = []
    with Interleaved(found.extend) as rows:
        rows.start(jobs(artifacts["other"], "other", ("perplexity", "sentence perplexity")))
        rows.collect(wait=True)
    alone = [
        record
        for probe in ("perplexity", "sentence perplexity")
        for record in probing.measure(job(artifacts["other"], probe, row="other"))
    ]
    assert found == alone


def test_the_process_that_measures_memory_has_answered_nothing_before(artifacts):
    records = {}
    with Interleaved(lambda found: records.update({record.metric: record for record in found})) as rows:
        rows.start(jobs(artifacts["fp32"], "fp32", ("resident memory", "perplexity")))
        rows.collect(wait=True)
    ((peak,),) = records["peak_rss_bytes"].samples
    assert 20 * 2**20 < records["peak_rss_bytes"].facts["baseline_rss_bytes"] <= peak < 130 * 2**20


@pytest.mark.parametrize("probe", ["resident memory", "sentences"])
def test_a_process_that_is_killed_skips_its_figures_and_no_others(artifacts, monkeypatch, probe):
    real = Worker.ask

    def killed(worker, job, artifact, tokens):
        if job.probe == probe and job.row == "other":
            if worker.pid is None:
                real(worker, measured_first, artifact, measured_first.tokens)
            os.kill(worker.pid, signal.SIGKILL)
        return real(worker, job, artifact, tokens)

    measured_first = job(artifacts["other"], "perplexity", row="other")
    monkeypatch.setattr(Worker, "ask", killed)
    found = []
    with Interleaved(found.extend) as rows:
        for row, artifact in artifacts.items():
            rows.start(jobs(artifact, row))
        rows.collect(wait=True)
        rows.time()
    skipped = {(record.row, record.metric): record.skipped for record in found if record.skipped}
    expected = {("other", metric) for metric in probing.PROBES[probe].metrics}
    assert skipped.keys() == expected
    (reason,) = set(skipped.values())
    assert reason.startswith("killed by signal 9 (SIGKILL), most likely out of memory: loading it takes about 0.1 GB")
    not_asked = set(DISTANCES)  # these are measured only if they are named
    assert len(found) == 2 * sum(len(set(probing.PROBES[name].metrics) - not_asked) for name in PROBES)


def test_an_error_of_a_row_is_raised(tmp_path):
    broken = decoders.save(tmp_path / "broken", decoders.quantized(decoders.UNFUSED), decoders.QUANTIZED_NODE)
    with (
        Interleaved(lambda _: None) as rows,
        pytest.raises(ContractError, match="0 integer matmuls ran where the manifest names 1"),
    ):
        rows.start(jobs(broken, "broken"))
        rows.collect(wait=True)


def test_slow_rows_take_part_in_fewer_rounds(artifacts, monkeypatch):
    """Their rounds are among those of the quick ones, so that there are pairs."""
    monkeypatch.setattr(interleaved._Timing, "_pass_s", lambda timing: 1.0 if timing._job.row == "other" else 0.01)
    found = []
    with Interleaved(found.extend) as rows:
        for row, artifact in artifacts.items():
            rows.start(jobs(artifact, row, ("sentences",)))
        rows.collect(wait=True)
        rows.time()
    rounds = {record.row: sorted({sample[2] for sample in record.samples}) for record in found}
    assert rounds == {
        "fp32": list(range(interleaved._ROUNDS)),
        "other": list(range(0, interleaved._ROUNDS, interleaved._LONGEST_STRIDE)),
    }


def test_processes_do_not_wait_where_memory_runs_short(artifacts, monkeypatch):
    with Interleaved(lambda _: None) as rows:
        free = ram.available_bytes()
        monkeypatch.setattr("qexport.core.ram.available_bytes", lambda: free // 3)
        rows.start(jobs(artifacts["fp32"], "fp32"))
        rows.collect(wait=True)
        assert rows.crowded
        assert [row.worker.pid for row in rows._rows] == [None]


def test_leaving_in_the_middle_starts_nothing_anew(artifacts, monkeypatch):
    monkeypatch.setattr(interleaved, "_STARTING", 1)
    asked = []
    real = Worker.ask

    def noted(worker, job, artifact, tokens):
        asked.append(job.row)
        return real(worker, job, artifact, tokens)

    monkeypatch.setattr(Worker, "ask", noted)
    with pytest.raises(KeyboardInterrupt), Interleaved(lambda _: None) as rows:
        for row, artifact in artifacts.items():
            rows.start(jobs(artifact, row))
        wait_for(lambda: asked)
        raise KeyboardInterrupt
    assert set(asked) == {"fp32"}
    assert [row.worker.pid for row in rows._rows] == [None, None]


def test_leaving_ends_the_processes(artifacts):
    with pytest.raises(KeyboardInterrupt), Interleaved(lambda _: None) as rows:
        rows.start(jobs(artifacts["fp32"], "fp32"))
        rows.collect(wait=True)
        (pid,) = (row.worker.pid for row in rows._rows)
        assert running(pid)
        raise KeyboardInterrupt
    wait_for(lambda: not running(pid))
