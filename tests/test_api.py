"""The Python face: its examples run, its choices are the command line's, its page is up to date."""

from __future__ import annotations

import doctest
import inspect
import shutil

import pytest
import typer

import qexport
from qexport import api
from qexport.cli.app import app
from qexport.core.errors import InputError
from qexport.report.notebook import NotebookTable
from tests.docs_page import PAGE, page

VERBS = ("export", "nodes", "quantize", "measure", "compare", "gate", "deploy")
OBJECTS = {name: getattr(api, name) for name in VERBS} | {"to_pandas": NotebookTable.to_pandas}
ON_THE_COMMAND_LINE_ONLY = {"as_json", "update", "add_cpu", "output"}
"""Printing; the baseline is written by the command alone; a gate's pages are."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the artifacts that the examples name."""
    place = tmp_path_factory.mktemp("examples")
    api.export("reference", place / "fp32")
    api.quantize(place / "fp32", place / "int8", recipe="w8a16-rtn")
    return place


@pytest.mark.parametrize("name", OBJECTS)
def test_the_example_of_each_verb_runs(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    (test,) = (
        each
        for each in doctest.DocTestFinder(recurse=False).find(OBJECTS[name], name, globs={"qexport": qexport})
        if each.examples
    )
    result = doctest.DocTestRunner().run(test)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", [name for name in VERBS if name != "measure"])
def test_choices_have_the_names_of_the_command_lines(name):
    command = typer.main.get_command(app).commands[name]
    typed = {parameter.name for parameter in command.params} - {"help"}
    own = set(inspect.signature(getattr(api, name)).parameters)
    assert own <= typed
    assert typed - own <= ON_THE_COMMAND_LINE_ONLY


@pytest.mark.parametrize("name", VERBS)
def test_every_choice_is_documented(name):
    verb = getattr(api, name)
    arguments = inspect.getdoc(verb).partition("Args:")[2].partition("\n\n")[0]
    named = [word for line in arguments.splitlines() for word in line.partition(": ")[0].replace(",", " ").split()]
    assert set(inspect.signature(verb).parameters) <= set(named)


def test_the_package_offers_the_verbs_and_no_more():
    assert set(qexport.__all__) == {*VERBS, "QExportError", "Table"}
    assert set(qexport.__all__) <= set(dir(qexport))
    assert all(getattr(qexport, name) is getattr(api, name) for name in VERBS)
    assert qexport.Table is NotebookTable
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = qexport.quantise


def test_a_table_shows_itself_in_a_notebook(folder):
    table = api.measure(folder / "fp32", folder / "int8", metrics=["weight_bytes", "disk_bytes"])
    html = table._repr_html_()
    assert html.count("<tr>") == 3
    assert "w8a16-rtn (all)" in html
    frame = table.to_pandas()
    assert frame.shape == (2, 2)
    assert frame.loc["fp32", "weight_bytes"] == next(
        record.samples[0][0] for record in table.records if (record.row, record.metric) == ("fp32", "weight_bytes")
    )
    assert str(frame) in repr(table)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["piqa_acc"], "piqa_acc: is measured by `qexport compare` or `qexport eval` only"),
        (["total_s"], "total_s: is measured by"),
        (["weight_byte"], "no such metric"),
    ],
)
def test_metrics_that_cannot_be_measured_so_are_refused(folder, metrics, message):
    with pytest.raises(InputError, match=message):
        api.measure(folder / "fp32", metrics=metrics)


def test_one_string_is_a_list_joined_by_commas(folder, monkeypatch):
    monkeypatch.chdir(folder)
    table = api.measure("fp32", "int8", metrics="weight_bytes, disk_bytes")
    assert set(table.to_pandas().columns) == {"weight_bytes", "disk_bytes"}
    both = api.compare("reference", "joined", recipes="fp32,nf4", metrics="weight_bytes")
    assert both.to_pandas().index.tolist() == ["fp32", "nf4 (body)"]
    assert len(api.nodes("fp32", include=r".*q_proj.*|.*c_attn.*", recipe="w8a16-rtn").selection.nodes) > 0
    budget = folder / "size.toml"
    budget.write_text('budgets.weight_bytes = { at_most = 1.0, of = "fp32" }')
    for name in ("fp32", "int8"):
        shutil.copytree(folder / name, folder / "base" / name)
    assert api.gate("fp32", "int8", against=str(folder / "base"), config=budget).outcome == "pass"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: api.export("reference", "out", exporter="foo"), "export: exporter='foo': input should be 'fused'"),
        (lambda: api.measure("fp32", windows=-1), "measure: windows=-1: input should be greater than or equal to 1"),
        (lambda: api.measure("fp32", windows="2"), "measure: windows='2': input should be a valid integer"),
        (lambda: api.measure("fp32", rounds=0), "measure: rounds=0"),
        (lambda: api.measure("fp32", threads=100000), "measure: threads=100000"),
        (lambda: api.measure("fp32", provider="gpu"), "measure: provider='gpu'"),
        (lambda: api.measure("fp32", metrics=None), "measure: metrics=None"),
        (lambda: api.measure("fp32", metrics=[]), "no metric is named"),
        (lambda: api.measure(["fp32", "int8"]), "measure: artifacts="),
        (lambda: api.deploy("int8", to="foo", output="d"), "deploy: to='foo'"),
        (lambda: api.deploy(to="optimum", output="d"), "no artifact was given"),
        (lambda: api.quantize("fp32", "q", recipe=None), "quantize: recipe=None"),
        (lambda: api.quantize("fp32", "q", nodes=["attention"]), "quantize: nodes="),
        (lambda: api.quantize("fp32", "q", smooth="no"), "quantize: smooth='no': input should be a valid boolean"),
        (lambda: api.quantize(None, "q"), "quantize: "),
    ],
)
def test_arguments_are_checked_before_any_work(folder, monkeypatch, call, message):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as raised:
        call()
    assert message in str(raised.value)


def test_folders_of_one_name_are_told_apart(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for side in ("old", "new"):
        shutil.copytree("int8", f"{side}/int8")
    table = api.measure("old/int8", "new/int8", metrics="disk_bytes")
    assert [row.label for row in table.table.rows] == ["w8a16-rtn (all) in old/int8", "w8a16-rtn (all) in new/int8"]


def test_a_metric_without_a_figure_is_shown_with_its_reason(folder):
    table = api.measure(folder / "fp32", metrics=["disk_bytes", "loaded_device_bytes"])
    assert table.to_pandas()["loaded_device_bytes"].isna().all()
    assert "no device memory" in table._repr_html_()


def test_no_artifact_and_no_base_are_refused():
    with pytest.raises(InputError, match="no artifact was given"):
        api.measure(metrics=["disk_bytes"])
    with pytest.raises(InputError, match="neither or both of baseline and against"):
        api.gate("fp32")


def test_the_page_is_generated_from_the_docstrings():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.docs_page`"
