from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from qexport.gating.pages.markdown import LIMIT, MARKER, gate_summary, markdown
from qexport.gating.verdict import Change
from tests.gating.pages.conftest import FAILS, MISSING, PASSES, UNDECIDED
from tests.gating.pages.strategies import REPORTS

GOLDEN = r"""<!-- qexport gate -->
## The gate fails

reference: 2 of 4 rows fail, 1 is inconclusive, 1 passes; changes in brackets are since models/baseline.json.

| Verdict | Row | Recipe | On disk, MB | Latency per sentence, ms | Perplexity | PIQA, % |
| --- | --- | --- | ---: | ---: | ---: | ---: |
| pass | int8-static | int8-static | 1.263 (unchanged)<br>0.262 of fp32 | 12.30<br>0.810 of fp32 (0.790 to 0.840) | 12.03 (+0.11 %)<br>1.0011 of fp32 (1.0006 to 1.0016) | 60.50 (−0.50 points)<br>0.992 of fp32 (0.980 to 1.004) |
| **FAIL** | a\|b \`c\` \<i\>x\</i\> | w4a16 | – | – | 15.74 (+29.03 %) | – |
| **inconclusive** | fp8 | fp8 | – | – | – | – |
| **FAIL** | nf4 | – | – | – | – | – |

### What does not pass

**a\|b \`c\` \<i\>x\</i\>**

- FAIL: perplexity is 1.31 of fp32, 2 % more are allowed: raise \`bits\`
- inconclusive: latency is 1.01 of fp32 (0.9 to 1.12), at most 1.1 is allowed

**fp8**

- inconclusive: drift is 0.0012 nats per token (0.0008 to 0.0016), at most 0.0015; about 400 windows would tell

**nf4**

- FAIL: no artifact was given

### Notes

- Note: the baseline is of another processor
"""


def test_the_comment_is_this(report):
    assert markdown(report) == GOLDEN


def test_a_gate_that_passes_lists_nothing(report):
    text = markdown(replace(report, rows=(PASSES,), notes=()))
    assert text.splitlines()[1] == "## The gate passes"
    assert "reference: the one row passes; changes" in text
    assert "###" not in text


def test_a_row_of_which_nothing_was_checked_is_listed(report):
    assert "\n\n**fp8**\n\n- FAIL: nothing was checked of this row" in markdown(
        replace(report, rows=(replace(UNDECIDED, checks=()),))
    )


@pytest.mark.parametrize(
    ("metric", "now", "before", "cell"),
    [
        ("perplexity", 12.0, 12.0, "12.00 (unchanged)"),
        ("perplexity", 12.0 + 1e-12, 12.0, "12.00 (+0.00 %)"),
        ("perplexity", 11.4, 12.0, "11.40 (−5.00 %)"),
        ("perplexity", float("nan"), 12.0, "not finite (was 12.00)"),
        ("perplexity", 12.0, float("inf"), "12.00 (−100.0 %)"),
        ("perplexity", 12.0, float("nan"), "12.00 (was not finite)"),
        ("disk_bytes", 1e6, 0.0, "1.000 (was 0.000)"),
        ("piqa_acc", 0.01, 0.0, "1.00 (+1.00 points)"),
        ("piqa_acc", float("nan"), 0.5, "not finite (was 50.00)"),
        ("tokens_per_s", 80.0, None, "80.00"),
    ],
)
def test_what_a_figure_was(report, metric, now, before, cell):
    row = replace(PASSES, changes=(Change(metric=metric, now=now, before=before),))
    line = next(line for line in markdown(replace(report, rows=(row,))).splitlines() if line.startswith("| pass"))
    assert line == f"| pass | int8-static | int8-static | {cell} |"


@given(REPORTS)
def test_names_are_text(report):
    text = markdown(report)
    assert text.encode().startswith(MARKER.encode() + b"\n## ")
    table = [line for line in text.split("\n") if line.startswith("| ")]
    assert len(table) == (2 + len(report.rows) if report.rows else 0)
    assert len({line.replace("\\\\", "").replace("\\|", "").count("|") for line in table}) <= 1
    bare = text.removeprefix(MARKER).replace("<br>", "").replace("\\\\", "")
    assert bare.count("<") == bare.count("\\<")


@given(REPORTS)
def test_what_is_short_is_not_cut(report):
    assert gate_summary(report) == markdown(report)


def test_rows_that_pass_are_left_out_first(report):
    rows = [replace(PASSES, name=f"row {n}") for n in range(1000)]
    text = gate_summary(replace(report, rows=(*rows[:500], FAILS, UNDECIDED, MISSING, *rows[500:])))
    assert text.startswith(MARKER + "\n")
    assert "2 of 1003 rows fail, 1 is inconclusive, 1000 pass;" in text
    shown = text.count("| pass |")
    assert f"Rows left out here: {1000 - shown} that pass. All of them are in `gate.md`." in text
    assert text.count("| **") == 3
    assert text[text.index("### What") :] == GOLDEN[GOLDEN.index("### What") :]
    # As many as fit are shown, the first ones.
    line = next(line for line in text.splitlines() if line.startswith("| pass | row 0 |"))
    assert LIMIT - len(line) - 10 < len(text) <= LIMIT
    assert "| row 0 |" in text
    assert "| row 999 |" not in text


def test_then_those_that_are_inconclusive_then_those_that_fail(report):
    rows = [replace(row, name=f"{row.name} {n}") for n in range(600) for row in (PASSES, UNDECIDED, MISSING)]
    text = gate_summary(replace(report, rows=tuple(rows)))
    assert "left out here: " in text
    assert "and 600 that pass" in text
    assert text.count("| **FAIL** |") == 600
    assert 0 < text.count("| **inconclusive** |") < 600
    assert len(text) <= LIMIT


def test_a_text_that_no_row_makes_long_is_cut_at_a_line(report):
    text = gate_summary(replace(report, notes=("n" * 1000,) * 100))
    assert len(text) <= LIMIT
    assert text.endswith("nnn\n\n**Cut here.** The whole report is in `gate.md`.\n")
    assert "left out here: 2 that fail, 1 that is inconclusive and 1 that passes." in text
