from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from qexport.artifact import load_artifact
from qexport.cli import app
from qexport.record import read_records

ORT = ("--engine", "ort")
DYNAMIC = ("--recipe", "int8-dynamic", *ORT)
WORDS = "The fox jumps over the lazy dog and then the other dog comes back. The quick brown fox was there!"


@pytest.fixture(autouse=True)
def _at_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))


def qexport(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def failure(*words):
    """The one line that a command says when it fails with exit code 3, and nothing on stdout."""
    result = qexport(*words, code=3)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("qexport: ")
    return result.stderr


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
    for verb in ("export", "nodes", "quantize", "compare"):
        assert "--overwrite" in qexport(verb, "--help").stdout or verb == "nodes"
    qexport("quantize", "model", code=2)  # without -o
    qexport("quantize", "model", "-o", "out", "--engine", "tensorrt", code=2)
    qexport("compare", "--rounds", "0", code=2)


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
        (("--nodes", "@absent.txt", *ORT), "absent.txt: cannot read the list of nodes"),
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
    from qexport import cuda

    text = tmp_path / "text.txt"
    text.write_text(WORDS * 30)
    options = ("-o", tmp_path / "report", *ORT)
    both = ("--text", text, "--calibration-text", text)
    assert "documents are in both" in failure("compare", tiny("gpt2"), *options, *both)
    if not cuda.device_names():
        assert "--provider cuda" in failure("compare", tiny("gpt2"), *options, "--provider", "cuda")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.txt"]


# Interruptions


def test_an_interrupt_that_a_compiled_module_turns_into_an_import_error(monkeypatch):
    from qexport import pipeline

    def importing(*_given, **_named):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(pipeline, "plan", importing)
    assert qexport("nodes", "model", code=130).stderr == "qexport: interrupted; nothing was changed\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_defect_is_not_dressed_up(monkeypatch):
    from qexport import pipeline

    monkeypatch.setattr(pipeline, "plan", lambda *_given, **_named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        qexport("nodes", "model")


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
