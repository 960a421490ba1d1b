from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qexport.core.artifact import load_artifact
from qexport.core.errors import InputError
from qexport.core.record import read_records
from qexport.measurement.answers import Apart
from tests import decoders
from tests.command import failure, qexport

TASK_DATA = Path(__file__).resolve().parent.parent / "data" / "tasks"
ORT = ("--engine", "ort")
DYNAMIC = ("--recipe", "int8-dynamic", *ORT)
WORDS = "The fox jumps over the lazy dog and then the other dog comes back. The quick brown fox was there!"


@pytest.fixture(autouse=True)
def _at_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def art(fp32):
    return fp32("gpt2").path


@pytest.fixture
def model(tiny, tmp_path):
    """A tiny model that a test may break."""
    return shutil.copytree(tiny("gpt2"), tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What works


def test_export_nodes_quantize_one_after_the_other(tiny, tmp_path):
    exported = json.loads(qexport("export", tiny("gpt2"), "-o", tmp_path / "fp32", "--json").stdout)
    manifest = load_artifact(tmp_path / "fp32", verify=True).manifest
    assert exported == manifest.model_dump(mode="json", by_alias=True)
    assert (manifest.recipe, manifest.exporter, manifest.kind) == ("fp32", "fused", "onnx")
    assert (manifest.model.name, manifest.model.architecture) == ("gpt2", "gpt2")
    assert {"model.onnx", "config.json", "tokenizer.json"} <= {info.path for info in manifest.files}
    assert str(tiny("gpt2").parent) not in (tmp_path / "fp32" / "qexport.json").read_text()

    plan = json.loads(qexport("nodes", tmp_path / "fp32", "--nodes", "attention", "--json").stdout)
    assert [row["name"] for row in plan] == [
        f"transformer.h.{layer}.attn.{module}/MatMul" for layer in range(2) for module in ("c_attn", "c_proj")
    ]
    assert plan[0] | {"weight": ""} == {
        "name": "transformer.h.0.attn.c_attn/MatMul",
        "role": "attention",
        "weight": "",
        "shape": [32, 96],
        "parameters": 3072,
        "bytes_before": 12288,
        "bytes_after": 3072 + 96 * 5,
    }

    made = qexport("quantize", tmp_path / "fp32", "--nodes", "attention", *DYNAMIC, "-o", tmp_path / "int8", "--json")
    manifest = json.loads(made.stdout)
    assert [node["name"] for node in manifest["quantized"]] == [row["name"] for row in plan]
    assert made.stderr == ""
    assert load_artifact(tmp_path / "int8", verify=True).manifest.recipe == "int8-dynamic"


def test_without_json_a_person_reads_the_result(art, tmp_path):
    text = tmp_path / "calibration.txt"
    text.write_text(WORDS * 30)
    shown = qexport("-q", "quantize", art, *ORT, "--text", text, "-o", tmp_path / "out")
    assert "asked 11 nodes (2 embedding, 4 attention, 4 mlp, 1 lm-head), found quantized 11" in shown.stdout
    assert shown.stderr == ""
    plan = qexport("nodes", art).stdout
    assert "11 of 11 nodes" in plan
    assert "transformer.h.1.mlp.c_proj/MatMul" in plan


def test_nodes_of_a_quantized_artifact_have_forms(per_token_twin):
    artifact = per_token_twin(channels=True)
    shown = qexport("nodes", artifact.path).stdout
    kept = {node.name: node.float_channels for node in artifact.manifest.quantized}
    (line,) = (line for line in shown.splitlines() if "layers.0.mlp.up_proj" in line)
    name, *form, count = line.split()
    assert " ".join(form) == "mlp int8 per channel per token"
    assert int(count) == len(kept[name]) > 0
    assert shown.splitlines()[-1].split() == [f"{len(kept)}", "nodes", f"{sum(map(len, kept.values()))}"]

    rows = json.loads(qexport("nodes", artifact.path, "--json").stdout)
    assert {row["name"]: tuple(row["float_channels"]) for row in rows} == kept
    assert {row["role"] for row in rows} == {"embedding", "attention", "mlp", "lm-head"}


@pytest.mark.parametrize("words", [("--nodes", "mlp"), ("--recipe", "int8-static"), ("--exporter", "fused")])
def test_a_quantized_artifact_takes_no_other_choice_of_nodes(per_token_twin, words):
    path = per_token_twin(channels=True).path
    assert "is quantized already (int8-dynamic); start from an fp32 artifact" in failure("nodes", path, *words)


def test_compare_writes_the_report_and_prints_the_table(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluation.txt").write_text(WORDS)
    (tmp_path / "calibration.txt").write_text(WORDS.lower() * 3)
    (tmp_path / "tiny.toml").write_text(
        f'title = "A tiny table"\nmodel = "{tiny("gpt2")}"\nwindow = 16\nwindows = 2\nsentences = 2\n'
        'rows = [{recipe = "fp32"}, {recipe = "int8-dynamic"}]\n'
        'text = {evaluation = "evaluation.txt", calibration = "calibration.txt"}\n'
    )
    (tmp_path / "prompts.txt").write_text("The fox\n")
    prompts = ("--prompts", "prompts.txt", "--new-tokens", 4)
    result = qexport("compare", "tiny.toml", *ORT, "--rounds", 1, "--threads", 1, *prompts)
    folder = tmp_path / "runs" / "gpt2"
    names = {entry.name for entry in folder.iterdir()}
    assert {"report.md", "report.html", "records.jsonl"} < names
    assert len([name for name in names if name.endswith(".png")]) >= 2
    assert {record.row for record in read_records(folder / "records.jsonl")} == {"fp32", "int8-dynamic (all)"}
    assert "int8-dynamic" in result.stdout
    assert "report.html" in result.stdout
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["gpt2"]
    assert "exists" in failure("compare", "tiny.toml", *ORT)


def test_compare_measures_only_the_metrics_that_are_named(tiny, art, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "qexport.exporting.export_source",
        lambda _source, folder, _exporter: load_artifact(shutil.copytree(art, folder)),
    )
    (tmp_path / "tiny.toml").write_text(f'title = "T"\nmodel = "{tiny("gpt2")}"\nrows = [{{recipe = "fp32"}}]\n')
    given = ("compare", "tiny.toml", "-o", "out")
    told = qexport(*given, "--metrics", " disk_bytes,weight_bytes,disk_bytes", "--json").stdout.splitlines()
    assert [json.loads(line)["metric"] for line in told] == ["disk_bytes", "weight_bytes"]
    assert {record.metric for record in read_records(tmp_path / "out" / "records.jsonl")} >= {"disk_bytes"}
    for names, message in (
        ("disk_byte", "disk_byte: no such metric; did you mean disk_bytes"),
        ("", "no such metric"),
        ("disk_bytes,", "no such metric"),
    ):
        assert message in failure(*given, "--overwrite", "--metrics", names)


TOML = """
title = "A tiny table"
model = "nobody/nothing"
metrics = ["disk_bytes", "token_latency_s", "response_correct"]
rows = [{ recipe = "fp32" }, { recipe = "w8a16-rtn" }]
generation = { new_tokens = 3 }
session = { prompt = "Where is the fox?", expected = ["here"], max_tokens = 3 }
architecture = { model_type = "gpt2", n_embd = 64, n_layer = 2, n_head = 4, n_positions = 128, vocab_size = 1100 }
"""


def test_an_experiment_on_a_stand_in_then_on_from_its_records_then_merged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(TOML)
    done = qexport("compare", "mine.toml", "--stand-in", "--rounds", 1)
    folder = tmp_path / "runs" / "nothing-stand-in"
    assert "stand-in" in done.stdout
    assert f"report: runs/{folder.name}/report.html" in done.stdout
    first = read_records(folder / "records.jsonl")
    assert {record.model for record in first} == {"nothing-stand-in"}
    qexport("compare", "mine.toml", "--stand-in", "--rounds", 1, "--resume")
    assert read_records(folder / "records.jsonl") == first
    merged = qexport("report", folder, "-o", "both", "--json")
    assert [json.loads(line)["metric"] for line in merged.stdout.splitlines()] == [record.metric for record in first]
    assert (tmp_path / "both" / "report.html").is_file()
    assert "named twice" in failure("report", folder, folder, "-o", "again")


def test_version_help_and_usage():
    assert qexport("--version").stdout.startswith("qexport ")
    for verb in ("export", "nodes", "quantize", "compare", "eval"):
        assert "--overwrite" in qexport(verb, "--help").stdout or verb == "nodes"
    qexport("quantize", "model", code=2)  # without -o
    qexport("quantize", "model", "-o", "out", "--engine", "tensorrt", code=2)
    qexport("compare", "--rounds", "0", code=2)
    assert "--update" in qexport("gate", "--help").stdout
    qexport("gate", "artifact", code=2)  # without --baseline
    qexport("gate", "--baseline", "b.json", code=2)  # without artifacts
    qexport("eval", "artifact", code=2)  # without --tasks
    qexport("eval", "artifact", "--tasks", "piqa", "--num_fewshot", "-1", code=2)


def test_help_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qexport", "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numpy", "datasets", "pydantic"}


# Bad input: one line, exit code 3, nothing left


def drop(name):
    return lambda model: (model / name).unlink()


def no_tokenizer(model):
    for file in model.glob("*token*"):
        file.unlink()


def truncate(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def wrong_type(model):
    weights = load_file(model / "model.safetensors")
    save_file({name: array.astype(np.int32) for name, array in weights.items()}, model / "model.safetensors")


def with_nan(model):
    weights = load_file(model / "model.safetensors")
    weights[min(weights)].flat[0] = np.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def pickled(model):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def encoder(model):
    edit(model / "config.json", model_type="bert", architectures=["BertModel"])


def remote_code(model):
    edit(model / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Mine"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("config.json"), "config.json"),
        (no_tokenizer, "tokenizer"),
        (drop("model.safetensors"), "weights"),
        (truncate, "model.safetensors"),
        (wrong_type, "model.safetensors"),
        (with_nan, "NaN"),
        (pickled, "--allow-pickle"),
        (encoder, "bert"),
        (remote_code, "--trust-remote-code"),
    ],
)
@pytest.mark.parametrize("verb", ["export", "quantize"])
def test_a_model_that_cannot_be_used(model, tmp_path, verb, spoil, message):
    spoil(model)
    options = ORT if verb == "quantize" else ()
    assert message in failure(verb, model, "-o", tmp_path / "out", *options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt"),
        ("blank.txt", b" \n\n", "blank.txt"),
        ("short.txt", b"The fox.", "less than one window"),
        ("bad.jsonl", b'{"txt": "x"}\n', "bad.jsonl"),
        ("latin.txt", b"\xff\xfe\x00", "latin.txt"),
        ("absent.txt", None, "absent.txt"),
    ],
)
def test_calibration_text_that_cannot_be_used(art, tmp_path, name, content, message):
    text = tmp_path / name
    if content is not None:
        text.write_bytes(content)
    assert message in failure("quantize", art, *ORT, "--text", text, "-o", tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} <= {name}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "int8-statik"), "unknown recipe; did you mean int8-static"),
        (("--nodes", "atention", *ORT), "unknown role; did you mean attention?"),
        (("--nodes", "", *ORT), "unknown role"),
        (("--include", "transformer.h.0.attn.c_atn", *ORT), "did you mean transformer.h.0.attn.c_attn"),
        (("--include", "[a", *ORT), "not a regular expression"),
        (("--nodes", "attention", "--exclude", ".*", *ORT), "nothing is left to quantize"),
        (("--nodes", "@absent.txt", *ORT), "absent.txt: cannot be read"),
        (("--recipe", "bnb-nf4", "--nodes", "attention"), "leave --nodes out"),
        (("--method", "mse", *DYNAMIC), "for static activations"),
        (("--text", "a.txt", "--dataset", "b:c"), "give one of the two"),
        (("--recipe", "fp32"), "use `qexport export`"),
    ],
)
def test_words_that_mean_nothing_here(art, tmp_path, words, message):
    assert message in failure("quantize", art, *words, "-o", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_kept_unless_told(art, tmp_path):
    out = tmp_path / "out"
    qexport("quantize", art, *DYNAMIC, "--nodes", "mlp", "-o", out)
    before = (out / "qexport.json").read_bytes()
    assert "--overwrite" in failure("quantize", art, *DYNAMIC, "-o", out)
    assert (out / "qexport.json").read_bytes() == before
    qexport("quantize", art, *DYNAMIC, "-o", out, "--overwrite")
    assert len(load_artifact(out, verify=True).manifest.quantized) == 11
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    assert "not an artifact" in failure("quantize", art, *DYNAMIC, "-o", tmp_path / "mine", "--overwrite")
    assert (tmp_path / "mine" / "diary.txt").exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"out", "mine"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda art: (art / "qexport.json").write_text("{"), "corrupt manifest"),
        (lambda art: edit(art / "qexport.json", schema=99), "corrupt manifest"),
        (lambda art: (art / "model.onnx").write_bytes((art / "model.onnx").read_bytes()[:-1] + b"?"), "altered"),
        (lambda art: (art / "model.onnx").unlink(), "missing"),
    ],
)
@pytest.mark.parametrize("verb", ["nodes", "quantize"])
def test_an_artifact_that_was_spoiled(art, tmp_path, verb, spoil, message):
    copy = shutil.copytree(art, tmp_path / "art")
    spoil(copy)
    options = (*DYNAMIC, "-o", tmp_path / "out") if verb == "quantize" else ()
    assert message in failure(verb, copy, *options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["art"]


def test_inc_that_is_not_installed_says_how(art, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "neural_compressor", None)
    assert "pip install 'qexport[inc]', or choose --engine ort" in failure("quantize", art, "-o", tmp_path / "out")
    assert "qexport[inc]" in failure("compare", art, "-o", tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_compare_refuses_what_it_cannot_measure(tiny, tmp_path):
    from qexport.core import cuda

    text = tmp_path / "text.txt"
    text.write_text(WORDS * 30)
    options = ("-o", tmp_path / "report", *ORT)
    both = ("--text", text, "--calibration-text", text)
    assert "documents are in both" in failure("compare", tiny("gpt2"), *options, *both)
    if not cuda.device_names():
        assert "--provider cuda" in failure("compare", tiny("gpt2"), *options, "--provider", "cuda")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.txt"]


# Benchmarks


@pytest.fixture
def planned(monkeypatch):
    """What an evaluation was asked to do, which then is not done."""
    from qexport import comparison

    told = {}

    def evaluate(paths, names, folder, **named):
        told.update(paths=paths, names=names, folder=folder, **named)
        raise InputError("enough")

    monkeypatch.setattr(comparison, "evaluate_artifacts", evaluate)
    return told


def test_eval_takes_lm_evals_options_with_its_underscores_or_with_dashes(planned):
    options = {
        "--tasks": "piqa, arc_easy",
        "--data": "mine",
        "--num_fewshot": 2,
        "--limit": 0.5,
        "--apply_chat_template": None,
        "--fewshot_as_one_turn": None,
        "--system_instruction": "Think_twice --now.",
        "--gen_kwargs": "max_gen_toks=8,until=a_b",
        "--batch_size": 4,
        "--seed": 5,
        "--threads": 1,
        "--overwrite": None,
    }
    words = [word for name, value in options.items() for word in (name, value) if word is not None]
    assert failure("eval", "my_model", "other", *words) == "qexport: enough\n"
    first = dict(planned)
    assert first["paths"] == [Path("my_model"), Path("other")]
    assert (first["names"], first["folder"]) == (["piqa", "arc_easy"], Path("runs/my_model-eval"))
    assert first["plan"].model_dump() == {
        "data": Path("mine"),
        "num_fewshot": 2,
        "limit": 0.5,
        "apply_chat_template": True,
        "fewshot_as_multiturn": False,
        "system_instruction": "Think_twice --now.",
        "gen_kwargs": {"max_gen_toks": 8, "until": "a_b"},
        "seed": 5,
    }
    assert (first["options"].threads, first["options"].rows, first["overwrite"]) == (1, 4, True)
    words = [word.replace("_", "-") if word in options else word for word in words]
    assert failure("eval", "my_model", "other", *words) == "qexport: enough\n"
    assert planned == first


def test_eval_leaves_what_is_not_said_to_lm_evals_defaults(planned):
    failure("eval", "model", "--tasks", "piqa", "-o", "mine", "--resume")
    plan, options = planned["plan"], planned["options"]
    assert (plan.data, plan.num_fewshot, plan.limit, plan.seed) == (None, None, None, 1234)
    assert (plan.apply_chat_template, plan.fewshot_as_multiturn, plan.gen_kwargs) == (False, True, {})
    assert (planned["folder"], options.resume, planned["overwrite"]) == (Path("mine"), True, False)
    assert (options.provider, options.threads, options.rows) == ("cpu", None, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "arc_esy"), "arc_esy: no such task here; did you mean arc_easy"),
        (("--tasks", "piqa,arc_easy,piqa"), "piqa: is there twice; leave one out"),
        (("--tasks", "piqa,"), "no such task"),
        (("--batch-size", "x"), "--batch-size x: neither auto nor a number above zero; correct it"),
        (("--batch_size", "0"), "--batch-size 0: neither auto nor a number above zero; correct it"),
        (("--gen-kwargs", "max_gen_toks"), "--gen-kwargs max_gen_toks: 'max_gen_toks' is not KEY=VALUE"),
        (("--data", "absent"), "absent: no folder that can be listed"),
        (("--data", "."), "gsm8k: no file for it in .;"),
        (("--num_fewshot", "9"), "gsm8k: 9 examples are asked for and there are only 8"),
        (("--apply_chat_template", "--gen-kwargs", "max_gen_toks=8"), "no chat template; leave --apply-chat-template"),
        ((), "256 new tokens do not fit into the model's context of 64; "),
        ((), "--gen-kwargs max_gen_toks=N"),
        (("--gen-kwargs", "max_gen_toks=8,do_sample=true"), "asks for sampling, and qexport generates greedily"),
        (("--gen-kwargs", "max_gen_toks=8,do_sample=True,temperature=0.5"), "asks for sampling"),
        (("--gen-kwargs", "max_gen_toks=abc"), "max_gen_toks"),
        (("--gen-kwargs", "max_gen_toks=0"), "max_gen_toks"),
        (("--tasks", "piqa", "--gen-kwargs", "max_gen_toks=8"), "--gen-kwargs: has no effect, since no task generates"),
        (("--fewshot-as-one-turn",), "--fewshot-as-one-turn: has no effect without --apply-chat-template"),
    ],
)
def test_eval_of_what_cannot_be_asked(art, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Apart, "_ask", lambda *_given: pytest.fail("it was asked"))
    default = {"--tasks": "gsm8k", "--data": TASK_DATA}
    given = [word for name, value in default.items() if name not in words for word in (name, value)]
    assert message in failure("eval", art, *given, *words, "-o", "report")
    assert os.listdir(tmp_path) == []


def test_eval_takes_a_number_for_a_stop_word(art, tmp_path, monkeypatch):
    asked = []

    def ask(_self, question, _advance):
        asked.extend(question.prompts)
        raise InputError("enough")

    monkeypatch.setattr(Apart, "_ask", ask)
    words = ("--tasks", "gsm8k", "--data", TASK_DATA, "--gen-kwargs", "max_gen_toks=8,until=8")
    assert failure("eval", art, *words, "-o", tmp_path / "report") == "qexport: enough\n"
    assert {prompt.until for prompt in asked} == {("8", "<|endoftext|>")}


def test_eval_of_artifacts_of_two_models(art, tmp_path):
    other = decoders.save(tmp_path / "other", decoders.bigram(np.eye(3))).path
    line = failure("eval", art, other, "--tasks", "piqa", "-o", tmp_path / "report")
    assert "artifacts of several models, gpt2 and hand-made; evaluate each model by itself" in line
    assert os.listdir(tmp_path) == ["other"]


def test_eval_where_the_hub_cannot_be_reached(art, tmp_path):
    line = failure("eval", art, "--tasks", "hellaswag", "-o", tmp_path / "report")
    assert "hellaswag: its questions cannot be had from the hub" in line
    assert "--data" in line
    assert list(tmp_path.iterdir()) == []


def test_eval_that_is_interrupted_says_how_to_go_on(art, monkeypatch):
    from qexport import comparison

    monkeypatch.setattr(comparison, "evaluate_artifacts", lambda *_given, **_named: signal.raise_signal(signal.SIGINT))
    stopped = qexport("eval", art, "--tasks", "piqa", code=130)
    assert stopped.stderr == "qexport: interrupted; `--resume` goes on at the next request\n"
    assert stopped.stdout == ""


def plain(records):
    """Without the time when they were made."""
    return [record.model_copy(update={"run": ""}) for record in records]


@pytest.mark.slow
def test_eval_that_was_killed_goes_on_at_the_next_request(art, tmp_path, monkeypatch):
    sums = [json.loads(line) for line in (TASK_DATA / "gsm8k_test.jsonl").read_text().splitlines()]
    several = [row | {"question": f"{row['question']} Day {day}."} for day in range(8) for row in sums]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
    qexport("quantize", art, *DYNAMIC, "-o", tmp_path / "int8")
    words = ("eval", art, tmp_path / "int8", "--tasks", "gsm8k", "--data", tmp_path, "--num_fewshot", 0)
    words = (*words, "--gen-kwargs", "max_gen_toks=12", "--threads", 1)
    folder = tmp_path / "report"

    process = start(*words, "--batch-size", 1, "-o", folder)
    answers = folder.with_name("report.answers") / f"{load_artifact(art).sha256}.jsonl"
    wait_for_answers(process, answers)
    process.kill()
    process.communicate(timeout=60)
    size = -1
    while size != (size := answers.stat().st_size):  # the child hears of it, and ends
        time.sleep(0.5)
    done = answers.read_bytes().count(b"\n") - 1
    with answers.open("ab") as handle:
        handle.write(b'{"key":"half a li')
    assert sorted(os.listdir(tmp_path)) == ["gsm8k.jsonl", "int8", "report.answers"]
    line = failure(*words, "-o", folder)
    assert "holds records of a run that was cut short; go on with --resume, or start anew with --overwrite" in line

    asked = []
    real = Apart._ask
    monkeypatch.setattr(Apart, "_ask", lambda self, q, tell: asked.append(len(q.prompts)) or real(self, q, tell))
    shown = qexport(*words, "--resume", "-o", folder)
    assert "GSM8K" in shown.stdout
    assert str(folder / "report.html") in shown.stdout
    assert shown.stderr == ""
    assert sorted(os.listdir(tmp_path)) == ["gsm8k.jsonl", "int8", "report"]

    whole = qexport(*words, "-o", tmp_path / "whole", "--json").stdout
    rest, *all_of_them = asked
    assert all_of_them == [96, 96, 96]
    assert rest == 96 - done
    assert 1 < done < 96
    records = read_records(folder / "records.jsonl")
    assert plain(records) == plain(read_records(tmp_path / "whole" / "records.jsonl"))
    assert [json.loads(line)["metric"] for line in whole.splitlines()] == [record.metric for record in records]
    assert {(record.row, len(record.samples)) for record in records} == {("fp32", 96), ("int8-dynamic (all)", 96)}


def wait_for_answers(process, path):
    for _ in range(6000):
        if path.is_file() and path.read_bytes().count(b"\n") > 2:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    pytest.fail("nothing was answered")


# Interruptions


def test_an_interrupt_that_a_compiled_module_turns_into_an_import_error(monkeypatch):
    from qexport import quantization

    def importing(*_given, **_named):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(quantization, "plan", importing)
    assert qexport("nodes", "model", code=130).stderr == "qexport: interrupted; nothing was changed\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_fault_of_qexport_itself_is_one_line_and_no_failed_gate(monkeypatch):
    from qexport import quantization

    monkeypatch.setattr(quantization, "plan", lambda *_given, **_named: 1 / 0)
    result = qexport("nodes", "model", code=70)
    assert result.stdout == ""
    assert "a fault of qexport itself, ZeroDivisionError: division by zero" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("Failed to allocate memory"),
        ImportError("failed to map segment"),
    ],
)
def test_memory_that_ran_out_is_one_line(monkeypatch, error):
    from qexport import quantization

    def plan(*_given, **_named):
        raise error

    monkeypatch.setattr(quantization, "plan", plan)
    assert "memory ran out" in failure("nodes", "model")


def start(*words, **named):
    command = [sys.executable, "-m", "qexport", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named)


def wait_for_draft(process, folder):
    """Wait until the command is filling the hidden folder beside its output."""
    for _ in range(1200):
        if list(folder.glob(".out.new-*")):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    pytest.fail("the command never began to write")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_in_the_middle_leaves_the_old_artifact(art, tmp_path, sent):
    out = tmp_path / "out"
    qexport("quantize", art, *DYNAMIC, "--nodes", "mlp", "-o", out)
    before = (out / "qexport.json").read_bytes()
    process = start("quantize", art, *ORT, "-o", out, "--overwrite")
    wait_for_draft(process, tmp_path)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert (out / "qexport.json").read_bytes() == before
    load_artifact(out, verify=True)
    if sent == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        qexport("quantize", art, *DYNAMIC, "-o", out, "--overwrite")  # sweeps up
    else:
        # Python kills itself with the signal if it came inside exec(): a shell sees 130 either way.
        assert process.returncode in (130, -sent)
        assert stderr == "qexport: interrupted; nothing was changed\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line(art, tmp_path):
    def no_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing past the limit is then an error, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(
        "quantize", art, *DYNAMIC, "-o", tmp_path / "out", preexec_fn=no_room, env=os.environ | {"TMPDIR": "/tmp"}
    )
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (3, "")
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", ["-1", "0", "nan", "inf"])
@pytest.mark.parametrize("command", ["compare", "eval"])
def test_a_limit_that_is_no_number_of_questions(command, limit):
    result = qexport(command, "reference", "--tasks", "piqa", "--limit", limit, code=2)
    assert "not a number of questions" in result.stderr


def test_a_name_of_two_megabytes_is_cut():
    said = failure("quantize", "reference", "-o", "out", "--recipe", "a" * 2_000_000)
    assert len(said) < 1000


def test_a_name_does_not_steer_the_terminal():
    assert "\x1b" not in failure("quantize", "reference", "-o", "out", "--recipe", "\x1b[31mred")


def test_options_of_recipes_are_those_of_the_command_line():
    from typer.main import get_command

    from qexport.cli.app import app

    listed = {name.strip() for each in json.loads(qexport("recipes", "--json").stdout) for name in each["options"]}
    there = {
        word.lstrip("-")
        for each in get_command(app).commands["quantize"].params
        for word in (*each.opts, *each.secondary_opts)
    }
    assert {name.replace("_", "-") for name in listed} <= there
