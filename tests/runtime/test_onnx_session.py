from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from qexport.core import cpu
from qexport.core.errors import ContractError, UnsupportedHere
from qexport.runtime.onnx_session import OrtSession, decoder_feeds, present_to_past, require_provider
from qexport.runtime.opening import open_session
from qexport.runtime.session import NODES_ON, ProviderUnavailable
from tests import decoders

IDS = np.array([[3, 1, 4, 1]])


# Sessions


def test_logits_are_those_of_the_graph(tmp_path):
    table = np.random.default_rng(0).standard_normal((7, 7))
    session = open_session(decoders.save(tmp_path / "a", decoders.bigram(table)), threads=1)
    assert np.array_equal(session.logits(IDS)[0], table[IDS[0]].astype(np.float32))
    assert (session.provider, session.threads, session.device) == ("cpu", 1, "")
    assert session.runtime == f"onnxruntime {onnxruntime.__version__}"


def test_threads_default_to_the_cores_of_the_process(tmp_path):
    session = open_session(decoders.save(tmp_path / "a", decoders.bigram(np.eye(3))))
    assert session.threads == cpu.cores()


def test_a_file_that_is_no_graph_is_one_line(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a protobuf\n" * 10)
    with pytest.raises(ContractError, match="cannot load it") as caught:
        OrtSession(path)
    assert "\n" not in str(caught.value)


def test_an_operator_without_a_kernel_is_unsupported_here(tmp_path):
    text = decoders.BIGRAM.replace("logits = Gather", "row = Gather").replace("}", "logits = MatMul (row, table) }")
    model = onnx.parser.parse_model(text.replace("float[", "bfloat16["))
    table = onnx.helper.make_tensor("table", onnx.TensorProto.BFLOAT16, [3, 3], np.eye(3).ravel())
    model.graph.initializer.append(table)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedHere, match="MatMul"):
        OrtSession(tmp_path / "model.onnx")


# Providers


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has a CUDA provider")
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_cuda_without_a_gpu_is_an_error_and_never_the_cpu(tmp_path, kind):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)), kind=kind)
    with pytest.raises(ProviderUnavailable, match="qexport\\[gpu\\]") as caught:
        open_session(artifact, provider="cuda")
    assert isinstance(caught.value, UnsupportedHere)
    assert "\n" not in str(caught.value)


def test_a_package_with_cuda_on_a_machine_without_a_device(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("qexport.core.cuda.device_names", list)
    with pytest.raises(ProviderUnavailable, match="no GPU"):
        require_provider("cuda")


def test_a_session_that_fell_back_is_noticed(tmp_path, monkeypatch):
    """onnxruntime-gpu with a driver but without its CUDA libraries gives a CPU session and a line in the log."""
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)))
    monkeypatch.setattr("qexport.runtime.onnx_session.require_provider", lambda _: None)
    monkeypatch.setattr("qexport.runtime.onnx_session._preload_cuda", lambda: None)
    monkeypatch.setattr("qexport.core.cuda.device_names", lambda: ["Some GPU"])
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(ProviderUnavailable, match="gave CPUExecutionProvider instead"),
    ):
        OrtSession(artifact.onnx_path, provider="cuda")


@pytest.mark.gpu
def test_cuda_runs_on_the_device(tmp_path):
    table = np.random.default_rng(0).standard_normal((7, 7))
    artifact = decoders.save(tmp_path / "a", decoders.bigram(table))
    session = open_session(artifact, provider="cuda", observe="device memory")
    assert np.array_equal(session.logits(IDS)[0], table[IDS[0]].astype(np.float32))
    assert session.device
    assert session.peak_device_bytes() >= table.astype(np.float32).nbytes


@pytest.mark.gpu
def test_cuda_refuses_a_graph_that_would_run_partly_on_the_cpu(tmp_path):
    text = decoders.QDQ.replace("xq = QuantizeLinear (x, x_scale, x_zero)", "xq, s, z = DynamicQuantizeLinear (x)")
    text = text.replace("(xq, x_scale, x_zero)", "(xq, s, z)")
    artifact = decoders.save(tmp_path / "a", decoders.quantized(text))
    with pytest.raises(UnsupportedHere, match="DynamicQuantizeLinear"):
        open_session(artifact, provider="cuda")


# What ran


def test_integer_matmuls_that_ran_are_counted(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.quantized(), decoders.QUANTIZED_NODE)
    session = open_session(artifact, threads=1, observe="kernels")
    kernels = {kind: count for kind, count in session.facts().items() if kind.endswith("_run") and count}
    assert kernels == {"integer_matmuls_run": 1}
    assert session.logits(IDS).shape == (1, 4, decoders.VOCAB)


def test_weights_in_blocks_that_did_not_run_as_such_are_caught(tmp_path):
    blocks = decoders.QUANTIZED_NODE.model_copy(
        update={"weight_dtype": "int4", "activation": "none", "block_size": 32, "per_channel": False}
    )
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)), blocks)
    with pytest.raises(ContractError, match="0 block matmuls ran where the manifest names 1"):
        open_session(artifact, threads=1, observe="kernels")


def test_a_graph_that_was_not_fused_is_caught(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.quantized(decoders.UNFUSED), decoders.QUANTIZED_NODE)
    with pytest.raises(ContractError, match="0 integer matmuls ran where the manifest names 1"):
        open_session(artifact, threads=1, observe="kernels")


def test_a_matmul_quantized_beyond_the_manifest_is_caught(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.quantized())
    with pytest.raises(ContractError, match="1 integer matmuls ran where the manifest names 0"):
        open_session(artifact, threads=1, observe="kernels")


def test_nodes_with_plain_activations_are_no_integer_matmuls(tmp_path):
    embedding = decoders.QUANTIZED_NODE.model_copy(update={"name": "embed/Gather", "activation": "none"})
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)), embedding)
    facts = open_session(artifact, observe="kernels").facts()
    assert {count for kind, count in facts.items() if kind.endswith("_run")} == {0}


def test_the_providers_that_ran_nodes_are_told_with_their_number(tmp_path):
    """A lookup, the rounding of its rows, and the product that the rest was fused into."""
    artifact = decoders.save(tmp_path / "a", decoders.quantized(), decoders.QUANTIZED_NODE)
    session = open_session(artifact, threads=1, observe="kernels")
    assert {name: count for name, count in session.facts().items() if name.startswith(NODES_ON)} == {"nodes_on_cpu": 3}
    session.logits(IDS)
    assert session.facts()["nodes_on_cpu"] == 3  # of the graph, however often it runs
    bigram = decoders.save(tmp_path / "b", decoders.bigram(np.eye(3)))
    assert open_session(bigram, threads=1, observe="kernels").facts()["nodes_on_cpu"] == 1


@pytest.mark.gpu
def test_nodes_that_ran_on_the_device_are_told(tmp_path):
    bigram = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)))
    facts = open_session(bigram, provider="cuda", observe="kernels").facts()
    assert facts["nodes_on_cuda"] >= 1


def test_observing_is_off_unless_asked_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    artifact = decoders.save(tmp_path / "a", decoders.quantized(), decoders.QUANTIZED_NODE)
    assert open_session(artifact).facts() == {}
    open_session(artifact, observe="kernels")
    assert list((tmp_path / "tmp").iterdir()) == []


# Feeds


@pytest.fixture(scope="module")
def with_past(tmp_path_factory):
    path = tmp_path_factory.mktemp("past") / "model.onnx"
    model = onnx.parser.parse_model(decoders.WITH_PAST)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(5, dtype=np.float32), "table"))
    onnx.save(model, path)
    return OrtSession(path, threads=1)


def test_feeds_of_a_prefill_have_an_empty_past(with_past):
    feeds = decoder_feeds(with_past.inputs, np.array([[1, 2, 3], [4, 0, 1]]), None)
    assert np.array_equal(feeds["attention_mask"], np.ones((2, 3), np.int64))
    assert np.array_equal(feeds["position_ids"], [[0, 1, 2], [0, 1, 2]])
    assert feeds["past_key_values.0.key"].shape == (2, 2, 0, 3)
    assert feeds["past_key_values.0.value"].dtype == np.float32
    assert with_past.run(feeds)["logits"].shape == (2, 3, 5)


def test_feeds_of_a_step_go_on_where_the_past_ends(with_past):
    present = {f"present.0.{part}": np.full((1, 2, 4, 3), 0.5, np.float32) for part in ("key", "value")}
    past = present_to_past({"logits": np.zeros(1), **present})
    feeds = decoder_feeds(with_past.inputs, np.array([[3]]), past)
    assert feeds["attention_mask"].shape == (1, 5)
    assert feeds["position_ids"].tolist() == [[4]]
    assert feeds["past_key_values.0.key"] is present["present.0.key"]
    assert with_past.run(feeds, ["logits"])["logits"].shape == (1, 1, 5)


def test_an_input_nobody_knows_is_refused(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)))
    model = onnx.load(artifact.onnx_path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1]))
    onnx.save(model, artifact.onnx_path)
    with pytest.raises(ContractError, match="use_cache_branch"):
        OrtSession(artifact.onnx_path).logits(IDS)
