from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from qexport.core.artifact import MANIFEST_NAME, load_artifact
from qexport.core.errors import InputError
from qexport.gating.bench import GateBench, GateOptions
from qexport.inputs.models import load_tokenizer, source_of
from qexport.inputs.text import load_text, make_sentences, make_windows
from tests import decoders
from tests.gated import NO_GRAPH, ON, ONE, QUESTIONS, write_text
from tests.measurement.tasks.conftest import changed
from tests.plants import fewer_merges

PERPLEXITY = {"perplexity": {"at_most": 1.1, "of": "baseline"}}
SENTENCES = {"sentence_perplexity": {"at_most": 1.1, "of": "baseline"}}
SIZES = {"disk_bytes": {"at_most": 1.1, "of": "baseline"}}


@pytest.fixture
def bench(gated):
    """A bench of both artifacts with some budgets."""

    def make(budgets=PERPLEXITY, *, paths=None, options=ONE, **settings):
        return GateBench(paths or gated.both, gated.plan(budgets, **settings), options)

    return make


def refused(message, *given, **named):
    with pytest.raises(InputError, match=message) as caught:
        GateBench(*given, **named)
    assert "\n" not in str(caught.value)


# Which artifacts


def test_rows_are_named_by_their_folders(gated, bench, monkeypatch):
    assert bench().names == ("fp32", "int8")
    assert (bench().fp32, bench().model, bench().problems) == ("fp32", "gpt2", {})
    assert [bench().recipe(name) for name in ("fp32", "int8", "absent")] == ["fp32", "int8-dynamic", ""]
    monkeypatch.chdir(gated.int8)
    assert bench(paths=[Path(), Path("../fp32")]).names == ("int8", "fp32")


def test_two_artifacts_of_one_name_cannot_be_told_apart(gated, tmp_path):
    copy = shutil.copytree(gated.int8, tmp_path / "other" / "int8")
    plan = gated.plan(PERPLEXITY)
    refused("int8: two artifacts are in folders of this name", [*gated.both, copy], plan, ONE)
    refused("int8: two artifacts are in folders of this name", [gated.int8, gated.int8], plan, ONE)
    refused("absent: two artifacts", [tmp_path / "absent", tmp_path / "a" / ".." / "absent"], plan, ONE)


def test_only_one_fp32_divides(gated, tmp_path):
    copy = shutil.copytree(gated.fp32, tmp_path / "again")
    refused("fp32 and again are both fp32; give the one", [*gated.both, copy], gated.plan(PERPLEXITY), ONE)


def test_artifacts_of_two_models_do_not_stand_side_by_side(gated, tmp_path):
    other = decoders.save(tmp_path / "other", decoders.bigram(np.eye(3)))
    message = "artifacts of several models, gpt2 and hand-made; gate each model by itself"
    refused(message, [gated.int8, other.path], gated.plan(PERPLEXITY), ONE)


def altered(folder):
    """One bit of the weights."""
    path = max(folder.glob("model.onnx*"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(folder):
    path = max(folder.glob("model.onnx*"), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])


def without(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (altered, "altered since its manifest was written"),
        (truncated, "altered since its manifest was written"),
        (without("model.onnx"), "named in the manifest but missing"),
        (without("tokenizer.json"), "named in the manifest but missing"),
        (without(MANIFEST_NAME), "not an artifact"),
        (lambda folder: (folder / MANIFEST_NAME).write_text("{"), "corrupt manifest"),
        (shutil.rmtree, "not an artifact"),
    ],
)
def test_what_is_wrong_with_an_artifact_is_kept_and_is_no_error(gated, bench, tmp_path, spoil, reason):
    copy = shutil.copytree(gated.int8, tmp_path / "int8")
    spoil(copy)
    found = bench(paths=[gated.fp32, copy])
    assert list(found.problems) == ["int8"]
    assert reason in found.problems["int8"]
    assert found.names == ("fp32", "int8")
    assert list(found.artifacts) == ["fp32"]


def test_what_cannot_be_read_at_all_leaves_no_model(bench, tmp_path):
    found = bench(paths=[tmp_path / "a", tmp_path / "b"])
    assert (found.model, found.fp32, list(found.problems)) == ("", None, ["a", "b"])
    found.take({"perplexity": ["a", "b"]})
    assert found.records == {}


# What they are fed


def test_text_is_read_only_where_something_is_fed_of_it(gated, tmp_path):
    absent = {"text": tmp_path / "absent.txt", "prompts": tmp_path / "absent.txt"}
    GateBench(gated.both, gated.plan(SIZES, **absent), ONE)
    for budgets in (PERPLEXITY, SENTENCES, {"latency_s": {"at_most": 1.1, "of": "fp32"}}):
        refused(r"absent\.txt", gated.both, gated.plan(budgets, text=tmp_path / "absent.txt"), ONE)
    speeds = {"tokens_per_s": {"at_least": 0.9, "of": "fp32"}}
    GateBench(gated.both, gated.plan(speeds, text=tmp_path / "absent.txt"), ONE)
    refused(r"absent\.txt", gated.both, gated.plan(speeds, prompts=tmp_path / "absent.txt"), ONE)


def test_windows_and_sentences_are_all_of_the_text(gated, bench):
    found = bench(PERPLEXITY | SENTENCES)
    text, tokenizer = load_text(gated.text), load_tokenizer(source_of(found.artifacts["fp32"]))
    windows = make_windows(text, tokenizer, window=24, limit=None)
    sentences = make_sentences(text, tokenizer, limit=None)
    for name in found.names:
        assert found.tokens(name, "perplexity").sha256 == windows.sha256
        assert found.tokens(name, "sentence_perplexity").sha256 == sentences.sha256
    assert found.tokens("fp32", "perplexity") is found.tokens("int8", "perplexity")  # made once
    feed = found.feed("int8", "perplexity")
    assert feed == found.feed("fp32", "perplexity")
    assert (feed.text, feed.sequence, feed.sha256) == ("text.txt", "windows of at most 24 tokens", windows.sha256)
    assert feed.tokens == tuple(len(sequence) - 1 for sequence in windows.sequences)


def test_a_window_is_cut_to_the_context(bench):
    assert bench(window=512).tokens("fp32", "perplexity").description == "windows of at most 64 tokens"


def test_another_tokenizer_makes_other_tokens(gated, bench, tmp_path):
    other = changed(load_artifact(gated.int8), tmp_path / "int8", fewer_merges)
    found = bench(paths=[gated.fp32, other.path])
    assert found.problems == {}
    assert found.feed("fp32", "perplexity").sha256 != found.feed("int8", "perplexity").sha256


@pytest.mark.parametrize(
    ("options", "windows", "lengths"),
    [
        (ONE, None, (34,)),
        (ONE, 4, (4,)),
        (ONE, 34, (34,)),
        (ONE, 500, (34,)),
        (ON, None, (34,)),
        (ON, 4, (4, 8, 16, 32, 34)),
        (ON, 17, (17, 34)),
        (ON, 33, (33, 34)),
        (ON, 34, (34,)),
        (ON, 1, (1, 2, 4, 8, 16, 32, 34)),
    ],
)
def test_twice_as_much_at_each_look_up_to_all_of_the_text(bench, options, windows, lengths):
    found = bench(options=options, windows=windows)
    assert found.lengths("int8", "perplexity") == lengths


def test_sentences_have_looks_of_their_own(bench):
    found = bench(PERPLEXITY | SENTENCES, options=ON, windows=30, sentences=10)
    assert found.lengths("int8", "perplexity") == (30, 34)
    assert found.lengths("int8", "sentence_perplexity") == (10, 20, 32)


# Measuring


def test_what_comes_at_the_next_look_is_appended(bench, asked):
    found = bench(options=ON, windows=9)
    wanted = {"perplexity": ["fp32", "int8"]}
    found.take(wanted, 0)
    first = found.records["int8", "perplexity"].samples
    assert (len(first), found.has_more(1)) == (9, True)
    found.take({"perplexity": ["int8"]}, 1)
    found.take({"perplexity": ["int8"]}, 2)
    assert found.has_more(2)
    assert not found.has_more(3)
    found.take({"perplexity": ["int8"]}, 3)  # there is no more
    assert asked == [
        *[("fp32", "perplexity", 9), ("int8", "perplexity", 9)],
        *[("int8", "perplexity", 9), ("int8", "perplexity", 16)],
    ]
    pieces = found.records["int8", "perplexity"].samples
    assert pieces[:9] == first
    assert len(found.records["fp32", "perplexity"].samples) == 9

    whole = bench()
    whole.take(wanted)
    assert asked[4:] == [("fp32", "perplexity", 34), ("int8", "perplexity", 34)]
    assert whole.records["int8", "perplexity"].samples == pieces
    assert [round(nll, 4) for nll, _ in pieces] == [nll for nll, _ in pieces]
    assert tuple(count for _, count in pieces) == whole.feed("int8", "perplexity").tokens


def test_only_what_is_wanted_is_measured(bench, asked):
    found = bench(PERPLEXITY | SIZES)
    found.take({"perplexity": ["int8"], "weight_bytes": [], "disk_bytes": ["fp32"]})
    assert asked == [("int8", "perplexity", 34), ("fp32", "files", 0)]
    assert list(found.records) == [("int8", "perplexity"), ("fp32", "disk_bytes")]
    assert found.records["fp32", "disk_bytes"].samples == ((found.artifacts["fp32"].disk_bytes,),)


def test_what_ran_is_told(bench, asked):
    found = bench()
    assert found.ran("int8").providers == ()
    found.take({"perplexity": ["fp32", "int8"]})
    ran = found.ran("int8")
    assert ran.providers == ("cpu",)
    assert ran.runtime.startswith("onnxruntime ")
    named = sum(node.activation != "none" for node in found.artifacts["int8"].manifest.quantized)
    assert ran.kernels == {"integer_matmuls": named}
    assert found.ran("fp32").kernels == {}


def test_what_cannot_be_measured_is_kept_with_its_reason(gated, bench, tmp_path):
    """The manifest agrees with the files, and ONNX Runtime does not."""
    broken = changed(
        load_artifact(gated.int8), tmp_path / "int8", lambda folder: (folder / "model.onnx").write_bytes(NO_GRAPH)
    )
    found = bench(PERPLEXITY | SENTENCES, paths=[gated.fp32, broken.path])
    assert found.problems == {}
    found.take({"perplexity": ["int8"], "latency_s": ["int8"]})
    record = found.records["int8", "perplexity"]
    assert "cannot load it" in record.skipped
    assert record.recipe == "int8-dynamic"
    # It would be timed for nothing.
    assert "was not timed" in found.records["int8", "latency_s"].skipped
    assert found.ran("int8").providers == ()


def test_a_tokenizer_that_cannot_be_used_is_kept_as_a_reason(gated, bench, tmp_path):
    broken = changed(
        load_artifact(gated.int8), tmp_path / "int8", lambda folder: (folder / "tokenizer.json").write_text("{}")
    )
    found = bench(paths=[broken.path])
    found.take({"perplexity": ["int8"]})
    assert found.records["int8", "perplexity"].skipped


def test_a_text_that_is_too_short_is_a_reason(bench, tmp_path, asked):
    found = bench(text=write_text(tmp_path / "short.txt", documents=1))
    found.take({"perplexity": ["int8"]})
    assert "less than one window" in found.records["int8", "perplexity"].skipped
    assert asked == []


def test_times_are_taken_in_turn(bench, asked):
    found = bench({"latency_s": {"at_most": 1.1, "of": "fp32"}}, sentences=2, rounds=2)
    found.take({"latency_s": ["fp32", "int8"]})
    assert asked == [(name, "sentences", 2) for name in ("fp32", "int8", "fp32", "int8")]
    assert [len(found.records[name, "latency_s"].samples) for name in found.names] == [4, 4]


def test_memory_is_measured_once_a_row(bench, asked):
    found = bench({"peak_rss_bytes": {"at_most": 1.1, "of": "fp32"}}, sentences=2, rounds=3)
    found.take({"peak_rss_bytes": ["fp32", "int8"]})
    assert asked == [("fp32", "resident memory", 2), ("int8", "resident memory", 2)]
    assert list(found.records) == [("fp32", "peak_rss_bytes"), ("int8", "peak_rss_bytes")]
    assert all(record.samples[0][0] > 1e6 for record in found.records.values())


def test_questions_that_are_away_are_a_reason(bench, tmp_path):
    budgets, wanted = {"piqa_acc": {"at_least": 0.9, "of": "fp32"}}, {"piqa_acc": ["fp32", "int8"]}
    found = bench(budgets, tasks={"data": None})
    found.take(wanted)
    assert [name for name, _ in found.records] == ["fp32", "int8"]
    for record in found.records.values():
        assert record.skipped.startswith("piqa: its questions cannot be had from the hub")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="piqa: no file for it in "):  # which is the user's to correct
        bench(budgets, tasks={"data": tmp_path / "none"}).take(wanted)


def test_both_metrics_of_a_task_are_of_the_same_answers(bench, asked, memory):
    budgets = {name: {"at_least": 0.9, "of": "fp32"} for name in ("piqa_acc", "piqa_acc_norm")}
    found = bench(budgets)
    found.take({"piqa_acc": ["int8"], "piqa_acc_norm": ["int8"]})
    assert list(found.records) == [("int8", "piqa_acc"), ("int8", "piqa_acc_norm")]
    feed = found.feed("int8", "piqa_acc")
    assert feed == found.feed("int8", "piqa_acc_norm")
    assert feed.text == "piqa_validation.jsonl"
    assert feed.sha256
    assert feed.plan_sha256
    assert QUESTIONS.is_dir()


def test_options_of_a_gate():
    assert GateOptions() == GateOptions(provider="cpu", threads=None, add_windows=False)
