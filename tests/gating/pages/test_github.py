from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import unquote

from hypothesis import given

from qexport.gating.pages.github import workflow_commands
from tests.gating.pages.conftest import FAILS
from tests.gating.pages.strategies import REPORTS

GOLDEN = [
    (
        "::error file=models/baseline.json,line=40,title=a|b `c` <i>x</i>%3A perplexity of fp32"
        "::perplexity is 1.31 of fp32, 2 %25 more are allowed: raise `bits`"
    ),
    "::error file=models/baseline.json,line=90,title=nf4%3A artifact::no artifact was given",
    (
        "::warning file=models/baseline.json,line=40,title=a|b `c` <i>x</i>%3A latency per sentence of fp32"
        "::latency is 1.01 of fp32 (0.9 to 1.12), at most 1.1 is allowed"
    ),
    (
        "::warning file=models/baseline.json,line=77,title=fp8%3A drift of baseline"
        "::drift is 0.0012 nats per token (0.0008 to 0.0016), at most 0.0015; about 400 windows would tell"
    ),
]


def test_the_commands_are_these(report):
    assert workflow_commands(report) == GOLDEN


def test_properties_are_escaped(report):
    row = replace(FAILS, name="a,b: 5 %\r\nc")
    first, *_ = workflow_commands(replace(report, rows=(row,), baseline="a,b:%\r\n.json"))
    assert first.startswith(
        "::error file=a%2Cb%3A%25%0D%0A.json,line=40,title=a%2Cb%3A 5 %25 c%3A perplexity of fp32::"
    )


def test_more_than_are_shown_are_counted_in_the_last(many):
    commands = workflow_commands(many)
    errors = [command for command in commands if command.startswith("::error ")]
    assert commands[: len(errors)] == errors
    assert [re.search(r"title=row (\d+)", error)[1] for error in errors[:-1]] == [str(n) for n in range(1, 10)]
    (last,) = errors[9:]
    assert last == (
        "::error file=models/baseline.json,line=1,title=qexport gate"
        "::4 more checks fail; read all of them in the job's log and in the gate's report"
    )
    warnings = commands[10:]
    assert len(warnings) == 10
    assert "more checks" not in "".join(warnings)


@given(REPORTS)
def test_any_command_is_one_line_that_reads_back(report):
    for command in workflow_commands(report):
        assert len(command.encode().splitlines()) == 1
        found = re.fullmatch(r"::(error|warning) file=([^,:]*),line=(\d+),title=([^,:]*)::(.*)", command)
        assert found
        assert not re.search(r"%(?!25|0D|0A|3A|2C)", command)
        assert unquote(found[2]).startswith("models/")
