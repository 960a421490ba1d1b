from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.measuring import STEPS, Quality, time_all
from benchmarks.peers.page import write_page
from benchmarks.peers.programs import calibration, gguf_floats
from benchmarks.peers.rows import BASELINE, PROGRAMS, ROWS, SOURCES, Row
from benchmarks.peers.runner import Runner
from benchmarks.peers.texts import Windows
from benchmarks.peers.workshop import Skipped, Workshop

PEERS = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"
FILES = {"gguf", "hf", "calibration"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_row_names_what_exists(row):
    made = [word for commands in SOURCES.values() for command in commands for word in command]
    named = {name for word in [*row.make, row.folder, *made] for name in re.findall(r"(?<!{){(\w+)}(?!})", word)}
    assert named <= {*FILES, *SOURCES, "out"}
    assert (PEERS / "programs" / f"{row.program}.py").is_file()
    for client in {row.made_in, PROGRAMS[row.program]} - {""}:
        assert (PEERS / "clients" / f"{client}.txt").is_file()
    for word in row.make:
        if word.startswith("benchmarks.peers.programs."):
            assert (PEERS / "programs" / f"{word.rpartition('.')[2]}.py").is_file()


def test_labels_are_different():
    assert len({row.label for row in ROWS}) == len(ROWS)


def test_workshop_makes_a_source_once_and_skips_with_the_reason(tmp_path):
    script = "import pathlib, sys; pathlib.Path(sys.argv[1], 'model.gguf').write_text(sys.argv[2])"
    workshop = Workshop(tmp_path, {"gguf": Path("here")})
    folder, _ = workshop.make(Row(tool="a", settings="b", make=("-c", script, "{out}", '{{"of": 1}} {gguf}')))
    assert (folder / "model.gguf").read_text() == '{"of": 1} here'
    with pytest.raises(Skipped, match=r"ValueError: no weights \(exit code 1\)"):
        workshop.make(Row(tool="a", settings="c", make=("-c", "raise ValueError('no weights')")))
    with pytest.raises(Skipped, match="client absent is not installed"):
        workshop.make(Row(tool="a", settings="d", make=("-c", ""), made_in="absent"))


@pytest.fixture
def windows(tmp_path):
    sequences = tuple(np.random.default_rng(0).integers(0, 20, (2, 24)))
    file = tmp_path / "windows.npy"
    array = np.empty(2, object)
    array[:] = list(sequences)
    np.save(file, array)
    return Windows(name="bundled", sequences=sequences, file=file)


@pytest.fixture
def runner(fp32, tmp_path):
    found = Runner("session", fp32("llama").path, tmp_path / "runner.log")
    yield found
    found.close()


def test_baseline_is_at_no_distance_from_itself(runner, windows, tmp_path):
    quality = Quality([windows], tmp_path)
    first, second = quality.score(runner)["bundled"], quality.score(runner)["bundled"]
    assert first == second
    assert first["tokens"] == [23, 23]
    assert max(first["kl_nats"]) < 1e-9
    assert runner.peak_rss_bytes > 0


def test_model_that_ends_drops_out_with_the_reason(runner, windows):
    os.kill(runner.pid, signal.SIGKILL)
    ((_, found),) = time_all({"row": runner}, np.resize(windows.sequences[0], 64 + STEPS + 1))
    assert "exit code" in found["skipped"]


def test_model_that_does_not_load_is_skipped(tmp_path):
    with pytest.raises(Skipped, match="exit code 1"):
        Runner("session", tmp_path, tmp_path / "runner.log")


def test_gguf_file_in_floats_has_the_same_values(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_token_list(["a", "b"])
    writer.add_block_count(1)
    writer.add_tensor("output.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "small.gguf"), str(tmp_path / "floats.gguf")])
    gguf_floats.main()
    read = gguf.GGUFReader(tmp_path / "floats.gguf")
    assert read.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    assert read.fields["llama.block_count"].contents() == 1
    expected = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(read.tensors[0].data, expected)


def test_calibration_feeds_have_a_past(exported, windows):
    graph = exported("llama", "optimum").onnx_path
    first, second = calibration.feeds(graph, windows.file)
    assert first["input_ids"].tolist() == [windows.sequences[0][calibration.PAST_TOKENS :].tolist()]
    assert first["attention_mask"].shape == (1, 24)
    pasts = [value for name, value in second.items() if name.startswith("past_key_values")]
    assert pasts
    assert {value.shape[2] for value in pasts} == {calibration.PAST_TOKENS}


def record(tool, settings, *, kl, megabytes):
    quality = {"bundled": {"nll_nats": [2.0 + kl, 3.0 + kl], "kl_nats": [kl, kl], "tokens": [2, 3]}}
    return {
        "row": f"{tool} {settings}",
        "tool": tool,
        "settings": settings,
        "version": f"{tool} 1",
        "made_s": 2.0,
        "model_bytes": megabytes * 1e6,
        "peak_rss_bytes": 3e8,
        "quality": quality,
    }


def times(label, seconds):
    return {"times": label, "sentence_s": [seconds] * 3, "token_s": [seconds] * 3, "share_of_others": 0.01}


def test_page_says_where_a_peer_wins(tmp_path):
    run = {
        "date": "2026-11-29",
        "cpu": "CPU",
        "isa": ["avx2"],
        "cores": 2,
        "system": "Linux",
        "python": "3.11",
        "versions": {"onnxruntime": "1.31.1"},
        "windows": {"bundled": [2, 256]},
    }
    lines = [
        {"run": run},
        record("qexport", BASELINE.settings, kl=0.0, megabytes=540),
        record("qexport", "w8", kl=0.01, megabytes=150),
        record("quick", "int8", kl=0.02, megabytes=140),
        record("poor", "int8", kl=0.5, megabytes=160),
        {"row": "gone int4", "skipped": "the client gone is not installed"},
        {"load_before": [0.5, 0, 0]},
        times(BASELINE.label, 0.4),
        times("qexport w8", 0.3),
        times("quick int8", 0.1),
        times("poor int8", 0.35),
        {"load_after": [0.75, 0, 0]},
    ]
    records = tmp_path / "records.jsonl"
    records.write_text("\n".join(map(json.dumps, lines)))
    write_page(records, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "* Closest to fp32: **qexport w8**, 0.0040 nats." in page
    assert "* Smallest files: **quick int8**, 140.0 MB; the best of qexport is w8, 150.0 MB." in page
    assert "* **quick int8: no row of qexport beats it**." in page
    assert "* poor int8: beaten by qexport w8." in page
    assert "* gone int4: skipped: the client gone is not installed." in page
    assert "| qexport | w8 | qexport 1 | 0.75 [0.75, 0.75] | 0.75 [0.75, 0.75] | 300 | 2 |" in page
