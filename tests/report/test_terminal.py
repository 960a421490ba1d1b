from __future__ import annotations

import io

import pytest
from rich.console import Console

from qexport.report.table import build_table
from qexport.report.terminal import render


def printed(records, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(build_table(records), width=width))
    return console.file.getvalue()


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["small model", "large model"])
def test_80_columns_hold_the_table_without_cutting_or_wrapping(make, scale):
    text = printed(make(published=True, scale=scale), 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    (fp32,) = (line for line in text.splitlines() if line.startswith("fp32"))
    assert "8.398" in fp32
    assert "bnb-nf4" in text


def test_figures_ratios_and_published_stand_under_each_other(records):
    lines = printed(records, 80).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("int8-static (all)"))
    assert lines[at].split()[2:] == ["1.263", "93.11", "1.23", "/", "1.60", "8.567", "±0.51"]
    assert lines[at + 1].split()[3:] == ["0.262", "0.918", "0.591", "±0.005", "1.0201", "±0.0025"]
    assert lines[at + 2].split() == ["published", "130.97", "8.1", "309.76*"]


def test_what_was_not_measured_is_said(records):
    text = printed(records, 80)
    assert "bnb-nf4: bitsandbytes is not installed" in text
    assert "no CUDA device was used" in text
    assert "skipped" in text


def test_conditions_stand_below(records):
    text = printed(records, 80)
    assert "AMD EPYC 7B13" in text
    assert "2 threads" in text


def test_wide_terminals_show_every_column(records):
    text = printed(records, 140)
    assert "On disk" in text
    assert "261.66" in text
    assert "261.66*" not in text


def test_names_are_text_and_never_markup(make):
    records = [record.model_copy(update={"row": f"[red]{record.row}[/red]"}) for record in make()]
    assert "[red]fp32[/red]" in printed(records, 140)
