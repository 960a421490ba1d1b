from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, strategies as st

from qexport.core.stats import Interval
from qexport.gating.verdict import Bounds, Check, GateReport, RowVerdict

INF, NAN = math.inf, math.nan
BOTH = Bounds(at_least=0.9, at_most=1.1)
HALF = st.floats(1e-6, 10.0)


def interval(low, high, value=None):
    return Interval(value=(low + high) / 2 if value is None else value, low=low, high=high)


def row(*outcomes):
    checks = tuple(Check(what="perplexity", outcome=outcome, message="") for outcome in outcomes)
    return RowVerdict(name="a", recipe="fp32", checks=checks)


def report(*rows):
    return GateReport(model="m", baseline="b.json", rows=rows)


# Where an interval lies


@pytest.mark.parametrize(
    ("bounds", "low", "high", "outcome"),
    [
        (BOTH, 0.95, 1.05, "pass"),
        (BOTH, 0.9, 1.1, "pass"),  # the bounds are allowed themselves
        (BOTH, 1.0, 1.0, "pass"),
        (BOTH, 1.05, 1.1001, "inconclusive"),
        (BOTH, 0.8999, 0.95, "inconclusive"),
        (BOTH, 0.8, 1.2, "inconclusive"),
        (BOTH, 1.1, 1.2, "inconclusive"),  # the bound itself would be allowed
        (BOTH, 0.8, 0.9, "inconclusive"),
        (BOTH, 1.1001, 1.2, "fail"),
        (BOTH, 0.8, 0.8999, "fail"),
        (Bounds(at_most=1.1), 0.1, 1.1, "pass"),
        (Bounds(at_most=1.1), 1.0, 1.2, "inconclusive"),
        (Bounds(at_most=1.1), 1.2, 1.3, "fail"),
        (Bounds(at_least=0.9), 0.9, 50.0, "pass"),
        (Bounds(at_least=0.9), 0.8, 1.0, "inconclusive"),
        (Bounds(at_least=0.9), 0.1, 0.2, "fail"),
        (Bounds(), -5.0, 5.0, "pass"),
    ],
)
def test_inside_passes_and_outside_fails(bounds, low, high, outcome):
    assert bounds.judge(interval(low, high)) == outcome


@pytest.mark.parametrize("bounds", [BOTH, Bounds(at_most=1.1), Bounds(at_least=0.9), Bounds()])
@pytest.mark.parametrize("found", [(NAN, 1.0, 1.0), (1.0, NAN, 1.0), (1.0, 1.0, NAN), (NAN, NAN, NAN)])
def test_what_is_no_number_fails_whatever_is_allowed(bounds, found):
    low, value, high = found
    assert bounds.judge(Interval(value=value, low=low, high=high)) == "fail"


@pytest.mark.parametrize(
    ("bounds", "low", "value", "high", "outcome"),
    [
        (Bounds(at_most=1.1), INF, INF, INF, "fail"),
        (Bounds(at_most=1.1), 1.2, INF, INF, "fail"),
        (Bounds(at_most=1.1), 1.0, INF, INF, "inconclusive"),
        (Bounds(at_most=1.1), 1.0, 1.05, INF, "inconclusive"),
        (Bounds(at_least=0.9), -INF, -INF, -INF, "fail"),
        (Bounds(at_least=0.9), 1.0, 1.05, INF, "pass"),
    ],
)
def test_intervals_without_an_end(bounds, low, value, high, outcome):
    assert bounds.judge(Interval(value=value, low=low, high=high)) == outcome


@given(st.floats(0.1, 10), HALF, HALF, st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_narrower_interval_never_turns_a_verdict_round(value, below, above, one, other):
    bounds = Bounds(at_least=min(one, other), at_most=max(one, other))
    wide = bounds.judge(interval(value - below, value + above, value))
    narrow = bounds.judge(interval(value - below / 2, value + above / 2, value))
    assert wide in {narrow, "inconclusive"}


# How many more samples


@given(
    value=st.floats(0.5, 2.0),
    below=HALF,
    above=HALF,
    bound=st.floats(0.1, 4.0),
    upper=st.booleans(),
    samples=st.integers(2, 10_000),
)
def test_so_many_samples_leave_the_bound_just_outside(*, value, below, above, bound, upper, samples):
    low, high = value - below, value + above
    assume(low <= bound <= high)
    assume(abs(bound - value) > 1e-6)
    bounds = Bounds(at_most=bound) if upper else Bounds(at_least=bound)
    needed = bounds.samples_needed(Interval(value=value, low=low, high=high), samples)
    assert needed >= samples

    def reach(count):
        """How far the interval of so many samples reaches on the bound's side."""
        half = above if bound > value else below
        return half * math.sqrt(samples / count)

    distance = abs(bound - value)
    assert reach(needed) <= distance * (1 + 1e-9)
    if needed > samples:
        assert reach(needed - 1) >= distance * (1 - 1e-9)
    # And those settle it.
    half_low, half_high = below * math.sqrt(samples / (needed + 1)), above * math.sqrt(samples / (needed + 1))
    settled = Interval(value=value, low=value - half_low, high=value + half_high)
    assert bounds.judge(settled) == ("pass" if (bound > value) == upper else "fail")


def test_samples_needed_by_hand():
    # The upper half is 0.25 wide, and the bound 0.125 away: half the width, four times the samples.
    found = Interval(value=1.0, low=0.625, high=1.25)
    assert Bounds(at_most=1.125).samples_needed(found, 10) == 40
    # The lower half is 0.375 wide, and the bound 0.125 away.
    assert Bounds(at_least=0.875).samples_needed(found, 10) == 90
    assert Bounds(at_least=0.875, at_most=1.125).samples_needed(found, 10) == 90
    # The bound below is out of reach already.
    assert Bounds(at_least=0.5, at_most=1.125).samples_needed(found, 10) == 40
    # Outside, and not sure of it: the half on the bound's side counts.
    assert Bounds(at_most=0.8125).samples_needed(found, 10) == 40
    # A part of a sample is a whole one.
    assert Bounds(at_most=1.125).samples_needed(Interval(value=1.0, low=0.5, high=1.1875), 11) == 25


def test_no_number_of_samples_takes_a_value_off_its_bound():
    found = Interval(value=1.0, low=0.9, high=1.2)
    assert Bounds(at_most=1.0).samples_needed(found, 10) is None
    assert Bounds(at_least=1.0).samples_needed(found, 10) is None
    assert Bounds(at_least=0.95, at_most=1.0).samples_needed(found, 10) is None


def test_no_number_of_samples_closes_an_open_interval():
    assert Bounds(at_most=1.1).samples_needed(Interval(value=1.0, low=0.9, high=INF), 10) is None


# The worst counts


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        (["pass"], "pass"),
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive", "pass"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
        (["fail", "pass"], "fail"),
        ([], "fail"),
    ],
)
def test_a_row_is_as_good_as_its_worst_check(outcomes, worst):
    assert row(*outcomes).outcome == worst
    assert report(*[row(outcome) for outcome in outcomes]).outcome == worst


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([row("pass"), row("pass", "pass")], 0),
        ([row("pass"), row("inconclusive")], 4),
        ([row("inconclusive"), row("fail")], 1),
        ([row("pass"), row()], 1),
        ([], 1),
    ],
)
def test_exit_codes(rows, code):
    assert report(*rows).exit_code == code
