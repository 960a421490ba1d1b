from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from qexport.cli import progress_bars
from qexport.comparison import schedule
from qexport.comparison.experiments import DEFAULT_ROWS
from qexport.core import progress, stats
from qexport.quantization.recipes import RECIPES


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands where the test puts it."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_what_is_left_follows_from_what_the_work_behind_took(clock):
    plan = schedule.Schedule([15.0, 30.0, 30.0])
    assert plan.left_s == 75.0
    clock[0] = 45.0  # three times as long as expected, of which half is believed
    plan.done()
    assert (plan.pace, plan.left_s) == (2.0, 120.0)
    clock[0] = 45.0 + 3 * 30.0
    plan.done()
    assert plan.left_s == 75.0


def test_rows_whose_process_starts_slowly_are_made_first_and_slow_quantizations_last():
    names = [row.recipe for row in DEFAULT_ROWS]
    ordered = sorted(names, key=lambda name: schedule.place(RECIPES[name]))
    assert [name.startswith(("torch", "bnb")) for name in ordered] == sorted(
        (name.startswith(("torch", "bnb")) for name in names), reverse=True
    )
    assert ordered[-1] == "w4a16-gptq"
    assert schedule.row_s(RECIPES["bnb-nf4"], scored=False) < schedule.row_s(RECIPES["bnb-nf4"], scored=True)


def test_stages_are_lines_that_do_not_come_too_often(clock):
    written = io.StringIO()
    progress.install(announcer=progress_bars.Lines(Console(file=written, width=200)).stage)
    for second, left_s in ((0.0, 200.0), (3.0, 190.0), (11.0, 20.0)):
        clock[0] = second
        progress.stage("row 1 of 23", left_s)
    progress.install()
    progress.stage("nobody reads this", 1.0)
    assert written.getvalue().splitlines() == [
        "row 1 of 23: about 3.3 minutes left",
        "row 1 of 23: less than half a minute left",
    ]


def test_a_long_task_is_a_line_where_nothing_announces_stages(monkeypatch):
    """Also one that never advances, such as a quantization by a library."""
    monkeypatch.setattr(progress_bars, "_LONG_S", 0.05)
    monkeypatch.setattr(progress_bars, "_EVERY_S", 0.05)
    written = io.StringIO()
    lines = progress_bars.Lines(Console(file=written, width=200))
    progress.install(lines.task, lines.stage)
    with progress.task("short"):
        pass
    with progress.task("quantizing int8-static"):
        time.sleep(0.2)
    with progress.task("calibrating", total=3) as advance:
        for _ in range(3):
            time.sleep(0.1)
            advance()
    progress.install()
    said = written.getvalue().splitlines()
    assert said[0] == "quantizing int8-static"
    assert said[-1] == "calibrating, 3 of 3"
    assert "short" not in said


def test_an_interval_of_the_median_drops_values_at_both_ends_once_there_are_enough():
    assert stats.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert stats.median_interval([7.0]) == (7.0, 7.0)
    # Ranks of the interval of 95 % in tables of order statistics.
    for n, low, high in ((8, 1, 8), (9, 2, 8), (10, 2, 9), (12, 3, 10), (16, 4, 13), (20, 6, 15)):
        assert stats.median_interval([float(rank) for rank in range(n, 0, -1)]) == (low, high)
