"""Reports of any names, messages and figures."""

from __future__ import annotations

from hypothesis import strategies as st

from qexport.core.metrics import CATALOGUE
from qexport.core.stats import Interval
from qexport.gating.verdict import Bounds, Change, Check, GateReport, RowVerdict

# Halves of surrogates stand in names of folders that are not UTF-8.
TEXT = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    [
        "",
        "\x00",
        "a\r\nb",
        "\udcff",
        "]]>",
        "</x>",
        "::error::",
        "%0A",
        "a|b",
        "`",
        "\x85",
        "\u2028",
        "\x1b[31m",
        "名前",
    ]
)
_NUMBER = st.floats()
_INTERVAL = st.builds(Interval, value=_NUMBER, low=_NUMBER, high=_NUMBER)
_BASE = st.sampled_from([None, "fp32", "baseline"])
_CHECK = st.builds(
    Check,
    what=TEXT | st.sampled_from([*CATALOGUE, "drift", "quantized nodes"]),
    outcome=st.sampled_from(["pass", "fail", "inconclusive"]),
    message=TEXT,
    of=_BASE,
    found=st.none() | _INTERVAL,
    bounds=st.none() | st.builds(Bounds, at_least=st.none() | _NUMBER, at_most=st.none() | _NUMBER),
)
_CHANGE = st.builds(
    Change,
    metric=st.sampled_from(list(CATALOGUE)),
    now=_NUMBER,
    before=st.none() | _NUMBER,
    of_baseline=st.none() | _INTERVAL,
    of_fp32=st.none() | _INTERVAL,
)
_ROW = st.builds(
    RowVerdict,
    name=TEXT,
    recipe=TEXT,
    checks=st.lists(_CHECK, max_size=4).map(tuple),
    changes=st.lists(_CHANGE, max_size=3).map(tuple),
    line=st.integers(1, 999),
)
REPORTS = st.builds(
    GateReport,
    model=TEXT,
    baseline=TEXT.map(lambda name: f"models/{name.replace('/', '')}.json"),
    rows=st.lists(_ROW, max_size=4).map(tuple),
    notes=st.lists(TEXT, max_size=2).map(tuple),
)
