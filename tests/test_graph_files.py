"""Artifacts that somebody else may have made, down to the files that their graphs read."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest

from qexport import deployment
from qexport.artifact import MANIFEST_NAME
from qexport.errors import ContractError, InputError
from qexport.graph import load_verified
from tests.fuzz.targets import seal


@pytest.fixture
def folder(fp32, tmp_path):
    return shutil.copytree(fp32("llama").path, tmp_path / "artifact")


def outside(folder, location):
    """Let one weight lie in another file, and seal the artifact as a forger would."""
    path = folder / "model.onnx"
    model = onnx.load_model(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    for field in ("raw_data", "float_data", "int64_data", "int32_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    seal(folder)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "other.data"])
@pytest.mark.parametrize("read", [load_verified, deployment.verify])
def test_a_resealed_graph_reads_no_file_of_others(folder, location, read):
    outside(folder, location)
    with pytest.raises(ContractError, match="which is no file of the artifact"):
        read(folder)


@pytest.mark.parametrize("read", [load_verified, deployment.verify])
def test_a_resealed_graph_that_was_cut_is_refused(folder, read):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    seal(folder)
    with pytest.raises(ContractError, match="cannot be read as ONNX"):
        read(folder)


@pytest.mark.parametrize("key", ["schema", "quantized", "settings"])
@pytest.mark.parametrize("read", [load_verified, deployment.verify])
def test_a_manifest_without_a_key_is_refused(folder, key, read):
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    with pytest.raises((InputError, ContractError), match=f"no {key}"):
        read(folder)


def test_what_is_whole_is_taken(folder):
    assert load_verified(folder).path == folder
    assert not [each for each in deployment.verify(folder).findings if each.state != "as written"]
