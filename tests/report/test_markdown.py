from __future__ import annotations

from qexport.report.charts import CHARTS
from qexport.report.markdown import markdown
from qexport.report.table import build_table


def test_the_report_has_its_parts_in_order(table):
    text = markdown(table, title="reference", charts=CHARTS)
    parts = ["# reference", "Smallest weights", "### Memory", "| ---", "### Speed", "### Quality", "## Not measured"]
    parts += [
        "](perplexity.png)",
        "](memory.png)",
        "](latency.png)",
        "## Conditions",
        "## How the figures are defined",
        "exp(Σ NLL / Σ tokens)",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_every_row_has_a_cell_for_every_column(table):
    lines = [line for line in markdown(table, title="t", charts=()).splitlines() if line.startswith("|")]
    assert len(lines) == len(table.groups) * (2 + len(table.rows))
    assert sum(line.count("|") - 2 for line in lines if line.startswith("| **fp32**")) == len(table.columns)


def test_cells_hold_value_ratio_and_published(table):
    text = markdown(table, title="t", charts=())
    line = "".join(line for line in text.splitlines() if line.startswith("| **int8-static (all)**"))
    assert "1.263<br>0.262×<br>*published 130.97*" in line
    assert "8.567 (8.068 to 9.072)<br>1.0201× (1.0176 to 1.0226)" in line
    skipped = "".join(line for line in text.splitlines() if line.startswith("| **bnb-nf4**"))
    assert "skipped<br>*published 276.55*" in skipped


def test_names_are_text(make):
    records = [record.model_copy(update={"row": f"<b>|{record.row}"}) for record in make()]
    text = markdown(build_table(records), title="a *b* <script>\n# c", charts=())
    assert text.startswith("# a \\*b\\* \\<script\\> \\# c\n")
    assert "\\<b\\>\\|fp32" in text
    assert "<b>" not in text


def test_many_metrics_of_few_rows_stand_below_each_other(everything):
    few = [record for record in everything if record.row in {"fp32", "int8-static (all)"}]
    text = markdown(build_table(few), title="t", charts=())
    session = text[text.index("### Session") :]
    assert session.splitlines()[2] == "|  | **fp32** | **int8-static (all)** |"
    (load,) = (line for line in session.splitlines() if line.startswith("| Load, s |"))
    assert "unstable: rounds differ by 31 %" in load
    assert "| **fp32** |" in text[text.index("### Memory") : text.index("### Speed")]


def test_merged_runs_have_a_legend(merged):
    text = markdown(merged, title="t", charts=())
    assert "- **A**: 2026-11-22T07:35:55Z" in text
    assert "| **fp32 · B** |" in text


def test_a_stand_in_says_so_first(make):
    text = markdown(build_table(make(stand_in=True)), title="t", charts=())
    assert text.splitlines()[2].startswith("**reference is a stand-in")
