"""Choices that would change nothing are refused, and those that change something are not."""

from __future__ import annotations

import pytest

from qexport import comparison
from qexport.effect import choices_of, require_effect
from qexport.errors import InputError
from qexport.inputs.budgets import load_gate_plan
from qexport.recipes import recipe
from tests.command import failure

EXPERIMENT = 'title = "T"\nmodel = "somebody/model"\nmetrics = ["disk_bytes"]\n{}\n[[rows]]\nrecipe = "fp32"\n{}'
GATE = "{}\n[budgets]\ndisk_bytes = {{ at_most = 1.01, of = 'baseline' }}\n{}"


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        (["--text", "t.txt"], "add perplexity"),
        (["--dataset", "a:b:c"], "add perplexity"),
        (["--calibration-text", "t.txt"], "add int8-static"),
        (["--prompts", "t.txt"], "add token_latency_s"),
        (["--new-tokens", "3"], "add token_latency_s"),
        (["--data", "."], "add one's metric"),
        (["--num-fewshot", "2"], "add one's metric"),
        (["--limit", "2"], "add one's metric"),
        (["--engine", "ort"], "add int8-static"),
    ],
)
def test_an_option_of_compare_without_effect(tiny, tmp_path, monkeypatch, words, way_out):
    monkeypatch.setattr("qexport.cli._text", lambda *_: None)  # the option is refused before the text is looked at
    asked = ["compare", tiny("gpt2"), "-o", tmp_path / "run", "--recipes", "fp32", "--metrics", "disk_bytes"]
    said = failure(*asked, *words)
    assert f"{words[0]}: has no effect, since" in said
    assert way_out in said
    assert said.endswith(f"leave {words[0]} out\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stand-in-size", "full"], "add --stand-in"),
        (["--full", "--rounds", "2"], "--full is --rounds 3"),
        (["--exporter", "optimum", "--recipes", "bnb-nf4"], "every recipe stays in PyTorch"),
    ],
)
def test_other_options_that_go_nowhere(tiny, tmp_path, words, said):
    assert said in failure("compare", tiny("gpt2"), "-o", tmp_path / "run", *words)


def test_a_recipe_in_pytorch_is_not_exported(tiny, tmp_path):
    words = ["quantize", tiny("gpt2"), "-o", tmp_path / "out", "--recipe", "bnb-nf4", "--exporter", "optimum"]
    assert "leave --exporter out" in failure(*words)


@pytest.mark.parametrize(
    ("above", "below", "choice"),
    [
        ("windows = 3", "", "windows"),
        ("sentences = 3", "", "sentences"),
        ("", "[generation]\nnew_tokens = 3", r"\[generation\]"),
        ("", "[session]\nprompt = 'x'", r"\[session\]"),
        ("", "[tasks]\nlimit = 3", r"\[tasks\]"),
        ("", "[text]\nevaluation = 'x.txt'", r"\[text\] evaluation"),
        ("", "[text]\ncalibration = 'x.txt'", r"\[text\] calibration"),
    ],
)
def test_a_key_of_an_experiment_without_effect(tmp_path, above, below, choice):
    path = tmp_path / "table.toml"
    path.write_text(EXPERIMENT.format(above, below))
    with pytest.raises(InputError, match=f"table.toml: {choice}: has no effect"):
        comparison.experiment_for(str(path))


def test_tasks_that_are_named_on_the_command_line_use_a_plan(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(EXPERIMENT.format("", "[tasks]\nlimit = 3"))
    assert comparison.experiment_for(str(path), ["piqa"]).tasks.limit == 3


def test_a_figure_that_is_published_and_not_measured(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(EXPERIMENT.format("", 'published = { perplexity = 3.0 }\n[published]\nsource = "x"'))
    with pytest.raises(InputError, match="perplexity is published, and is not among the metrics"):
        comparison.experiment_for(str(path))


@pytest.mark.parametrize(
    "name", ["gpt2", "llama-3-8b", "mistral-7b", "phi-3-mini-128k-instruct", "qwen2.5-3b", "reference"]
)
def test_bundled_experiments_make_no_idle_choice(name):
    from qexport.inputs.bundled import bundled

    comparison.experiment_for(str(bundled(f"models/{name}.toml")))


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("text = 'x.txt'", ""),
        ("windows = 3", ""),
        ("rounds = 3", ""),
        ("prompts = 'x.txt'", ""),
        ("", "[tasks]\nlimit = 3"),
    ],
)
def test_a_key_of_a_gate_without_effect(tmp_path, above, below):
    path = tmp_path / "gate.toml"
    path.write_text(GATE.format(above, below))
    plan = load_gate_plan(path)
    with pytest.raises(InputError, match="has no effect"):
        require_effect(choices_of(plan), plan.metrics, ())
    require_effect(choices_of(plan), ("perplexity", "token_latency_s", "piqa_acc"), ())


def test_what_has_an_effect_is_let_through():
    metrics, rows = ("perplexity", "token_latency_s", "piqa_acc", "total_s"), [recipe("fp32"), recipe("int8-static")]
    require_effect(
        ["--text", "--prompts", "--limit", "--engine", "--exporter", "--calibration-text", "[session]"], metrics, rows
    )
