"""The server by HTTP: what it answers, what it refuses, and that it runs without torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from urllib.request import urlopen

import pytest

from qexport import quantization
from qexport.core.artifact import MANIFEST_NAME, load_artifact
from qexport.core.errors import ContractError, InputError, UnsupportedHere
from qexport.runtime.session import ProviderUnavailable
from qexport.serving import server
from qexport.serving.chat import ChatTemplate
from qexport.serving.worker import Worker
from tests.serving.conftest import listening
from tests.serving.test_writing import Endless, write

TEXTS = ["the quick brown fox jumps over the lazy dog", "dog", "and then"]


@pytest.fixture(scope="module")
def llama(serving):
    return serving("llama")


def expected(served, text, new_tokens=12):
    ids = served.tokens.encode(text)
    tokens, (finish,) = write(served.artifact, [ids], new_tokens=new_tokens, stop=served.limits.stop)
    written = tokens[0][:-1] if finish == "stop" else tokens[0]
    both = served.tokens.decode([*ids, *written])
    return tokens[0], both[len(served.tokens.decode(ids)) :], finish


def test_a_completion_alone(llama):
    served, client = llama
    for text in TEXTS:
        reply = client.complete(text, max_tokens=12)
        (choice,) = reply.body["choices"]
        assert (choice["token_ids"], choice["text"], choice["finish_reason"]) == expected(served, text)
        prompt = len(served.tokens.encode(text))
        new = len(choice["token_ids"])
        assert reply.body["usage"] == {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
        }


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_batch_of_unlike_lengths(llama, as_ids):
    served, client = llama
    prompts = [list(served.tokens.encode(text)) for text in TEXTS] if as_ids else TEXTS
    choices = client.complete(prompts, max_tokens=12).body["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert [(each["token_ids"], each["text"], each["finish_reason"]) for each in choices] == [
        expected(served, text) for text in TEXTS
    ]


def test_a_stream_of_a_batch(llama):
    served, client = llama
    body = {"prompt": TEXTS, "max_tokens": 12, "return_token_ids": True, "stream_options": {"include_usage": True}}
    *events, usage = client.stream("/v1/completions", body)
    for row, text in enumerate(TEXTS):
        mine = [choice for event in events for choice in event["choices"] if choice["index"] == row]
        ids, whole, finish = expected(served, text)
        assert [token for choice in mine for token in choice["token_ids"]] == ids
        assert "".join(choice["text"] for choice in mine) == whole
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + [finish]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == sum(len(expected(served, text)[0]) for text in TEXTS)
    assert len({event["id"] for event in [*events, usage]}) == 1


def test_without_a_number_a_completion_has_16_tokens_and_never_leaves_the_context(llama):
    served, client = llama
    assert len(client.complete([5, 6]).body["choices"][0]["token_ids"]) <= 16
    (choice,) = client.complete([5] * (served.limits.context - 3)).body["choices"]
    assert len(choice["token_ids"]) <= 3


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": "a", "temperature": 0.5}, 400, "temperature 0.5 is not served: text is generated greedily"),
        ({"prompt": "a", "n": 2}, 400, "n 2 is not served"),
        ({"prompt": [5] * 60, "max_tokens": 5}, 400, "60 tokens of prompt and 5 new ones are 65, and .* has 64"),
        ({"prompt": [[5], [5] * 64]}, 400, "64 tokens of prompt and 1 new ones are 65, and .* has 64; shorten"),
        ({"prompt": []}, 400, "0 prompts"),
        ({"prompt": ["a"] * 65}, 400, "65 prompts; give 1 to 64"),
        ({"prompt": ""}, 400, "no tokens"),
        ({"prompt": [384]}, 400, "token 384 is not among the 384"),
        ({"prompt": [-1]}, 400, "token -1 is not among"),
        ({"prompt": "a", "model": "other"}, 404, "'other' is not served here; ask for 'llama'"),
        ({"prompt": "a", "frobnicate": 1}, 400, "frobnicate is not known"),
    ],
)
def test_what_is_refused(llama, body, status, said):
    import re

    _, client = llama
    reply = client.post("/v1/completions", {"model": "llama"} | body)
    assert reply.status == status
    assert re.search(said, reply.message)
    assert reply.body["error"]["type"] == "invalid_request_error"


def test_an_error_of_a_stream_that_has_not_begun_has_its_own_status(llama):
    _, client = llama
    assert client.complete([5] * 64, stream=True).status == 400


def test_a_body_that_is_too_long_is_refused(llama):
    _, client = llama
    assert client.post("/v1/completions", b"x" * (2**20 + 1)).status == 413


def test_other_paths_and_methods_are_refused_in_the_same_form(llama):
    _, client = llama
    assert client.get("/v1/embeddings").status == 404
    assert client.get("/v1/completions").status == 405
    assert client.get("/v1/embeddings").message == "GET /v1/embeddings: Not Found"


def test_the_one_model_is_listed(llama):
    _, client = llama
    (entry,) = client.get("/v1/models").body["data"]
    assert (entry["id"], entry["object"]) == ("llama", "model")


def test_health_tells_what_runs(llama):
    served, client = llama
    reply = client.get("/health")
    assert reply.status == 200
    told = {key: reply.body[key] for key in ("status", "recipe", "artifact_sha256", "provider", "failure")}
    assert told == {
        "status": "ok",
        "recipe": "fp32",
        "artifact_sha256": load_artifact(served.artifact.path).sha256,
        "provider": "cpu",
        "failure": "",
    }
    assert reply.body["ran"]["nodes_on_cpu"] > 0


class Broken:
    def write(self, prompts, **_):
        raise RuntimeError("CUDA error 700" if prompts else "")


def test_health_fails_where_no_token_can_be_had(llama):
    with listening(replace(llama[0], worker=Worker(Broken()))) as client:
        reply = client.get("/health")
        assert (reply.status, reply.body["failure"]) == (503, "CUDA error 700")
        failed = client.complete([5])
        assert (failed.status, failed.message) == (500, "CUDA error 700")


def test_chat_without_a_template_is_refused(llama):
    _, client = llama
    reply = client.post("/v1/chat/completions", {"model": "llama", "messages": [{"role": "user", "content": "a"}]})
    assert (reply.status, reply.message) == (400, "this tokenizer has no chat template; use /v1/completions")


def test_chat_goes_by_the_template(llama):
    served, _ = llama
    template = ChatTemplate(
        "{% for message in messages %}{{ raise_exception('no system') if message.role == 'system' }}"
        "{{ message.content }}{% endfor %} then",
        {},
    )
    talk = [{"role": "user", "content": "the quick brown"}]
    with listening(replace(served, template=template, worker=Worker(served.worker._writer))) as client:
        ids, text, finish = expected(served, "the quick brown then")
        body = {"model": "llama", "messages": talk, "max_completion_tokens": 12, "return_token_ids": True}
        reply = client.post("/v1/chat/completions", body)
        (choice,) = reply.body["choices"]
        assert choice["message"] == {"role": "assistant", "content": text}
        assert (choice["token_ids"], choice["finish_reason"]) == (ids, finish)

        opening, *events = client.stream("/v1/chat/completions", body)
        assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(event["choices"][0]["delta"]["content"] for event in events) == text
        assert events[-1]["choices"][0]["finish_reason"] == finish

        unlimited = client.post("/v1/chat/completions", {"model": "llama", "messages": talk})
        prompt = unlimited.body["usage"]["prompt_tokens"]
        assert prompt < unlimited.body["usage"]["total_tokens"] <= served.limits.context

        refused = client.post("/v1/chat/completions", body | {"messages": [{"role": "system", "content": "a"}]})
        assert refused.status == 400
        assert "the chat template refuses them (no system)" in refused.message


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_stops_when_a_client_goes_away(llama, stream):
    writer = Endless()
    with listening(replace(llama[0], worker=Worker(writer))) as client:
        connection = client.connection()
        body = {"model": "llama", "prompt": [5], "max_tokens": 60, "stream": stream, "return_token_ids": True}
        connection.request("POST", "/v1/completions", json.dumps(body))
        reply = connection.getresponse() if stream else None
        assert reply is None or reply.readline().startswith(b"data: ")
        _until(lambda: writer.steps > 5)
        assert client.get("/health").body["requests"] == 1
        for each in (reply, connection):
            if each is not None:
                each.close()
        _until(lambda: client.get("/health").body["requests"] == 0)


def _until(holds, *, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_artifact_of_bitsandbytes_is_refused_with_the_recipe_to_take(tiny, tmp_path):
    made = quantization.quantize(str(tiny("llama")), tmp_path / "nf4", recipe_name="bnb-nf4")
    with pytest.raises(UnsupportedHere, match=r"bnb-nf4 runs in PyTorch.*--recipe nf4"):
        server.load(made.path, provider="cpu", threads=1)


def test_an_altered_artifact_is_not_served(fp32, tmp_path):
    import shutil

    shutil.copytree(fp32("gpt2").path, tmp_path / "copy")
    file = tmp_path / "copy" / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    with pytest.raises(ContractError, match="altered since its manifest"):
        server.load(tmp_path / "copy", provider="cpu", threads=1)


def test_a_file_that_the_manifest_does_not_name_is_not_read(fp32, tmp_path):
    import shutil

    shutil.copytree(fp32("gpt2").path, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ContractError, match=r"chat_template\.jinja: lies there and is not in the manifest"):
        server.load(tmp_path / "copy", provider="cpu", threads=1)


def test_a_provider_that_is_not_there_is_an_error(fp32):
    with pytest.raises(ProviderUnavailable, match="--provider cuda"):
        server.load(fp32("gpt2").path, provider="cuda", threads=1)


def test_a_port_that_is_taken_is_an_error(fp32):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot listen there"):
        server.serve(
            fp32("gpt2").path,
            host="127.0.0.1",
            port=taken.getsockname()[1],
            provider="cpu",
            threads=1,
            ready=lambda *_: None,
        )


def test_a_missing_library_is_named_with_what_to_install(fp32, monkeypatch):
    monkeypatch.setattr(server, "_LIBRARIES", ("starlette", "no_such_library"))
    with pytest.raises(UnsupportedHere, match=r"no_such_library not installed; pip install 'qexport\[serve\]'"):
        server.load(fp32("gpt2").path, provider="cpu", threads=1)


PROGRAM = """
import signal, sys, threading
from http.client import HTTPConnection
from pathlib import Path
from qexport.serving.server import serve

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)  # as the command line does

def ready(served, url):
    print(url, flush=True)

serve(Path(sys.argv[1]), host="127.0.0.1", port=0, provider="cpu", threads=1, ready=ready)
heavy = {"torch", "transformers", "onnx", "datasets", "optimum", "huggingface_hub", "scipy", "pandas"}
print(sorted(heavy & set(sys.modules)), flush=True)
"""


def test_the_process_never_imports_torch_and_ends_well_on_sigterm(fp32):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(fp32("gpt2").path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        url = process.stdout.readline().strip()
        body = json.dumps({"model": "gpt2", "prompt": "the dog", "max_tokens": 5}).encode()
        with urlopen(f"{url}/v1/completions", body, timeout=30) as reply:
            assert json.load(reply)["choices"][0]["finish_reason"] in ("stop", "length")
        with urlopen(f"{url}/health", timeout=30) as reply:
            assert reply.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0].strip() == "[]"
        assert process.returncode == 0
    finally:
        process.kill()


def test_the_manifest_decides_which_kernels_must_run(fp32, tmp_path):
    made = quantization.quantize(str(fp32("gpt2").path), tmp_path / "out", recipe_name="w4a16-rtn")
    served = server.load(made.path, provider="cpu", threads=1)
    served.worker.close()
    assert served.ran["block_matmuls_run"] > 0

    file = made.path / MANIFEST_NAME
    manifest = json.loads(file.read_text())
    manifest["quantized"].pop()
    file.write_text(json.dumps(manifest))
    with pytest.raises(ContractError, match="ran where the manifest names"):
        server.load(made.path, provider="cpu", threads=1)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "config.json.bak"])
def test_a_resealed_graph_reads_no_file_of_others(fp32, tmp_path, location):
    import shutil

    from tests.core.test_external_data import outside

    folder = shutil.copytree(fp32("llama").path, tmp_path / "artifact")
    for place in (tmp_path / "secret.bin", folder / "config.json.bak"):
        place.write_bytes(bytes(2**20))
    outside(folder, location)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "which is no file of the manifest" in ended.stderr
