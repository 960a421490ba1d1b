from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from qexport.core.artifact import MANIFEST_NAME, file_sha256, load_artifact
from qexport.deployment.layouts.files import copy_model, copy_side_files, has_data
from qexport.deployment.layouts.interface import Tensor, read_interface
from qexport.runtime.onnx_session import decoder_feeds
from tests.plants import copy, planted


def logits(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = decoder_feeds(session.get_inputs(), np.array([[1, 5, 9, 2]]), None)
    return session.run(["logits"], feeds)[0]


@pytest.fixture
def parted(quantized):
    """Weights lie beside the graph."""
    made = quantized("w4a16-rtn")
    assert has_data(made)
    return made


def digests(folder):
    return {path.name: file_sha256(path) for path in folder.iterdir()}


def test_weights_inside_stay_inside(fp32, tmp_path):
    assert not has_data(fp32("llama"))
    assert copy_model(fp32("llama"), tmp_path / "onnx" / "other.onnx", data="other.onnx_data") == ""
    assert digests(tmp_path / "onnx") == {"other.onnx": file_sha256(fp32("llama").onnx_path)}


def test_under_the_same_names_the_bytes_are_the_same(parted, tmp_path):
    assert copy_model(parted, tmp_path / "deep" / "er" / "model.onnx") == ""
    own = digests(parted.path)
    assert digests(tmp_path / "deep" / "er") == {name: own[name] for name in ("model.onnx", "model.onnx.data")}


def test_another_name_of_the_graph_alone_changes_no_byte(parted, tmp_path):
    assert copy_model(parted, tmp_path / "other.onnx") == ""
    own = digests(parted.path)
    assert digests(tmp_path) == {"other.onnx": own["model.onnx"], "model.onnx.data": own["model.onnx.data"]}
    assert np.array_equal(logits(tmp_path / "other.onnx"), logits(parted.onnx_path))


def test_a_graph_whose_weights_got_another_name_reads_them_there(parted, tmp_path):
    before = digests(parted.path)
    told = copy_model(parted, tmp_path / "model_q4.onnx", data="model_q4.onnx_data")
    assert told == "reads its weights from model_q4.onnx_data, where this runtime looks for them"
    assert sorted(digests(tmp_path)) == ["model_q4.onnx", "model_q4.onnx_data"]
    assert digests(tmp_path)["model_q4.onnx_data"] == before["model.onnx.data"]
    assert np.array_equal(logits(tmp_path / "model_q4.onnx"), logits(parted.onnx_path))
    assert digests(parted.path) == before


def test_nothing_but_the_name_is_changed(parted, tmp_path):
    copy_model(parted, tmp_path / "model_q4.onnx", data="model_q4.onnx_data")
    old = onnx.load(parted.onnx_path, load_external_data=False)
    new = onnx.load(tmp_path / "model_q4.onnx", load_external_data=False)
    places = {
        entry.value for tensor in new.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    assert places == {"model_q4.onnx_data"}
    for tensor in new.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "model.onnx.data"
    assert new == old


def test_the_weights_are_really_read_from_there(parted, tmp_path):
    """Or the test above would pass with the artifact's own."""
    copy_model(parted, tmp_path / "model_q4.onnx", data="model_q4.onnx_data")
    held = (tmp_path / "model_q4.onnx_data").read_bytes()
    (tmp_path / "model_q4.onnx_data").write_bytes(bytes(len(held)))
    assert not np.array_equal(logits(tmp_path / "model_q4.onnx"), logits(parted.onnx_path))


def test_side_files_are_all_but_the_graph_also_in_folders(parted, tmp_path):
    def more(folder):
        (folder / "sub" / "deep").mkdir(parents=True)
        (folder / "sub" / "deep" / "words.txt").write_text("x")
        (folder / "sub" / "model.onnx").write_text("no graph of this artifact")

    art = planted(parted, tmp_path / "art", files=more)
    (art.path / "added.txt").write_text("of somebody")
    (tmp_path / "out").mkdir()
    copy_side_files(art, tmp_path / "out")
    wanted = {info.path for info in art.manifest.files} - {"model.onnx", "model.onnx.data"}
    assert {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == wanted
    assert "sub/deep/words.txt" in wanted
    assert MANIFEST_NAME not in wanted
    for name in wanted:
        assert (tmp_path / "out" / name).read_bytes() == (art.path / name).read_bytes()


def test_copies_may_be_written_to_where_the_artifact_may_not(parted, tmp_path):
    own = copy(parted.path, tmp_path / "art")
    for path in own.iterdir():
        path.chmod(0o444)
    (tmp_path / "out").mkdir()
    copy_side_files(load_artifact(own), tmp_path / "out")
    copy_model(load_artifact(own), tmp_path / "out" / "model.onnx")
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("exporter", ["fused", "optimum"])
def test_the_interface_is_that_of_the_runtime(fp32, exporter):
    path = fp32("llama", exporter).onnx_path
    interface = read_interface(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    types = {"INT64": "tensor(int64)", "FLOAT": "tensor(float)"}
    for ours, theirs in ((interface.inputs, session.get_inputs()), (interface.outputs, session.get_outputs())):
        assert list(ours) == [value.name for value in theirs]
        for value in theirs:
            assert types[ours[value.name].dtype] == value.type
            assert len(ours[value.name].shape) == len(value.shape)
    assert interface.layers == 2
    assert interface.cache.shape[1] == 2
    assert interface.cache.shape[3] == 8


def test_the_interface_needs_no_weights(parted, tmp_path):
    (tmp_path / "model.onnx").write_bytes(parted.onnx_path.read_bytes())
    assert read_interface(tmp_path / "model.onnx") == read_interface(parted.onnx_path)


def test_half_precision_is_seen(quantized):
    cache = read_interface(quantized("fp16").onnx_path).cache
    assert isinstance(cache, Tensor)
    assert cache.dtype == "FLOAT16"
