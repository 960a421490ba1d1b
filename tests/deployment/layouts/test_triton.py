from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest

from qexport.core.artifact import Artifact
from qexport.core.errors import ContractError, InputError, UnsupportedHere
from qexport.deployment.layouts.interface import read_interface
from qexport.deployment.layouts.layout import Request
from qexport.deployment.layouts.triton.pbtxt import Name, text
from qexport.deployment.layouts.triton.repository import CONFIG, LAYOUT, model_name


def lay(artifact, folder, name="tiny"):
    LAYOUT.check(artifact)
    return LAYOUT.write(Request(artifacts=[artifact], name=name), folder)


def config_of(folder, name):
    return (folder / name / CONFIG).read_text()


def parameters(config):
    return {
        key: json.loads(f'"{value}"')
        for key, value in re.findall(r'key: "(\w+)"\n.*\n +string_value: "(.*)"\n', config)
    }


def with_settings(artifact, **settings):
    return Artifact(path=artifact.path, manifest=artifact.manifest.model_copy(update={"settings": settings}))


def rewritten(artifact, tmp_path, change):
    """The same artifact over a graph that was changed."""
    model = onnx.load(artifact.onnx_path)
    change(model.graph)
    folder = tmp_path / "changed"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return Artifact(path=folder, manifest=artifact.manifest)


def test_the_repository_has_a_graph_and_a_model_that_generates(fp32, tmp_path):
    laid = lay(fp32("llama"), tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "tiny/1/model.onnx",
        "tiny/config.pbtxt",
        "tiny/warmup/ones-32",
        "tiny/warmup/ones-33",
        "tiny_generate/1/model.py",
        "tiny_generate/1/tokenizer.json",
        "tiny_generate/config.pbtxt",
    ]
    assert laid.models == ("tiny/1/model.onnx",)
    assert set(laid.changes) <= {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert (tmp_path / "tiny/1/model.onnx").read_bytes() == fp32("llama").onnx_path.read_bytes()


@pytest.mark.parametrize("exporter", ["fused", "optimum"])
def test_inputs_and_outputs_are_the_graphs_own_behind_the_batch(fp32, tmp_path, exporter):
    lay(fp32("gpt2", exporter), tmp_path)
    config = config_of(tmp_path, "tiny")
    interface = read_interface(fp32("gpt2", exporter).onnx_path)
    for kind, tensors in (("input", interface.inputs), ("output", interface.outputs)):
        blocks = re.findall(
            rf'^{kind} {{\n  name: "(.*)"\n  data_type: (\w+)\n  dims: \[(.*)\]\n}}', config, re.MULTILINE
        )
        assert [name for name, _, _ in blocks] == list(tensors)
        for name, data_type, dims in blocks:
            assert data_type == ("TYPE_INT64" if name.endswith(("_ids", "_mask")) else "TYPE_FP32")
            own = tensors[name].shape[1:]
            assert dims == ", ".join(str(dim) if isinstance(dim, int) else "-1" for dim in own)


def test_the_generating_model_knows_the_cache_the_positions_and_where_answers_end(fp32, tmp_path):
    lay(fp32("llama"), tmp_path)
    told = parameters(config_of(tmp_path, "tiny_generate"))
    interface = read_interface(fp32("llama").onnx_path)
    cache = {name: tensor for name, tensor in interface.inputs.items() if name.startswith("past")}
    assert json.loads(told["cache"]) == {name: [tensor.shape[1], tensor.shape[3]] for name, tensor in cache.items()}
    assert told | {"cache": ""} == {
        "model": "tiny",
        "cache": "",
        "cache_type": "TYPE_FP32",
        "position_ids": "true" if "position_ids" in interface.inputs else "false",
        "vocabulary": "384",
        "max_batch": "8",
        "padding": "left",
        "stop_ids": "[0]",
        "context_length": "64",
    }


def test_padding_goes_where_the_graph_takes_it(fp32, tmp_path):
    lay(fp32("llama", "fused-cuda"), tmp_path)
    assert parameters(config_of(tmp_path, "tiny_generate"))["padding"] == "right"


@pytest.mark.parametrize(("target", "kind"), [("cpu", "CPU"), ("cuda", "GPU"), ("tensorrt", "GPU"), ("web", "CPU")])
def test_the_graph_runs_where_it_was_made_for(fp32, tmp_path, target, kind):
    lay(with_settings(fp32("llama"), target=target), tmp_path)
    assert f"kind: KIND_{kind}\n" in config_of(tmp_path, "tiny")
    assert "kind: KIND_CPU\n" in config_of(tmp_path, "tiny_generate")


def test_warm_up_masks_are_ones_of_the_length_that_the_configuration_says(fp32, tmp_path):
    lay(fp32("llama"), tmp_path)
    config = config_of(tmp_path, "tiny")
    said = re.findall(r"dims: \[(\d+)\]\n +input_data_file: \"(.*)\"", config)
    assert [int(tokens) for tokens, _ in said] == [32, 33]
    for tokens, name in said:
        mask = np.frombuffer((tmp_path / "tiny" / "warmup" / name).read_bytes(), "<i8")
        assert mask.tolist() == [1] * int(tokens)


def test_a_cache_that_numpy_has_no_type_for_is_refused(fp32, tmp_path):
    def to_bfloat16(graph):
        for value in (*graph.input, *graph.output):
            if value.name.startswith(("past", "present")):
                value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16

    with pytest.raises(UnsupportedHere, match=r"past_key_values\.0\.key is BFLOAT16"):
        LAYOUT.check(rewritten(fp32("llama"), tmp_path, to_bfloat16))


def test_a_graph_with_an_input_of_its_own_is_refused(fp32, tmp_path):
    def ask_for_more(graph):
        graph.input.append(onnx.helper.make_tensor_value_info("beam", onnx.TensorProto.INT64, ["batch_size"]))

    with pytest.raises(ContractError, match="asks for beam"):
        LAYOUT.check(rewritten(fp32("llama"), tmp_path, ask_for_more))


def test_a_graph_without_a_present_for_each_past_is_refused(fp32, tmp_path):
    with pytest.raises(ContractError, match="a present for each past"):
        LAYOUT.check(rewritten(fp32("llama"), tmp_path, lambda graph: graph.output.pop()))


def test_a_graph_for_one_batch_size_is_refused(fp32, tmp_path):
    def fix_batch(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(ContractError, match="no batch of any size"):
        LAYOUT.check(rewritten(fp32("llama"), tmp_path, fix_batch))


@pytest.mark.parametrize(
    ("name", "wanted"), [("w4", "w4"), ("int8 static/all", "int8-static-all"), (".a_b.c", "a_b.c")]
)
def test_names_hold_what_an_address_can(name, wanted):
    assert model_name(name) == wanted


def test_a_name_without_letters_is_refused():
    with pytest.raises(InputError, match="rename"):
        model_name("茶")


def test_protobuf_text_nests_repeats_and_quotes():
    message = {"name": 'a "b"\n', "dims": [4, -1], "none": [], "input": [{"kind": Name("KIND_CPU"), "on": True}, {}]}
    assert (
        text(message) == 'name: "a \\"b\\"\\n"\ndims: [4, -1]\ninput {\n  kind: KIND_CPU\n  on: true\n}\ninput {\n}\n'
    )
