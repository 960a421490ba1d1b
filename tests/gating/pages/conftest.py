from __future__ import annotations

import pytest

from qexport.core.stats import Interval
from qexport.gating.verdict import Bounds, Change, Check, GateReport, RowVerdict

PASSES = RowVerdict(
    name="int8-static",
    recipe="int8-static",
    line=12,
    checks=(
        Check(
            what="perplexity",
            of="fp32",
            outcome="pass",
            message="perplexity is 1.0011 of fp32, at most 1.02 is allowed",
            found=Interval(value=1.0011, low=1.0006, high=1.0016),
            bounds=Bounds(at_most=1.02),
        ),
        Check(
            what="disk_bytes",
            of="baseline",
            outcome="pass",
            message="on disk as it was",
            found=Interval(value=1.0, low=1.0, high=1.0),
        ),
        Check(what="quantized nodes", of="baseline", outcome="pass", message="the same 24 nodes are quantized"),
    ),
    changes=(
        Change(
            metric="perplexity",
            now=12.03,
            before=12.0168,
            of_baseline=Interval(value=1.0011, low=1.0009, high=1.0013),
            of_fp32=Interval(value=1.0011, low=1.0006, high=1.0016),
        ),
        Change(
            metric="disk_bytes",
            now=1_263_412.0,
            before=1_263_412.0,
            of_fp32=Interval(value=0.2621, low=0.2621, high=0.2621),
        ),
        Change(metric="latency_s", now=0.0123, of_fp32=Interval(value=0.81, low=0.79, high=0.84)),
        Change(metric="piqa_acc", now=0.605, before=0.61, of_fp32=Interval(value=0.992, low=0.98, high=1.004)),
    ),
)
FAILS = RowVerdict(
    name="a|b `c` <i>x</i>",
    recipe="w4a16",
    line=40,
    checks=(
        Check(
            what="latency_s",
            of="fp32",
            outcome="inconclusive",
            message="latency is 1.01 of fp32 (0.9 to 1.12), at most 1.1 is allowed",
            found=Interval(value=1.01, low=0.9, high=1.12),
            bounds=Bounds(at_most=1.1),
        ),
        Check(
            what="perplexity",
            of="fp32",
            outcome="fail",
            message="perplexity is 1.31 of fp32, 2 % more are allowed:\nraise `bits`",
            found=Interval(value=1.31, low=1.3, high=1.32),
            bounds=Bounds(at_most=1.02),
        ),
        Check(what="quantized nodes", outcome="pass", message="24 nodes"),
    ),
    changes=(Change(metric="perplexity", now=15.742, before=12.2),),
)
UNDECIDED = RowVerdict(
    name="fp8",
    recipe="fp8",
    line=77,
    checks=(
        Check(
            what="drift",
            of="baseline",
            outcome="inconclusive",
            message="drift is 0.0012 nats per token (0.0008 to 0.0016), at most 0.0015; about 400 windows would tell",
            found=Interval(value=0.0012, low=0.0008, high=0.0016),
            bounds=Bounds(at_most=0.0015),
        ),
    ),
)
MISSING = RowVerdict(
    name="nf4", recipe="", line=90, checks=(Check(what="artifact", outcome="fail", message="no artifact was given"),)
)


@pytest.fixture
def report(tmp_path, monkeypatch) -> GateReport:
    """One of each; the working directory is in no repository."""
    monkeypatch.chdir(tmp_path)
    return GateReport(
        model="reference",
        baseline="models/baseline.json",
        rows=(PASSES, FAILS, UNDECIDED, MISSING),
        notes=("the baseline is of another processor",),
    )


@pytest.fixture
def many(report) -> GateReport:
    """13 failing checks in as many rows, and exactly 10 inconclusive ones."""
    row = MISSING
    rows = [RowVerdict(name=f"row {n}", recipe=row.recipe, line=n, checks=row.checks) for n in range(1, 14)]
    rows += [RowVerdict(name=f"undecided {n}", recipe="fp8", line=n, checks=UNDECIDED.checks) for n in range(14, 24)]
    return GateReport(model=report.model, baseline=report.baseline, rows=tuple(rows))
