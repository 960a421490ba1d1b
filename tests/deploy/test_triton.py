"""Triton's own server, protobuf and client, in an environment of their own.

The server that PyPI has is built with the Python backend alone, so the graph is run by a stand-in for the ONNX Runtime
backend (programs/triton_stand_in.py) behind the same configuration. The generating model runs as it was written.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing

import numpy as np
import pytest

from qexport.core.artifact import load_artifact
from qexport.deployment.layouts.interface import read_interface
from qexport.deployment.layouts.layout import Request
from qexport.deployment.layouts.triton.repository import CONFIG, LAYOUT, MAX_BATCH
from qexport.runtime.decoding import generate, padded
from qexport.runtime.opening import open_session
from tests.deploy.proof import NEW_TOKENS, PROGRAMS, TEXTS, ask

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
MODELS = ("stories260K", "reference")
NAMES = ("fp32", "int8", "w4", "fp16")
RIGHT, WRONG = "padded-on-the-right", "padded-on-the-wrong-side"
ORPHAN = "orphan"
"""Whose graph is not there."""
TRITON = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "INT64": "TYPE_INT64"}
START_S, STOP_S = 120, 60


def lay(path, name, folder):
    artifact = load_artifact(path)
    LAYOUT.check(artifact)
    LAYOUT.write(Request(artifacts=[artifact], name=name), folder)


@pytest.fixture(scope="module")
def repository(artifact, fp32, tmp_path_factory):
    """A model repository of every case, and of a graph that takes padding on the right."""
    folder = tmp_path_factory.mktemp("triton") / "models"
    folder.mkdir()
    for model in MODELS:
        for name in NAMES:
            lay(artifact(model, name), f"{model}-{name}", folder)
    lay(fp32("llama", "fused-cuda").path, RIGHT, folder)
    lay(fp32("llama", "fused-cuda").path, WRONG, folder)
    config = folder / f"{WRONG}_generate" / CONFIG
    config.write_text(config.read_text().replace('"right"', '"left"'))
    lay(artifact("reference", "fp32"), ORPHAN, folder)
    shutil.rmtree(folder / ORPHAN)
    (folder / "qexport.json").write_text("{}")  # as beside every deployment
    return folder


@pytest.fixture(scope="module")
def server(client, repository, tmp_path_factory):
    """The addresses of a running server, for HTTP and gRPC, and its repository."""
    venv = client("triton")
    folder = tmp_path_factory.mktemp("server")
    (site,) = venv.glob("lib/python*/site-packages")
    version = site.parent.name.removeprefix("python")
    installed = site / "pytriton" / "tritonserver"
    shutil.copytree(installed / "backends", folder / "backends")
    stub = "triton_python_backend_stub"
    shutil.copy(installed / "python_backend_stubs" / version / stub, folder / "backends" / "python" / stub)
    models = shutil.copytree(repository, folder / "models")
    for config in models.glob(f"*/{CONFIG}"):
        if not config.parent.name.endswith("_generate"):
            text = config.read_text()
            assert text.count('backend: "onnxruntime"') == 1
            config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'))
            shutil.copy(PROGRAMS / "triton_stand_in.py", config.parent / "1" / "model.py")
    http, grpc = free_ports(2)
    log = folder / "log"
    command = [
        installed / "bin" / "tritonserver",
        f"--model-repository={models}",
        f"--backend-directory={folder / 'backends'}",
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--allow-metrics=false", "--exit-on-error=true", "--exit-timeout-secs=5"),
    ]
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
    }
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{http}/v2/health/ready", log)
        yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", models
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count):
    with closing(socket.socket()) as one, closing(socket.socket()) as other:
        ports = []
        for each in (one, other)[:count]:
            each.bind(("127.0.0.1", 0))
            ports.append(each.getsockname()[1])
        return ports


def wait_until_ready(process, address, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.2)
    pytest.fail(f"the server is not ready after {START_S} s: {log.read_text()[-3000:]}")


@pytest.fixture
def answers(client, server):
    """What comes back for requests that go out together."""

    def get(*asked):
        python = client("triton") / "bin" / "python"
        request = {"address": server[1], "asked": list(asked)}
        return ask([python, PROGRAMS / "triton_client.py"], request, timeout=120)["answers"]

    return get


def one(model, **inputs):
    return {"model": f"{model}_generate", "inputs": {"max_new_tokens": [NEW_TOKENS]} | inputs}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", MODELS)
def test_generates_the_same_tokens_alone_and_in_a_padded_batch(answers, case, model, name):
    wanted = case(model, name)
    served = f"{model}-{name}"
    for prompt, tokens in zip(wanted.prompts, wanted.wanted, strict=True):
        (found,) = answers(one(served, input_ids=[prompt]))
        assert found == {"rows": [tokens], "texts": [], "error": ""}
    for side in ("left", "right"):
        ids, mask = wanted.batch(side)
        (found,) = answers(one(served, input_ids=ids, attention_mask=mask))
        assert found["rows"] == wanted.wanted


@pytest.mark.parametrize("model", MODELS)
def test_writes_the_text_that_transformers_writes(answers, artifact, model):
    from transformers import AutoTokenizer

    served, folder = f"{model}-fp32", artifact(model, "fp32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    by_ids = [answers(one(served, input_ids=[row]))[0]["rows"][0] for row in ids]
    (found,) = answers(one(served, text_input=list(TEXTS)))
    assert found["rows"] == by_ids
    for text, prompt, said, tokens in zip(TEXTS, ids, found["texts"], by_ids, strict=True):
        assert text + said == tokenizer.decode(prompt + tokens, skip_special_tokens=True)


def test_a_graph_that_takes_padding_on_the_right_gets_it_there(answers, fp32):
    artifact = fp32("llama", "fused-cuda")
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
    ids, mask = padded([np.array(prompt) for prompt in prompts], "left")
    decoder = open_session(artifact, threads=1).decoder(batch=3, capacity=7 + NEW_TOKENS)
    wanted = generate(decoder, ids, mask, new_tokens=NEW_TOKENS).tokens.tolist()
    (found,) = answers(one(RIGHT, input_ids=ids.tolist(), attention_mask=mask.tolist(), stop_ids=[]))
    assert found == {"rows": wanted, "texts": [], "error": ""}
    (wrong,) = answers(one(WRONG, input_ids=ids.tolist(), attention_mask=mask.tolist(), stop_ids=[]))
    assert wrong["rows"] != wanted
    alone = [answers(one(RIGHT, input_ids=[prompt], stop_ids=[]))[0]["rows"][0] for prompt in prompts]
    assert alone == wanted


def test_requests_at_the_same_time_are_answered_beside_each_other_in_one_batch(answers, server, case):
    wanted = case("reference", "int8")
    log = server[2] / "reference-int8" / "runs.jsonl"
    log.write_text("")
    together = 1
    for _ in range(20):  # whether they meet within the queue's half millisecond is the scheduler's affair
        found = answers(*[one("reference-int8", input_ids=[wanted.prompts[0]])] * 4)
        assert [each["rows"] for each in found] == [[wanted.wanted[0]]] * 4
        runs = [json.loads(line) for line in log.read_text().splitlines()]
        assert max(sum(run["rows"]) for run in runs) <= MAX_BATCH
        together = max(len(run["rows"]) for run in runs)
        if together > 1:
            break
    assert together > 1


def test_a_row_ends_with_a_stop_id_and_the_answer_with_the_last_row(answers, case):
    wanted = case("reference", "fp32")
    ids, mask = wanted.batch("left")
    rows = wanted.wanted
    stop = [rows[0][3], rows[1][5], rows[2][7]]
    ends = [next(place for place, token in enumerate(row) if token in stop) for row in rows]
    (found,) = answers(one("reference-fp32", input_ids=ids, attention_mask=mask, stop_ids=stop))
    assert found["rows"] == [row[: end + 1] + [-1] * (max(ends) - end) for row, end in zip(rows, ends, strict=True)]
    assert len(set(ends)) > 1


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ({"input_ids": [[5]], "max_new_tokens": [0]}, "at least 1"),
        ({"input_ids": [[5]], "max_new_tokens": [384]}, "more than the 384"),
        ({"input_ids": [[5, 1024]]}, "not in 0 to 1023"),
        ({"input_ids": [[5, -1]]}, "not in 0 to 1023"),
        ({"input_ids": [[5, 6]], "attention_mask": [[1]]}, "make them alike"),
        ({"input_ids": [[5, 6]], "attention_mask": [[0, 0]]}, "and a token"),
        ({"input_ids": [[5, 6]], "attention_mask": [[1, 2]]}, "and a token"),
        ({"input_ids": [[5]] * (MAX_BATCH + 1)}, "takes 1 to 8"),
        ({"input_ids": [[5]], "text_input": ["One"]}, "not both"),
        ({}, "not both"),
        ({"text_input": [""]}, "no tokens"),
        ({"text_input": ["One"], "attention_mask": [[1]]}, "leave it out"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(answers, inputs, word):
    (found,) = answers(one("reference-fp32", **inputs))
    assert found["rows"] == []
    assert word in found["error"]


def test_text_streams_over_http(server, answers):
    body = json.dumps({"text_input": TEXTS[1], "max_new_tokens": 5}).encode()
    asked = urllib.request.Request(f"http://{server[0]}/v2/models/reference-fp32_generate/generate_stream", data=body)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        lines = [json.loads(line.removeprefix("data: ")) for line in answer.read().decode().splitlines() if line]
    (found,) = answers(one("reference-fp32", text_input=[TEXTS[1]], max_new_tokens=[5]))
    assert [line["token_ids"] for line in lines] == found["rows"][0]
    assert ["".join(line["text_output"] for line in lines)] == found["texts"]


def test_an_error_of_the_decoder_reaches_the_client(answers):
    (found,) = answers(one(ORPHAN, input_ids=[[5]]))
    assert found["rows"] == []
    assert ORPHAN in found["error"]


def test_a_cancelled_request_makes_no_more_steps(answers, server, case):
    wanted = case("stories260K", "fp32")
    log = server[2] / "stories260K-fp32" / "runs.jsonl"
    log.write_text("")
    asked = one("stories260K-fp32", input_ids=[wanted.prompts[0]], max_new_tokens=[400], stop_ids=[])
    (found,) = answers(asked | {"stop_after": 2})
    assert found["error"] == "stopped"
    time.sleep(2)
    assert 2 <= len(log.read_text().splitlines()) < 300


def test_warm_up_ran_a_prompt_and_a_step(server):
    runs = (server[2] / "stories260K-w4" / "runs.jsonl").read_text().splitlines()[:2]
    assert [json.loads(run) for run in runs] == [
        {"rows": [1], "tokens": 32, "mask": 32},
        {"rows": [1], "tokens": 1, "mask": 33},
    ]


def test_configurations_are_what_the_servers_protobuf_reads_and_the_graph_has(client, repository):
    paths = sorted(repository.glob(f"*/{CONFIG}"))
    assert len(paths) == 2 * (len(MODELS) * len(NAMES) + 2) + 1
    found = ask(
        [client("triton") / "bin" / "python", PROGRAMS / "triton_config.py"], {"paths": [str(path) for path in paths]}
    )["configs"]
    for path, answer in zip(paths, found, strict=True):
        config = answer["config"]
        assert answer["comes_back"]
        assert config["name"] == path.parent.name
        if config["backend"] == "python":
            continue
        interface = read_interface(path.parent / "1" / "model.onnx")
        for declared, own in ((config["input"], interface.inputs), (config["output"], interface.outputs)):
            assert {each["name"]: (each["data_type"], each["dims"]) for each in declared} == {
                name: (TRITON[each.dtype], [str(dim) if isinstance(dim, int) else "-1" for dim in each.shape[1:]])
                for name, each in own.items()
            }
        assert config["max_batch_size"] == MAX_BATCH
        assert [each["kind"] for each in config["instance_group"]] == ["KIND_CPU"]
        assert len(config["model_warmup"]) == 2
