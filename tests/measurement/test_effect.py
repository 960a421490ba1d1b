"""Choices that would change nothing are refused, and those that change something are not."""

from __future__ import annotations

import shutil

import pytest

from qexport.comparison import experiments
from qexport.core.errors import InputError
from qexport.gating.budgets import load_gate_plan
from qexport.measurement.effect import known_choices, require_effect
from qexport.quantization.recipes import recipe
from tests.command import failure, qexport

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
        (["--rounds", "2"], "add latency_s"),
    ],
)
def test_an_option_of_compare_without_effect(tiny, tmp_path, monkeypatch, words, way_out):
    monkeypatch.setattr("qexport.api.text_of", lambda *_: None)  # the option is refused before the text is looked at
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
        (["--recipes", "fp32,fp32"], "--recipes fp32: is there twice"),
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
        experiments.experiment_for(str(path))


def test_tasks_that_are_named_on_the_command_line_use_a_plan(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(EXPERIMENT.format("", "[tasks]\nlimit = 3"))
    assert experiments.experiment_for(str(path), ["piqa"]).tasks.limit == 3


def test_a_figure_that_is_published_and_not_measured(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(EXPERIMENT.format("", 'published = { perplexity = 3.0 }\n[published]\nsource = "x"'))
    with pytest.raises(InputError, match="perplexity is published, and is not among the metrics"):
        experiments.experiment_for(str(path))


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "llama-3-8b",
        "mistral-7b",
        "phi-3-mini-128k-instruct",
        "qwen2.5-3b",
        "reference",
        "smollm2-135m-instruct",
    ],
)
def test_bundled_experiments_make_no_idle_choice(name):
    from qexport.inputs.bundle import bundled

    experiments.experiment_for(str(bundled(f"models/{name}.toml")))


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
        require_effect(known_choices(plan.model_fields_set), plan.metrics, ())
    require_effect(known_choices(plan.model_fields_set), ("perplexity", "token_latency_s", "piqa_acc"), ())


def test_what_has_an_effect_is_let_through():
    metrics, rows = ("perplexity", "token_latency_s", "piqa_acc", "total_s"), [recipe("fp32"), recipe("int8-static")]
    require_effect(
        ["--text", "--prompts", "--limit", "--engine", "--exporter", "--calibration-text", "[session]"], metrics, rows
    )


@pytest.mark.parametrize("words", [["--nodes", "attention", "--nodes", "mlp"], ["--recipe", "nf4", "--recipe", "fp4"]])
def test_an_option_that_is_there_twice(fp32, words):
    """click keeps the last and drops the first."""
    said = qexport("nodes", fp32("gpt2").path, *words, code=2).stderr
    assert f"{words[0]} is there twice; give it once" in said


def test_an_option_that_may_be_repeated(fp32):
    qexport("nodes", fp32("gpt2").path, "--exclude", ".*mlp.*", "--exclude", "lm_head.*")


def test_bits_of_a_head_that_is_not_selected(fp32, tmp_path):
    words = ["quantize", fp32("gpt2").path, "-o", tmp_path / "out", "--recipe", "w4a16-rtn", "--nodes", "attention"]
    assert "head_bits has no effect, since the head is not selected" in failure(*words, "--head-bits", "8")


@pytest.mark.parametrize("verb", [["export"], ["quantize", "--recipe", "w4a16-rtn"]])
def test_an_output_in_the_model_s_own_folder(tiny, tmp_path, verb):
    folder = shutil.copytree(tiny("gpt2"), tmp_path / "model")
    said = failure(*verb, folder, "-o", folder / "out")
    assert "lies in the model's own folder; choose another output" in said


def test_a_deployment_in_the_artifact_s_own_folder(fp32, tmp_path):
    folder = shutil.copytree(fp32("gpt2").path, tmp_path / "a")
    assert "lies in the artifact's own folder" in failure("deploy", folder, "--to", "optimum", "-o", folder / "out")


def test_a_source_of_figures_without_figures(tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(EXPERIMENT.format("", '[published]\nsource = "x"'))
    with pytest.raises(InputError, match="no row has figures"):
        experiments.experiment_for(str(path))
