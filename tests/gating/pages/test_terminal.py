from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from rich.console import Console

from qexport.gating.pages.terminal import lines, render_gate
from tests.gating.pages.conftest import FAILS, PASSES, UNDECIDED
from tests.gating.pages.strategies import REPORTS

GOLDEN = [
    (
        "pass          int8-static       perplexity is 1.0011 of fp32, at most 1.02 is allowed; on disk as it was; "
        "the same 24 nodes are quantized"
    ),
    (
        "FAIL          a|b `c` <i>x</i>  perplexity is 1.31 of fp32, 2 % more are allowed: raise `bits`; "
        "latency is 1.01 of fp32 (0.9 to 1.12), at most 1.1 is allowed"
    ),
    (
        "inconclusive  fp8               drift is 0.0012 nats per token (0.0008 to 0.0016), at most 0.0015; "
        "about 400 windows would tell"
    ),
    "FAIL          nf4               no artifact was given",
    "note: the baseline is of another processor",
    "gate: 2 of 4 rows fail, 1 is inconclusive, 1 passes (baseline models/baseline.json)",
]


def test_a_line_says_what_came_of_each_row_and_why(report):
    assert lines(report) == GOLDEN


def test_a_pipe_gets_the_lines_as_they_are(report):
    console = Console(file=io.StringIO(), width=40, soft_wrap=True)
    console.print(render_gate(report))
    assert console.file.getvalue().splitlines() == GOLDEN


def test_a_narrow_terminal_loses_no_word(report):
    console = Console(file=io.StringIO(), width=40)
    console.print(render_gate(report))
    assert console.file.getvalue().split() == " ".join(GOLDEN).split()


def test_the_outcome_alone_is_coloured(report):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard", soft_wrap=True)
    console.print(render_gate(report))
    first, second, third, *_ = console.file.getvalue().splitlines()
    assert first.startswith("\x1b[32mpass\x1b[0m  ")
    assert second.startswith("\x1b[1;31mFAIL\x1b[0m  ")
    assert third.startswith("\x1b[33minconclusive\x1b[0m  ")
    assert first.count("\x1b") == 2


def test_names_that_are_wide_stand_in_a_column_too(report):
    rows = (replace(PASSES, name="名前"), replace(PASSES, name="abcde"))
    first, second, _ = lines(replace(report, rows=rows, notes=()))
    assert first.startswith("pass  名前   perplexity")
    assert second.startswith("pass  abcde  perplexity")


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ((), "there are no rows, so it fails"),
        ((PASSES,), "the one row passes"),
        ((FAILS,), "the one row fails"),
        ((PASSES,) * 3, "all 3 rows pass"),
        ((UNDECIDED,) * 2, "all 2 rows are inconclusive"),
        ((PASSES, FAILS), "1 of 2 rows fails, 1 passes"),
        ((PASSES, UNDECIDED, UNDECIDED, PASSES), "2 of 4 rows are inconclusive, 2 pass"),
    ],
)
def test_the_last_line_counts(report, rows, text):
    assert lines(replace(report, rows=rows))[-1] == f"gate: {text} (baseline models/baseline.json)"


def test_a_row_of_which_nothing_was_checked_says_so(report):
    line, *_ = lines(replace(report, rows=(replace(PASSES, checks=()),)))
    assert line.startswith("FAIL  int8-static  nothing was checked of this row")


@given(REPORTS)
def test_there_are_as_many_lines_as_there_is_to_say(report):
    text = "\n".join(lines(report))
    assert len(text.encode().splitlines()) == len(report.rows) + len(report.notes) + 1
    assert "\x1b" not in text
