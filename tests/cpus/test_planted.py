"""Every regression of tests/gating/test_planted_regressions.py, found on another CPU than the baseline's."""

from __future__ import annotations

import pytest

from qexport.gating.bench import GateOptions
from qexport.gating.pipeline import gate
from tests.cpus.conftest import measured_on
from tests.gating import test_planted_regressions as at_home
from tests.gating.test_planted_regressions import good

pytestmark = pytest.mark.slow

ELSEWHERE = {
    # On another CPU the figures are nearly what they were, which test_cpus.py holds.
    "test_nothing_planted_passes_and_is_exactly_what_it_was",
    # The short text has neither of the two tokens; which ids a text has does not depend on the CPU.
    "test_a_swapped_tokenizer",
}

__all__ = ["good"]
globals().update(
    {name: value for name, value in vars(at_home).items() if name.startswith("test_") and name not in ELSEWHERE}
)


@pytest.fixture(scope="module")
def plan(short_plan):
    return short_plan


@pytest.fixture
def verdict(good, plan, emulated):
    """The verdict of the gate there on a folder in the place of the row that the baseline of this CPU has."""

    def judge(folder):
        with measured_on(emulated):
            report = gate([good / "fp32", folder], good / "gate.json", plan, GateOptions(threads=1))
        fp32, row = report.rows
        assert fp32.outcome == "pass", fp32
        return row

    return judge
