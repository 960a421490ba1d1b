from __future__ import annotations

import json
import os
import re

import numpy as np
import onnx_ir as ir
import pytest

from qexport.core.errors import ContractError, InputError
from qexport.core.float_graph import FloatGraph
from qexport.core.selection import Role, weight_nodes
from qexport.inputs.text import TokenSet
from qexport.quantization import calibration
from qexport.quantization.calibration import METHODS, Entropy, MinMax, Mse, Percentile, calibrate
from qexport.quantization.numerics import histogram

LENGTHS = (40, 23, 9)


def tokens(seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    sequences = tuple(rng.integers(1, 380, length) for length in lengths)
    return TokenSet(kind="windows", origin="seeded", description="windows of at most 40 tokens", sequences=sequences)


def inputs(artifact):
    """The MatMul nodes of an artifact by module, with the name of the tensor that each multiplies."""
    model = ir.load(artifact.onnx_path)
    chosen = {node.name: node.module for node in weight_nodes(model) if node.role is not Role.EMBEDDING}
    return {chosen[node.name]: node.inputs[0].name for node in model.graph if node.name in chosen}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("QEXPORT_CACHE", str(folder))
    return folder


@pytest.fixture
def observed(monkeypatch):
    """How often text was really run."""
    calls = []
    real = calibration._observe
    monkeypatch.setattr(calibration, "_observe", lambda *given: calls.append(given) or real(*given))
    return calls


def torch_histograms(exported, modules, windows):
    """What a plain forward of each window feeds these modules, counted in the same way."""
    import torch

    from qexport.inputs.models import load_torch_model, locate_model

    model = load_torch_model(locate_model(exported.source))
    seen = {name: histogram.Histogram() for name in modules}

    def watch(name):
        return lambda _module, given: seen[name].add(given[0].numpy())

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in modules]
    with torch.no_grad():
        for window in windows:
            model(torch.from_numpy(window)[None])
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])  # mistral: a window longer than its sliding window
def test_ranges_are_those_of_a_plain_forward_in_torch(exported, fp32, name):
    artifact, text = fp32(name), tokens()
    tensors = inputs(artifact)
    plain = torch_histograms(exported(name), tensors, text.sequences)
    for method in (MinMax(), Percentile(percent=99.0)):
        ranges = calibrate(FloatGraph.read(artifact), list(tensors.values()), text, method)
        for module, tensor in tensors.items():
            width = 2 * plain[module].radius / histogram.BINS
            # A value that rounds to the next bin moves an end of a percentile by one bin, and few do.
            slack = width if isinstance(method, Percentile) else 1e-5 * plain[module].radius
            expected = method.range(plain[module])
            assert ranges[tensor] == (pytest.approx(expected[0], abs=slack), pytest.approx(expected[1], abs=slack))


@pytest.mark.parametrize(("chunk", "steps"), [(128, 0), (5, 0), (128, 39), (7, 8)])
def test_chunks_and_decode_steps_on_real_past_give_the_ranges_of_one_prefill(
    fp32, cache, monkeypatch, observed, *, chunk, steps
):
    artifact, text = fp32("llama"), tokens()
    tensors = list(inputs(artifact).values())
    monkeypatch.setattr(calibration, "PREFILL_CHUNK", 128)
    monkeypatch.setattr(calibration, "DECODE_STEPS", 0)
    whole = calibrate(FloatGraph.read(artifact), tensors, text, MinMax())
    monkeypatch.setattr(calibration, "PREFILL_CHUNK", chunk)
    monkeypatch.setattr(calibration, "DECODE_STEPS", steps)
    (cache / "ranges").rename(cache / "aside")
    stepped = calibrate(FloatGraph.read(artifact), tensors, text, MinMax())
    assert len(observed) == 2
    for tensor in tensors:
        assert stepped[tensor] == pytest.approx(whole[tensor], rel=1e-4, abs=1e-6)


def test_steps_without_past_would_give_other_ranges(fp32, cache, monkeypatch):
    artifact, text = fp32("llama"), tokens()
    tensors = list(inputs(artifact).values())
    right = calibrate(FloatGraph.read(artifact), tensors, text, MinMax())
    (cache / "ranges").rename(cache / "aside")
    monkeypatch.setattr(calibration.runtime, "present_to_past", lambda _outputs: None)
    wrong = calibrate(FloatGraph.read(artifact), tensors, text, MinMax())
    assert max(abs(wrong[tensor][1] / right[tensor][1] - 1) for tensor in tensors if right[tensor][1]) > 0.01


@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 128, 136, 137, 300])
def test_every_token_is_fed_exactly_once(length):
    window = np.arange(length)
    steps = calibration._steps(window)
    np.testing.assert_array_equal(np.concatenate(steps), window)
    assert all(0 < len(step) <= calibration.PREFILL_CHUNK for step in steps)
    assert [len(step) for step in steps[-calibration.DECODE_STEPS :]][-1:] == [1]


def test_each_method_gives_its_own_ranges(fp32):
    artifact, text = fp32("gpt2"), tokens()
    tensors = list(inputs(artifact).values())
    found = {name: calibrate(FloatGraph.read(artifact), tensors, text, method) for name, method in METHODS.items()}
    found["percentile"] = calibrate(FloatGraph.read(artifact), tensors, text, Percentile(percent=98.0))
    widths = {name: np.array([ranges[t][1] - ranges[t][0] for t in tensors]) for name, ranges in found.items()}
    for name in ("percentile", "entropy", "mse"):
        assert np.all(widths[name] <= widths["minmax"] * (1 + 1e-6))
    assert np.all(widths["percentile"] < widths["minmax"] * 0.99)


def test_the_same_question_is_answered_from_the_cache(fp32, cache, observed):
    artifact, tensors = fp32("gpt2"), list(inputs(fp32("gpt2")).values())
    first = calibrate(FloatGraph.read(artifact), tensors, tokens(), MinMax())
    again = calibrate(FloatGraph.read(artifact), list(reversed(tensors)), tokens(), MinMax())
    assert (len(observed), again) == (1, first)
    assert [file.suffix for file in (cache / "ranges").iterdir()] == [".json"]


@pytest.mark.parametrize("changed", ["text", "method", "percent", "tensors", "model"])
def test_another_question_is_not(fp32, observed, changed):
    asked = {"parent": FloatGraph.read(fp32("gpt2")), "tensors": list(inputs(fp32("gpt2")).values())}
    asked |= {"tokens": tokens(), "method": Percentile(percent=99.0)}
    calibrate(**asked)
    other = {
        "text": {"tokens": tokens(seed=1)},
        "method": {"method": Entropy()},
        "percent": {"method": Percentile(percent=98.0)},
        "tensors": {"tensors": asked["tensors"][1:]},
        "model": {"parent": FloatGraph.read(fp32("llama")), "tensors": list(inputs(fp32("llama")).values())},
    }[changed]
    calibrate(**asked | other)
    assert len(observed) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"1",
        b"{}",
        b'{"NAME": [1]}',
        b'{"NAME": ["a", 1]}',
        b'{"NAME": [NaN, 1]}',
        b'{"NAME": [2, 3]}',
        b'{"NAME": [-1, Infinity]}',
    ],
)
def test_a_corrupt_cache_file_is_made_again(fp32, cache, observed, content):
    artifact, (tensor, *_) = fp32("gpt2"), inputs(fp32("gpt2")).values()
    first = calibrate(FloatGraph.read(artifact), [tensor], tokens(lengths=(9,)), MinMax())
    (file,) = (cache / "ranges").iterdir()
    file.write_bytes(content.replace(b"NAME", tensor.encode()))
    assert calibrate(FloatGraph.read(artifact), [tensor], tokens(lengths=(9,)), MinMax()) == first
    assert len(observed) == 2
    assert set(json.loads(file.read_text())) == {tensor}


def test_a_cache_that_cannot_be_written_is_no_error(fp32, cache, observed):
    cache.write_text("a file where the folder should be")
    artifact, tensors = fp32("gpt2"), list(inputs(fp32("gpt2")).values())
    first = calibrate(FloatGraph.read(artifact), tensors, tokens(lengths=(9,)), Mse())
    assert calibrate(FloatGraph.read(artifact), tensors, tokens(lengths=(9,)), Mse()) == first
    assert len(observed) == 2


def test_ranges_of_an_edited_graph_are_its_own(fp32, observed):
    artifact, text = fp32("gpt2"), tokens(lengths=(9,))
    name = "transformer.h.0.ln_1/LayerNormalization:0"

    def doubled(model):
        for end in ("weight", "bias"):
            value = model.graph.initializers[f"transformer.h.0.ln_1.{end}"]
            value.const_value = ir.tensor(value.const_value.numpy() * 2, name=value.name)

    plain = calibrate(FloatGraph.read(artifact), [name], text, MinMax())
    edits = [calibration.Edit(make=doubled, digest=digest) for digest in ("one", "one", "other")]
    for edit in edits:
        found = calibrate(FloatGraph.read(artifact), [name], text, MinMax(), edit=edit)
        assert found[name] == pytest.approx([2 * end for end in plain[name]], rel=1e-6)
    assert len(observed) == 3  # the second one is read from the cache


def test_a_sample_has_rows_of_all_windows_and_the_peaks_of_all_tokens(fp32, monkeypatch):
    artifact, text = fp32("llama"), tokens()
    tensors = list(inputs(artifact).values())
    whole = calibration.sample(FloatGraph.read(artifact), tensors, text)
    ranges = calibrate(FloatGraph.read(artifact), tensors, text, MinMax())
    for name, seen in whole.items():
        assert seen.rows.shape == (sum(LENGTHS), len(seen.peaks))
        assert seen.peaks.max() == pytest.approx(max(-ranges[name][0], ranges[name][1]), rel=1e-6)
    monkeypatch.setattr(calibration, "SAMPLE_ROWS", 20)
    for name, seen in calibration.sample(FloatGraph.read(artifact), tensors, text).items():
        np.testing.assert_array_equal(seen.rows, whole[name].rows[::4])
        np.testing.assert_array_equal(seen.peaks, whole[name].peaks)


def test_a_sample_runs_a_part_of_the_text(fp32, monkeypatch):
    artifact = fp32("gpt2")
    tensors = list(inputs(artifact).values())[:1]
    monkeypatch.setattr(calibration, "SAMPLE_WINDOWS", 2)
    (seen,) = calibration.sample(FloatGraph.read(artifact), tensors, tokens(lengths=(9, 10, 11, 12, 13))).values()
    assert len(seen.rows) == 9 + 12
    with pytest.raises(InputError, match="no window"):
        calibration.sample(FloatGraph.read(artifact), tensors, tokens(lengths=()))


def test_the_cache_folder_is_the_users_unless_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert calibration.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("QEXPORT_CACHE")
    assert calibration.cache_folder() == tmp_path / "xdg" / "qexport"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert calibration.cache_folder() == tmp_path / ".cache" / "qexport"


def test_no_windows_are_refused(fp32):
    with pytest.raises(InputError, match="no window"):
        calibrate(FloatGraph.read(fp32("gpt2")), ["x"], tokens(lengths=()), MinMax())


def test_activations_that_overflow_are_refused(fp32, tmp_path, cache):
    source = fp32("gpt2")
    model = ir.load(source.onnx_path)
    weight = model.graph.initializers["transformer.wte.weight"]
    weight.const_value = ir.tensor(np.full(tuple(weight.shape), np.nan, np.float32), name=weight.name)
    folder = tmp_path / "broken"
    folder.mkdir()
    ir.save(model, folder / "model.onnx")
    broken = source.model_copy(update={"path": folder})
    (tensor, *_) = inputs(source).values()
    with pytest.raises(ContractError, match=re.escape(tensor) + ".*NaN or infinity on the calibration text"):
        calibrate(FloatGraph.read(broken), [tensor], tokens(lengths=(9,)), MinMax())
    assert not list(cache.glob("**/*.json"))


def test_memory_is_bounded_by_counters_and_one_chunk(fp32, monkeypatch):
    artifact, text = fp32("gpt2"), tokens(lengths=(60,) * 3)
    tensors = list(inputs(artifact).values())
    largest = []
    monkeypatch.setattr(calibration, "PREFILL_CHUNK", 16)
    real = histogram.Histogram.add
    monkeypatch.setattr(
        histogram.Histogram, "add", lambda self, values: largest.append(values.shape[1]) or real(self, values)
    )
    seen = calibration._observe(FloatGraph.read(artifact), tensors, text)
    assert max(largest) == 16
    assert len(seen) == len(tensors)
    assert {kept.counts.size for kept in seen.values()} == {histogram.BINS}


def test_the_observer_leaves_out_the_head(fp32, tmp_path):
    artifact = fp32("gpt2")
    tensors = [tensor for module, tensor in inputs(artifact).items() if module != "lm_head"]
    observer = ir.load(calibration._observer(ir.load(artifact.onnx_path), tensors, tmp_path))
    assert not [node.name for node in observer.graph if node.name.startswith("lm_head")]
    outputs = [value.name for value in observer.graph.outputs]
    assert outputs[: len(tensors)] == tensors
    assert all(name.startswith("present.") for name in outputs[len(tensors) :])


@pytest.mark.parametrize(
    ("method", "label"), [(Percentile(percent=99.9), "percentile(percent=99.9)"), (MinMax(), "minmax"), (Mse(), "mse")]
)
def test_a_method_is_called_by_its_settings(method, label):
    assert calibration.method_label(method) == label


def test_nothing_is_left_in_the_temporary_folder(fp32, tmp_path, monkeypatch):
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    calibrate(FloatGraph.read(fp32("gpt2")), list(inputs(fp32("gpt2")).values())[:1], tokens(lengths=(9,)), MinMax())
    assert os.listdir(scratch) == []
