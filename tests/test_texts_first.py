"""A text's defects are found before any model is built, in one line that names file and line."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from qexport import exporting, quantization
from qexport.cli.app import app
from qexport.exporting import pipeline as exporting_pipeline
from qexport.gating.pipeline import update
from qexport.measurement import probing
from qexport.quantization import pipeline
from tests.gated import ONE

STORY = "Once upon a time there was a little dog. The dog liked to play in the park with Lily. "
WORDS = ["a", "I", "it", "he", "of", "to", "in", "on", "be", "do", "we", "so", "up"]


@pytest.fixture
def stories(data_dir):
    return data_dir / "models" / "stories260K"


@pytest.fixture
def nothing_is_built(monkeypatch):
    """Whatever builds a model says so."""

    def built(*_args, **_named):
        raise AssertionError("a model was built")

    for place, names in {
        exporting_pipeline: ["export_model", "export_source"],
        exporting: ["export_source"],
        pipeline: ["apply_onnx", "apply_torch", "export_source"],
        quantization: ["apply_onnx", "apply_torch"],
    }.items():
        for name in names:
            monkeypatch.setattr(place, name, built)


@pytest.fixture
def jsonl(tmp_path):
    def write(name, documents):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
        return path

    return write


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """``refused(*arguments)`` is what a verb says that ends with exit code 3."""
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        done = CliRunner().invoke(app, ["-q", *map(str, arguments)])
        assert done.exit_code == 3, done.output
        assert done.stderr.count("\n") == 1, done.stderr
        assert not list(tmp_path.glob("out*"))
        return done.stderr

    return run


@pytest.fixture
def chatty(stories, tmp_path):
    """The model with two chat tokens more than it has rows."""
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    shutil.copytree(stories, folder)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    tokenizer.save_pretrained(folder)
    return folder


CHAT = [STORY * 3, STORY * 3, f"<|user|>{STORY * 3}<|end|>{STORY}", *[STORY * 3] * 20]
BEYOND = "chat.jsonl:3: the token <|user|> is number 512, and the model has rows for 0 to 511 only"
COMPARE = ("--recipes", "fp32,w4a16-rtn", "--metrics", "perplexity")


def test_no_document_is_long_enough(stories, jsonl, tmp_path, refused, nothing_is_built):
    words = jsonl("words.jsonl", [WORDS[index % len(WORDS)] for index in range(600)])
    said = refused("compare", stories, "--text", words, *COMPARE, "-o", tmp_path / "out")
    assert "words.jsonl: no document is long enough to score; one must have 2 tokens, and the longest has 1;" in said


def test_half_a_character(stories, jsonl, tmp_path, refused, nothing_is_built):
    path = jsonl("surrogate.jsonl", [STORY * 3, f"{STORY * 3}bad \ud83d end", STORY * 3])
    out = tmp_path / "out"
    for arguments in (
        ("quantize", stories, "--recipe", "int8-static", "--text", path, "-o", out),
        ("compare", stories, "--text", path, *COMPARE, "-o", out),
        ("compare", stories, "--calibration-text", path, *COMPARE, "-o", out),
    ):
        assert "surrogate.jsonl:2: half a surrogate pair;" in refused(*arguments)


def test_a_token_that_the_model_has_no_row_for(chatty, jsonl, tmp_path, refused, nothing_is_built):
    path, out = jsonl("chat.jsonl", CHAT), tmp_path / "out"
    for arguments in (
        ("compare", chatty, "--text", path, *COMPARE, "-o", out),
        ("compare", chatty, "--text", path, "--recipes", "fp32", "--metrics", "sentence_perplexity", "-o", out),
        ("compare", chatty, "--calibration-text", path, "--recipes", "int8-static", "-o", out),
        ("quantize", chatty, "--recipe", "int8-static", "--text", path, "-o", out),
    ):
        assert BEYOND in refused(*arguments)


def test_export_says_which_tokens_have_no_row(chatty, tmp_path):
    done = CliRunner().invoke(app, ["-q", "export", str(chatty), "-o", str(tmp_path / "fp32")])
    assert done.exit_code == 0, done.output
    assert "tokens without row: 2 of 514 (<|user|>, <|end|>)\n" in done.stdout


def test_serve_says_which_tokens_have_no_row(chatty, stories, capsys):
    from types import SimpleNamespace

    from qexport.cli.printing import print_served
    from qexport.serving.app import Served

    session = SimpleNamespace(device="", provider="cpu", threads=1, runtime="onnxruntime")
    for folder in (stories, chatty):
        artifact = SimpleNamespace(path=folder, manifest=SimpleNamespace(recipe="fp32"))
        served = SimpleNamespace(artifact=artifact, session=session, model="m", limits=SimpleNamespace(vocabulary=512))
        served.rowless = Served.rowless.fget(served)
        print_served(served, "http://here")
        said = capsys.readouterr().err
        assert ("2 of 514 (<|user|>, <|end|>); a prompt with one of these is refused" in said) == (folder == chatty)


def test_a_question_with_a_token_that_the_model_has_no_row_for(chatty):
    from qexport.core.errors import InputError
    from qexport.measurement.tasks.lm import ArtifactLM

    model = ArtifactLM(chatty, None)
    assert model.tok_encode("Once upon a time")
    with pytest.raises(InputError, match=r"a question of the tasks: the token <\|user\|> is number 512"):
        model.tok_encode("<|user|>Once upon a time")


def test_a_question_with_half_a_character(stories, tmp_path):
    from qexport.core.errors import InputError
    from qexport.measurement.tasks.data import load_task_data

    folder = tmp_path / "questions"
    folder.mkdir()
    row = {"goal": "bad \ud83d end", "sol1": "one", "sol2": "two", "label": 0}
    (folder / "piqa_validation.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"piqa_validation\.jsonl:1: half a surrogate pair;"):
        load_task_data(folder, "piqa")


# The gate


@pytest.fixture
def nothing_is_measured(monkeypatch):
    def measured(*_args, **_named):
        raise AssertionError("something was measured")

    monkeypatch.setattr(probing, "measure", measured)


@pytest.fixture
def words(jsonl, nothing_is_measured):
    """A text in which no document is long enough to score, of which nothing may be measured."""
    return jsonl("words.jsonl", ["e"] * 600)


@pytest.mark.parametrize("verb", [(), ("--update",), ("--add-cpu",)], ids=["gate", "update", "add-cpu"])
@pytest.mark.parametrize("metric", ["perplexity", "sentence_perplexity"])
def test_the_gate_measures_nothing_of_such_a_text(gated, words, refused, verb, metric):
    tmp_path = words.parent
    config = tmp_path / "gate.toml"
    config.write_text(f'text = "words.jsonl"\n[budgets]\n{metric} = {{ at_most = 1.1, of = "baseline" }}\n')
    baseline = shutil.copy(gated.baseline, tmp_path / "baseline.json")
    said = refused("gate", *gated.both, "--config", config, "--baseline", baseline, *verb)
    assert "words.jsonl: no " in said
    assert "is long enough to score; one must have" in said


def test_against_the_artifacts_of_a_base_neither(gated, words, refused):
    config = words.parent / "gate.toml"
    config.write_text('text = "words.jsonl"\nwindow = 24\n[budgets]\nperplexity = { at_most = 1.1, of = "baseline" }\n')
    assert "long enough" in refused("gate", *gated.both, "--config", config, "--against", gated.folder)


def test_a_row_is_called_what_its_folder_is_with_all_that_is_hidden_written_out(gated, asked, tmp_path):
    name = "int8 @me\u202e\x1b[31m"
    copy = shutil.copytree(gated.int8, tmp_path / name)
    budgets = {"disk_bytes": {"at_most": 1.1, "of": "baseline"}}
    made, _ = update([gated.fp32, copy], tmp_path / "gate.json", gated.plan(budgets), ONE)
    assert set(made.rows) == {"fp32", r"int8 @me\u202e\x1b[31m"}


def test_a_folder_whose_name_is_not_utf8_is_one_line(gated, refused, tmp_path):
    folder = tmp_path / "int8\udce9"
    try:
        shutil.copytree(gated.int8, folder)
    except OSError:
        pytest.skip("file names are UTF-8 here")
    config = gated.config(tmp_path / "gate.toml", '[budgets]\ndisk_bytes = { at_most = 1.1, of = "baseline" }\n')
    said = refused("gate", gated.fp32, folder, "--config", config, "--baseline", tmp_path / "b.json", "--update")
    assert r"int8\xe9: a path that is not UTF-8" in said


@pytest.mark.parametrize("verb", ["export", "quantize", "compare"])
def test_an_output_whose_name_is_not_utf8_is_one_line(stories, refused, tmp_path, nothing_is_built, verb):
    assert r"table\xe9: a path that is not UTF-8" in refused(verb, stories, "-o", tmp_path / "table\udce9")
