"""Artifacts that somebody else may have made, down to the files that their graphs read."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest

from qexport.core.artifact import MANIFEST_NAME, file_sha256
from qexport.core.errors import ContractError, InputError
from qexport.core.external_data import data_files
from qexport.core.graph import load_verified_graph
from qexport.deployment import manifest
from qexport.deployment.pipeline import deploy
from tests.fuzz.targets import seal


@pytest.fixture
def folder(fp32, tmp_path):
    return shutil.copytree(fp32("llama").path, tmp_path / "artifact")


def outside(folder, location):
    """Let one weight lie in another file, and seal the artifact as a forger would."""
    path = folder / "model.onnx"
    model = onnx.load_model(path, load_external_data=False)
    lies_in(model.graph.initializer[0], location)
    path.write_bytes(model.SerializeToString())
    seal(folder)


def lies_in(tensor, location):
    for field in ("raw_data", "float_data", "int64_data", "int32_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "other.data"])
@pytest.mark.parametrize("read", [load_verified_graph, manifest.verify])
def test_a_resealed_graph_reads_no_file_of_others(folder, location, read):
    outside(folder, location)
    with pytest.raises(ContractError, match="which is no file of the manifest"):
        read(folder)


@pytest.mark.parametrize("read", [load_verified_graph, manifest.verify])
def test_a_resealed_graph_that_was_cut_is_refused(folder, read):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    seal(folder)
    with pytest.raises(ContractError, match="cannot be read as ONNX"):
        read(folder)


@pytest.mark.parametrize("key", ["schema", "quantized", "settings"])
@pytest.mark.parametrize("read", [load_verified_graph, manifest.verify])
def test_a_manifest_without_a_key_is_refused(folder, key, read):
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    with pytest.raises((InputError, ContractError), match=f"no {key}"):
        read(folder)


def test_what_is_whole_is_taken(folder):
    assert load_verified_graph(folder).path == folder
    assert not [each for each in manifest.verify(folder).findings if each.state != "as written"]


def places():
    """Everywhere in a model that a tensor can lie, each with a model that has one there."""
    tensor = lies_in(onnx.numpy_helper.from_array(np.zeros(2, np.float32), "w"), "there.bin")
    sparse = onnx.SparseTensorProto(values=tensor)
    attributes = {
        "tensor": onnx.AttributeProto(name="a", t=tensor),
        "tensors": onnx.AttributeProto(name="a", tensors=[tensor]),
        "graph": onnx.AttributeProto(name="a", g=onnx.GraphProto(initializer=[tensor])),
        "graphs": onnx.AttributeProto(name="a", graphs=[onnx.GraphProto(sparse_initializer=[sparse])]),
        "sparse": onnx.AttributeProto(name="a", sparse_tensor=sparse),
    }
    for name, attribute in attributes.items():
        node = onnx.NodeProto(attribute=[attribute])
        yield f"{name} of a node", onnx.ModelProto(graph=onnx.GraphProto(node=[node]))
        yield f"{name} of a function", onnx.ModelProto(functions=[onnx.FunctionProto(node=[node])])
    yield "initializer", onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
    yield (
        "training",
        onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=onnx.GraphProto(initializer=[tensor]))]),
    )


@pytest.mark.parametrize(("place", "model"), [*places()], ids=lambda value: value if isinstance(value, str) else "")
def test_a_tensor_is_found_wherever_it_lies(tmp_path, place, model):
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert list(data_files(tmp_path / "m.onnx")) == ["there.bin"], place


def test_a_location_that_is_there_twice_is_found_twice(tmp_path):
    """A parser of protobuf keeps the last; a reader that kept the first would let a forger through."""
    entry = b"\x0a\x08location\x12\x01a\x12\x01b"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    kept = onnx.load_model(tmp_path / "m.onnx", load_external_data=False).graph.initializer[0].external_data[0].value
    assert kept == "b"
    assert list(data_files(tmp_path / "m.onnx")) == ["a", "b"]


def test_a_deployment_reads_no_file_of_others(folder, tmp_path):
    """The digests of a deployment may be a forger's as well."""
    place = tmp_path / "deployed"
    deploy([folder], "optimum", place)
    path = place / "model.onnx"
    model = onnx.load_model(path, load_external_data=False)
    lies_in(model.graph.initializer[0], "/etc/passwd")
    path.write_bytes(model.SerializeToString())
    written = json.loads((place / MANIFEST_NAME).read_text())
    for info in written["files"]:
        if info["path"] == "model.onnx":
            info |= {"sha256": file_sha256(path), "size_bytes": path.stat().st_size, "of": "", "change": "forged"}
    (place / MANIFEST_NAME).write_text(json.dumps(written))
    with pytest.raises(ContractError, match="weights lie in /etc/passwd"):
        manifest.verify(place)
