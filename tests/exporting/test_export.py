"""Every architecture through both exporters, up to the form that the rest relies on and to stock clients."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

import onnx
import pytest

from qexport.core.errors import ParityError
from qexport.exporting import parity
from qexport.exporting.exporter import export_model
from qexport.inputs.architecture import Architecture
from qexport.inputs.models import load_torch_model, locate_model
from tests.architectures import LONGROPE_SWITCH, TINY, WINDOW
from tests.exporting.contract import assert_linear_layers, assert_other_parameters
from tests.exports import kept_export

WRONG_IN_OPTIMUM = {"phi3": "switch of the rotary factors"}
"""Architectures that Optimum 0.1.0 exports wrongly, and what the parity check must say about them."""

PAIRS = [(name, exporter) for name in TINY for exporter in ("fused", "optimum")]
RIGHT = [pair for pair in PAIRS if pair[1] == "fused" or pair[0] not in WRONG_IN_OPTIMUM]


@pytest.fixture(scope="module")
def torch_models(tiny):
    models = {}

    def load(name):
        if name not in models:
            models[name] = load_torch_model(locate_model(tiny(name)))
        return models[name]

    return load


@pytest.mark.parametrize(("name", "exporter"), RIGHT)
def test_export_computes_what_torch_computes(exported, name, exporter):
    report = exported(name, exporter).report
    assert report.exporter == exporter
    assert {"one prompt", "batch padded left, with past", "batch padded right, with past"} <= report.parity.keys()
    assert max(case.graph_deviations for case in report.parity.values()) < parity.FLOOR


@pytest.mark.parametrize("name", WRONG_IN_OPTIMUM)
def test_wrong_optimum_export_is_refused(exported, name):
    with pytest.raises(ParityError, match=WRONG_IN_OPTIMUM[name]) as caught:
        exported(name, "optimum")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "phi3"])
def test_parity_goes_beyond_the_switches_of_the_architecture(exported, name):
    switch = "switch of the rotary factors" if name == "phi3" else "sliding window"
    length = LONGROPE_SWITCH if name == "phi3" else WINDOW
    config = load_torch_model(locate_model(exported(name).source)).config
    architecture = Architecture.of(config.to_dict())
    assert length in {architecture.sliding_window, architecture.longrope_switch}
    assert {f"prompt beyond the {switch}", f"past grows beyond the {switch}"} <= exported(name).report.parity.keys()


@pytest.mark.parametrize(("name", "exporter"), RIGHT)
def test_graph_is_in_the_prepared_form(exported, torch_models, name, exporter):
    model = onnx.load(exported(name, exporter).onnx_path)
    assert_linear_layers(model, torch_models(name))
    # The norms of gemma2 multiply by 1 + weight, which TorchScript adds up ahead.
    assert_other_parameters(
        model, torch_models(name), lost="norm" if (name, exporter) == ("gemma2", "optimum") else None
    )


@pytest.mark.parametrize(("name", "exporter"), RIGHT)
def test_graph_is_clean(exported, name, exporter):
    """Points 4 and 5: no dead initializers, unique names, nothing of the exporter's."""
    path = exported(name, exporter).onnx_path
    graph = onnx.load(path).graph
    used = {value for node in graph.node for value in node.input} | {value.name for value in graph.output}
    assert {tensor.name for tensor in graph.initializer} <= used
    assert all(set(node.output) & used for node in graph.node)
    assert not [name for name, count in Counter(node.name for node in graph.node).items() if count > 1 or not name]
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    content = path.read_bytes()
    assert not [mark for mark in (b"site-packages", b".py", b"stack_trace", b"pkg.torch") if mark in content]


@pytest.mark.parametrize(("name", "exporter"), RIGHT)
def test_inputs_and_outputs_are_optimums(exported, name, exporter):
    graph = onnx.load(exported(name, exporter).onnx_path).graph
    shapes = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output)
    }
    config = TINY[name]()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    total = "past_sequence_length + sequence_length"
    tokens = ("batch_size", "sequence_length")
    expected = {"input_ids": tokens, "attention_mask": ("batch_size", total), "logits": (*tokens, config.vocab_size)}
    if name != "gemma2":  # Optimum gives every architecture but this one its positions
        expected["position_ids"] = tokens
    for layer in range(config.num_hidden_layers):
        for part in ("key", "value"):
            expected[f"past_key_values.{layer}.{part}"] = ("batch_size", heads, "past_sequence_length", size)
            expected[f"present.{layer}.{part}"] = ("batch_size", heads, total, size)
    assert shapes == expected


@pytest.mark.parametrize(("name", "exporter"), RIGHT)
def test_folder_holds_what_loads_without_the_original(exported, name, exporter):
    made = exported(name, exporter)
    names = {file.name for file in made.path.iterdir()}
    assert {"model.onnx", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [file for file in names if file.endswith(".safetensors")]
    torch_model = load_torch_model(locate_model(made.source))
    assert made.report.parameters == sum(parameter.numel() for parameter in torch_model.parameters())
    assert made.report.weight_bytes >= 4 * made.report.parameters
    assert made.report.weight_bytes < made.onnx_path.stat().st_size


@pytest.mark.parametrize(("name", "exporter"), RIGHT)
def test_ort_model_for_causal_lm_generates_what_transformers_generates(exported, torch_models, name, exporter):
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    made = exported(name, exporter)
    tokenizer = AutoTokenizer.from_pretrained(made.path, padding_side="left")
    onnx_model = ORTModelForCausalLM.from_pretrained(made.path)
    config = onnx_model.config
    # Optimum 0.1.0 reads neither of the two from the configuration of qwen3, phi3 and gemma2.
    onnx_model.num_key_value_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    onnx_model.embed_size_per_head = onnx_model.session.get_inputs()[-1].shape[3]
    torch_model = torch_models(name)
    for texts in (["the quick"], ["the quick brown", "a"]):
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        with torch.inference_mode():
            wanted = torch_model.generate(**batch, **settings)
            got = onnx_model.generate(**batch, **settings)
        assert got.tolist() == wanted.tolist()


def test_second_export_is_byte_identical_in_another_process(exported, tmp_path):
    script = (
        "import sys; from pathlib import Path; from qexport.exporting.exporter import export_model; "
        "from qexport.inputs.models import locate_model; "
        "[export_model(locate_model(sys.argv[1]), Path(sys.argv[2]) / name, exporter=name) for name in sys.argv[3:]]"
    )
    exporters = ("fused", "optimum")
    for exporter in exporters:
        (tmp_path / exporter).mkdir()
    subprocess.run(
        [sys.executable, "-c", script, exported("llama").source, tmp_path, *exporters],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"},
    )
    for exporter in exporters:
        assert digests(tmp_path / exporter) == digests(exported("llama", exporter).path)


@pytest.mark.parametrize("name", TINY)
def test_a_kept_export_is_what_the_exporter_makes_in_this_run(tiny, tmp_path, name):
    """Parity included: an export that computes anything else than torch is refused."""
    source = locate_model(tiny(name))
    kept = kept_export(source, "fused")
    if not kept.is_of_this_run:
        report = export_model(source, tmp_path, exporter="fused")
        assert digests(tmp_path) == digests(kept.path)
        assert (report.weight_bytes, report.parameters) == (kept.report.weight_bytes, kept.report.parameters)
    assert "one prompt" in kept.report.parity


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("exporter", ["fused", "optimum"])
def test_weights_beyond_the_limit_go_to_a_file_of_their_own_and_nothing_is_said(tiny, tmp_path, exporter, capfd):
    from optimum.onnxruntime import ORTModelForCausalLM

    source = locate_model(tiny("gpt2"))
    capfd.readouterr()
    report = export_model(source, tmp_path, exporter=exporter, external_data_bytes=10_000)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert (tmp_path / "model.onnx.data").stat().st_size > 0.9 * report.weight_bytes
    assert (tmp_path / "model.onnx").stat().st_size < 0.5 * report.weight_bytes
    assert ORTModelForCausalLM.from_pretrained(tmp_path).session.get_inputs()
