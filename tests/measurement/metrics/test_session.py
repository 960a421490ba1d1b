from __future__ import annotations

import logging
import os
import warnings

import numpy as np
import pytest

from qexport.measurement.metrics import session
from qexport.measurement.metrics.trial import Trial
from qexport.runtime.decoding import Generated


class Silent(logging.Filter):
    def filter(self, _record):
        return False


class Echo:
    """A session that says the last prompt token plus one, again and again."""

    side = "left"

    def decoder(self, **_given):
        return self

    def begin(self, ids, _mask):
        return ids[:, -1] + 1

    def step(self, tokens):
        return tokens + 1


def trial(**changes):
    return Trial(
        **{"sequences": (np.array([4, 5]),), "warmups": 0, "round": 1, "baseline_rss_bytes": 0, "new_tokens": 4}
        | changes
    )


def test_every_kind_of_warning_is_kept_once(capfd):
    logger = logging.getLogger("a_library.silent")  # the command line sets the level of qexport's own
    logger.addFilter(Silent())
    with session._noted() as said:
        for _ in range(2):
            warnings.warn("flash attention\n  is not there", UserWarning, stacklevel=1)
            logger.warning("inputs will be %s", "cast")
        logger.info("nothing to worry about")
        os.write(2, b"2026-11-22 [W:onnxruntime:, graph.cc:1 f] a node was dropped\nplain words\n")
    assert said == ["inputs will be cast", "flash attention is not there", "a node was dropped"]
    assert "plain words" in capfd.readouterr().err
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_an_error_leaves_everything_as_it_was():
    with pytest.raises(ZeroDivisionError), session._noted():
        raise ZeroDivisionError
    assert logging.getLogRecordFactory() is logging.LogRecord


@pytest.mark.parametrize(
    ("stop", "said", "ended"),
    [((), "6 7 8 9", "no"), ((8,), "6 7", "yes"), ((6,), "", "yes"), ((99,), "6 7 8 9", "no")],
)
def test_the_mark_that_ends_an_answer_is_no_part_of_it(stop, said, ended):
    figures = session.profile(Echo, trial(stop=stop))
    told = figures["response_tokens"]
    assert told.facts == {"response_ids": said, "ended": ended}
    assert told.rows == ((float(len(said.split())), 1.0),)


def test_the_whole_is_the_sum_of_its_parts(tmp_path):
    (tmp_path / "model.onnx").write_bytes(bytes(10**6))
    figures = session.profile(Echo, trial(folder=tmp_path))
    seconds = {name: samples.rows[0][0] for name, samples in figures.items() if name.endswith("_s")}
    parts = seconds["load_s"] + seconds["response_s"] + seconds["free_s"]
    assert seconds["total_s"] == pytest.approx(parts)
    assert 0 < seconds["checkpoint_load_s"] < 10


def test_memory_on_a_device_is_told_from_its_context(monkeypatch):
    used = iter((500, 900))
    monkeypatch.setattr(session.cuda, "used_bytes", lambda: next(used))
    figures = session.profile(Echo, trial(device_start_bytes=200))
    assert figures["device_context_bytes"].rows[0][0] == 300
    assert figures["device_increase_bytes"].rows[0][0] == 400


def test_a_device_that_is_not_used_is_not_spoken_of(monkeypatch):
    monkeypatch.setattr(session.cuda, "used_bytes", lambda: 500)
    assert not [name for name in session.profile(Echo, trial()) if name.startswith("device")]


def test_the_mean_step_leaves_the_first_token_out():
    generated = Generated(tokens=np.zeros((2, 5), np.int64), first_token_s=1.0, total_s=3.0)
    assert generated.token_latency_s == 0.5
