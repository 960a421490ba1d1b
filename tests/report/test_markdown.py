from __future__ import annotations

from qexport.report.charts import CHARTS
from qexport.report.markdown import markdown
from qexport.report.table import build_table


def test_the_report_has_its_parts_in_order(records):
    text = markdown(build_table(records), title="reference", charts=CHARTS)
    parts = ["# reference", "Smallest weights", "| ---", "## Not measured", "](perplexity.png)", "](latency.png)"]
    parts += ["](memory.png)", "## Conditions", "## How the figures are defined", "exp(Σ NLL / Σ tokens)"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_every_row_has_a_cell_for_every_column(records):
    table = build_table(records)
    lines = [line for line in markdown(table, title="t", charts=()).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    assert {line.count("|") for line in lines} == {len(table.columns) + 2}


def test_cells_hold_value_ratio_and_published(records):
    text = markdown(build_table(records), title="t", charts=())
    (line,) = (line for line in text.splitlines() if line.startswith("| **int8-static (all)**"))
    assert "1.263<br>0.262×<br>*published 130.97*" in line
    assert "8.567 (8.068 to 9.072)<br>1.0201× (1.0176 to 1.0226)" in line
    (skipped,) = (line for line in text.splitlines() if line.startswith("| **bnb-nf4**"))
    assert "skipped<br>*published 276.55*" in skipped


def test_names_are_text(make):
    records = [record.model_copy(update={"row": f"<b>|{record.row}"}) for record in make()]
    text = markdown(build_table(records), title="a *b* <script>\n# c", charts=())
    assert text.startswith("# a \\*b\\* \\<script\\> \\# c\n")
    assert "\\<b\\>\\|fp32" in text
    assert "<b>" not in text
