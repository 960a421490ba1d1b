from __future__ import annotations

import re

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
    assert "unstable: rounds differ by 32 %" in load
    assert "| **fp32** |" in text[text.index("### Memory") : text.index("### Speed")]


def test_merged_runs_have_a_legend(merged):
    text = markdown(merged, title="t", charts=())
    assert "- **A**: 2026-11-22T07:35:55Z" in text
    assert "| **fp32 · B** |" in text


def test_a_stand_in_says_so_first(make):
    text = markdown(build_table(make(stand_in=True)), title="t", charts=())
    assert text.splitlines()[2].startswith("**reference is a stand-in")


def test_accuracies_have_interval_ratio_test_and_published(answered):
    text = markdown(answered, title="t", charts=())
    assert "### Tasks" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| **int8-static**"))
    value, ratio, test, published = line.split(" | ")[1].removesuffix(" |").split("<br>")
    assert re.fullmatch(r"0\.417 \(0\.3\d\d to 0\.5\d\d\)", value)
    assert re.fullmatch(r"0\.833× \(0\.\d{3} to 0\.\d{3}\)", ratio)
    assert test == "p 0.039 (10 lost, 2 gained)"
    assert published == "*published 61.0 %*"
    assert "p \\< 0.001 (48 lost, 0 gained)" in text


def test_how_tasks_were_scored_stands_after_the_tables(answered, table):
    text = markdown(answered, title="t", charts=())
    notes = text[text.index("## How tasks were scored") : text.index("## Conditions")]
    assert "- GSM8K was scored on its train split." in notes
    assert "- 3 contexts of GSM8K were cut from the left: longer than the model's context." in notes
    assert "96 questions, train split, 5-shot, task version 3.0" in text[text.index("## Conditions") :]
    assert "How tasks were scored" not in markdown(table, title="t", charts=())
