from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from qexport.report.table import build_table
from qexport.report.terminal import render_table


def shown(table, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_table(table, width=width))
    return console.file.getvalue()


def printed(records, width):
    return shown(build_table(records), width)


@pytest.fixture(scope="module")
def tables(full, merged):
    return full, merged


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["small model", "large model"])
def test_80_columns_hold_the_table_without_cutting_or_wrapping(make, scale):
    text = printed(make(published=True, scale=scale), 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    (fp32,) = (line for line in text.splitlines() if line.startswith("fp32"))
    assert "8.398" in fp32
    assert "bnb-nf4" in text


def test_figures_ratios_and_published_stand_under_each_other(table):
    lines = shown(table, 80).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("int8-static (all)"))
    assert lines[at].split()[2:] == ["1.263", "93.11", "1.22", "/", "1.58", "8.567", "±0.51"]
    assert lines[at + 1].split()[3:] == ["0.262", "0.918", "0.593", "±0.011", "1.0201", "±0.0025"]
    assert lines[at + 2].split() == ["published", "130.97", "8.1", "309.76*"]


def test_what_was_not_measured_is_said(table):
    text = shown(table, 80)
    assert "bnb-nf4: bitsandbytes is not installed" in text
    assert "no CUDA device was used" in text
    assert "skipped" in text


def test_conditions_stand_below(table):
    text = shown(table, 80)
    assert "AMD EPYC 7B13" in text
    assert "2 threads" in text


def test_wide_terminals_show_every_column(table):
    text = shown(table, 140)
    assert "On disk" in text
    assert "261.66" in text
    assert "261.66*" not in text


def test_names_are_text_and_never_markup(make):
    records = [record.model_copy(update={"row": f"[red]{record.row}[/red]"}) for record in make()]
    assert "[red]fp32[/red]" in printed(records, 140)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_any_number_of_metrics_fits(tables, width):
    for table in tables:
        text = shown(table, width)
        assert all(len(line) <= width for line in text.splitlines())
        assert "…" not in text


def test_wide_terminals_have_a_table_for_each_group(tables):
    lines = shown(tables[0], 200).splitlines()
    assert [line for line in lines if line in {"Memory", "Speed", "Quality", "Tasks", "Session"}] == [
        "Memory",
        "Speed",
        "Quality",
        "Tasks",
        "Session",
    ]
    assert "~0.03689" in "".join(lines)
    assert "  fp32: unstable in load (rounds differ by 32 %)" in lines


def test_few_rows_of_a_session_stand_side_by_side(everything):
    few = [record for record in everything if record.row in {"fp32", "int8-static (all)"}]
    lines = printed(few, 120).splitlines()
    (load,) = (line for line in lines if line.startswith("Load, s"))
    assert load.split() == ["Load,", "s", "~0.03689", "0.02195"]


def test_the_narrow_table_takes_the_rate_where_it_fits(everything, tables):
    kept = [record for record in everything if record.row in {"fp32", "fp16"}]
    assert "Tokens" in printed(kept, 90)
    assert "Tokens" not in shown(tables[0], 80)


def test_a_stand_in_and_runs_are_told(make, tables):
    assert printed(make(stand_in=True), 80).startswith("reference is a stand-in")
    assert "B: 2026-11-23T09:00:00Z" in shown(tables[1], 80)


@pytest.mark.parametrize("width", [80, 140])
def test_accuracies_stand_over_ratio_test_and_published(answered, width):
    lines = [line.rstrip() for line in shown(answered, width).splitlines()]
    assert "Tasks" in lines
    assert sum(line.startswith("nf4") for line in lines) == 1  # no table without columns
    (at,) = (number for number, line in enumerate(lines) if line.startswith("int8-static"))
    assert re.fullmatch(r"int8-static +0\.417 ±0\.1\d\d", lines[at])
    assert re.fullmatch(r"  ratio to fp32 +0\.833 ±0\.\d{3}", lines[at + 1])
    assert [line.split() for line in lines[at + 2 : at + 4]] == [["McNemar", "p", "0.039"], ["published", "61.0", "%"]]
    assert any(line.split() == ["McNemar", "p", "<", "0.001"] for line in lines)
    assert "p: McNemar's test" in "".join(lines)
    assert "  GSM8K was scored on its train split." in lines
    assert "  3 contexts of GSM8K were cut from the left" in "\n".join(lines)


def test_many_tasks_of_few_rows_stand_below_each_other(everything):
    few = [r for r in everything if r.row in {"fp32", "int8-static (all)"} and r.metric.endswith(("acc", "norm"))]
    few += [r for r in everything if r.row in {"fp32", "int8-static (all)"} and r.metric.startswith("gsm8k")]
    lines = printed(few, 80).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("MMLU"))
    assert len(re.findall(r"0\.\d{3} ±0\.\d{3}", lines[at])) == 2
    assert lines[at + 1].startswith("  ratio")
    assert lines[at + 2].startswith("  McNemar")


def test_nothing_is_said_of_tasks_where_there_are_none(table):
    text = shown(table, 140)
    assert "McNemar" not in text
    assert "How tasks were scored" not in text
