"""The images without an engine: their RUN lines in a clean environment, and from there the server by its real client.

What a Dockerfile says is taken from it: stages, RUN lines, ENTRYPOINT and HEALTHCHECK. Only the places are others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from qexport import exporting, quantization
from qexport.core.artifact import load_artifact
from qexport.runtime.decoding import generate
from qexport.runtime.opening import open_session
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
DOCKERFILE = ROOT / "Dockerfile"
PLACES = ("/opt/qexport", "/wheels", "/src", "/artifact")
NEW_TOKENS = 40
PROMPTS = {
    "stories260K": ["Once upon a time, there was a little girl", "Lily", "The dog and the cat"],
    "reference": ["The old clock in the hall", "Today", "She opened the small box and"],
}


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    lines: tuple[tuple[str, str], ...]
    """Instructions in order: the word, and what follows it."""

    def all(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.lines if instruction == word]


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name, comments and line ends taken out."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    found: list[tuple[str, str, list[tuple[str, str]]]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append((name, base, []))
        elif word and found:
            found[-1][2].append((word, rest.strip()))
    return {name: Stage(name, base, tuple(lines)) for name, base, lines in found}


def lineage(name: str) -> list[Stage]:
    """A stage and those that it builds on, the first one first."""
    known = stages()
    return [*(lineage(known[name].base) if known[name].base in known else ()), known[name]]


def environment(*folders: Path) -> dict[str, str]:
    """Nothing of what surrounds the tests but the way to the package index."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "http", "https"))}
    return kept | {"PATH": os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"]), "HOME": "/nonexistent"}


@dataclass(frozen=True)
class Built:
    """What the stages of a target leave, each place under a folder of its own."""

    root: Path

    def moved(self, text: str) -> str:
        return re.sub(
            "|".join(rf"(?<![\w.]){place}(?!\w)" for place in PLACES), lambda hit: f"{self.root}{hit[0]}", text
        )

    @property
    def bin(self) -> Path:
        return self.root / "opt" / "qexport" / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A RUN line of the last stage, or what else runs in the image."""
        moved = self.moved(command)
        done = subprocess.run(
            ["/bin/sh", "-c", moved],
            env=environment(self.bin),
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{moved}\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture(scope="session")
def built(client, tmp_path_factory) -> Built:
    """The packages of the CPU image, made by its own lines with the pip of a clean environment."""
    client("images")  # without the index there is no client either
    root = tmp_path_factory.mktemp("image")
    image = Built(root)
    venv.create(root / "base", with_pip=True)
    (root / "src").mkdir()
    for stage in lineage("serve-cpu-packages"):
        for word, rest in stage.lines:
            if word == "COPY":
                *sources, _ = rest.split()
                for source in sources:
                    copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                    copy(ROOT / source, root / "src" / source)
            elif word == "RUN" and "apt-get" not in rest:
                subprocess.run(
                    ["/bin/sh", "-c", image.moved(rest)],
                    env=environment(root / "base" / "bin"),
                    cwd=root / "src",
                    check=True,
                )
    return image


@pytest.fixture(scope="session")
def artifacts(data_dir, tmp_path_factory) -> dict[str, Path]:
    """Of both models in fp32, 8 bit and 4 bit."""
    folder = tmp_path_factory.mktemp("served")
    made = {}
    for model, source in (("stories260K", str(data_dir / "models" / "stories260K")), ("reference", "reference")):
        fp32 = exporting.export(source, folder / f"{model}-fp32")
        made[f"{model} fp32"] = fp32.path
        for recipe in ("int8-static", "int8-dynamic", "w4a16-rtn"):
            made[f"{model} {recipe}"] = quantization.quantize(
                str(fp32.path), folder / f"{model}-{recipe}", recipe_name=recipe
            ).path
    return made


NAMES = [
    f"{model} {recipe}"
    for model in ("stories260K", "reference")
    for recipe in ("fp32", "int8-static", "int8-dynamic", "w4a16-rtn")
]


def test_hadolint_has_nothing_to_say(client):
    said = subprocess.run(
        [client("images") / "bin" / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (said.stdout, said.returncode) == ("", 0)


def test_each_target_is_not_root_and_has_a_port_a_health_check_and_an_entry():
    for target in ("serve-cpu", "serve-cuda"):
        lines = [line for stage in lineage(target) for line in stage.lines]
        words = [word for word, _ in lines]
        user = next(rest for word, rest in lines if word == "USER")
        assert user == "1000:1000"
        assert words.index("USER") < words.index("COPY")  # what is checked is what that user can read
        assert {"EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "LABEL"} <= set(words)
        assert json.loads(stages()[target].all("ENTRYPOINT")[0])[:3] == ["qexport", "serve", "/artifact"]


def test_the_last_stage_is_still_the_whole_tool():
    assert list(stages())[-1] == "final"
    assert json.loads(stages()["final"].all("ENTRYPOINT")[0]) == ["qexport"]


def test_what_is_installed_is_pinned_and_is_no_torch(built):
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    listing = "import importlib.metadata as m; print([(d.name, d.version) for d in m.distributions()])"
    installed = dict(eval(built.run(f'python -c "{listing}"').stdout))
    pinned = {name.lower().replace("_", "-"): version for name, version in installed.items() if name != "qexport"}
    assert pinned == {name: pins.get(name) for name in pinned}
    assert not {"torch", "transformers", "onnx", "pip", "huggingface-hub"} & set(pinned)
    assert "qexport" in installed


@pytest.mark.parametrize("target", ["serve-cpu", "serve-cuda"])
def test_an_image_is_made_of_a_whole_artifact_only(built, artifacts, target):
    (line,) = stages()[target].all("RUN")
    place = built.root / "artifact"
    shutil.copytree(artifacts["stories260K w4a16-rtn"], place)
    try:
        built.run(line)
        weights = place / "model.onnx.data" if (place / "model.onnx.data").exists() else place / "model.onnx"
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
        refused = built.run(line, check=False)
        assert refused.returncode == 3
        assert "altered" in refused.stderr
    finally:
        shutil.rmtree(place)
    place.mkdir()  # no --build-context
    try:
        assert built.run(line, check=False).returncode == 3
    finally:
        place.rmdir()


def test_an_image_with_torch_in_it_is_not_made(built):
    (line,) = stages()["serve-cpu"].all("RUN")
    check = line.partition("&&")[0]
    built.run(check)
    site = next((built.root / "opt" / "qexport" / "lib").glob("python*/site-packages"))
    (site / "torch.py").touch()
    try:
        assert built.run(check, check=False).returncode == 1
    finally:
        (site / "torch.py").unlink()


@dataclass(frozen=True)
class Running:
    url: str
    port: int
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def run_image(built, artifacts, tmp_path_factory):
    """The container of an artifact, as a process of the image's own command."""

    def start(name: str) -> Iterator[Running]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        entry = json.loads(stages()["serve-cpu"].all("ENTRYPOINT")[0])
        command = [
            str(artifacts[name]) if word == "/artifact" else str(port) if word == "8000" else word for word in entry
        ]
        command[0] = str(built.bin / command[0])
        log = tmp_path_factory.mktemp("log") / "stderr"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*command, "--threads", "1"], env=environment(built.bin), cwd=built.root, stderr=stderr, text=True
            )
        try:
            end = time.monotonic() + 60
            while healthy(built, port) != 0:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            yield Running(f"http://127.0.0.1:{port}/v1", port, process)
        finally:
            process.kill()
            process.wait()

    return start


def healthy(built: Built, port: int) -> int:
    """The exit code of the image's own health check."""
    check = next(rest for stage in lineage("serve-cpu") for rest in stage.all("HEALTHCHECK"))
    command = json.loads(check.partition("CMD ")[2].replace("8000", str(port)))
    return subprocess.run(
        [built.bin / command[0], *command[1:]], env=environment(built.bin), capture_output=True, check=False
    ).returncode


CLIENT = """
import json, sys
from openai import BadRequestError, OpenAI

url, prompts, ids, new_tokens = json.load(sys.stdin)
openai = OpenAI(base_url=url, api_key="none", max_retries=0)
(model,) = [entry.id for entry in openai.models.list()]
settings = dict(model=model, max_tokens=new_tokens, temperature=0, extra_body={"return_token_ids": True})

def told(choice):
    return [choice.token_ids, choice.text, choice.finish_reason]

found = {
    "model": model,
    "alone": [told(openai.completions.create(prompt=text, **settings).choices[0]) for text in prompts],
    "batch": [told(choice) for choice in openai.completions.create(prompt=prompts, **settings).choices],
    "ids": [told(choice) for choice in openai.completions.create(prompt=ids, **settings).choices],
}
streamed = [[[], "", None] for _ in prompts]
for event in openai.completions.create(prompt=prompts, stream=True, **settings):
    for choice in event.choices:
        answer = streamed[choice.index]
        answer[0] += choice.token_ids
        answer[1] += choice.text
        answer[2] = choice.finish_reason
found["stream"] = streamed
try:
    openai.completions.create(**{**settings, "prompt": prompts, "temperature": 0.7})
except BadRequestError as error:
    found["refused"] = error.body["message"]
try:
    openai.chat.completions.create(model=model, messages=[{"role": "user", "content": "a"}])
except BadRequestError as error:
    found["chat"] = error.body["message"]
print(json.dumps(found))
"""


def by_torch(source: Path, ids: list[int]) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source).eval()
    prompt = torch.tensor([ids])
    new = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False)
    return new[0, len(ids) :].tolist()


def by_runtime(artifact: Path, ids: list[int]) -> list[int]:
    session = open_session(load_artifact(artifact), threads=1)
    stop = {json.loads((artifact / "generation_config.json").read_text())["eos_token_id"]}
    prompt = np.array([ids])
    decoder = session.decoder(batch=1, capacity=len(ids) + NEW_TOKENS)
    return generate(decoder, prompt, np.ones_like(prompt), new_tokens=NEW_TOKENS, stop=stop).tokens[0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_the_openai_client_gets_the_same_tokens(client, artifacts, run_image, data_dir, name):
    from transformers import AutoTokenizer

    model, recipe = name.split()
    source = ROOT / "models" / "reference" if model == "reference" else data_dir / "models" / model
    tokenizer = AutoTokenizer.from_pretrained(source)
    prompts = PROMPTS[model]
    ids = [tokenizer(text)["input_ids"] for text in prompts]
    expected = []
    for each in ids:
        tokens = by_torch(source, each) if recipe == "fp32" else by_runtime(artifacts[name], each)
        ended = tokens[-1] == tokenizer.eos_token_id
        both = tokenizer.decode(each + tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        start = tokenizer.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert both.startswith(start)
        expected.append([tokens, both[len(start) :], "stop" if ended else "length"])
    for running in run_image(name):
        said = subprocess.run(
            [client("images") / "bin" / "python", "-c", CLIENT],
            input=json.dumps([running.url, prompts, ids, NEW_TOKENS]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        found = json.loads(said.stdout)
        assert found["model"] == model
        for way in ("alone", "batch", "ids", "stream"):
            assert found[way] == expected, way
        assert found["refused"].startswith("temperature 0.7 is not served")
        assert found["chat"] == "this tokenizer has no chat template; use /v1/completions"
        if sys.platform == "linux":
            maps = Path(f"/proc/{running.process.pid}/maps").read_text()
            assert "onnxruntime" in maps
            assert "torch" not in maps


TALK = [{"role": "user", "content": "The old clock"}]
TEMPLATE = "{% for message in messages %}{{ message['content'] }} in the{% endfor %}"
CHAT = """
import json, sys
from openai import OpenAI

openai = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
asked = dict(model="talker", messages=json.loads(sys.argv[2]), max_completion_tokens=20, temperature=0)
whole = openai.chat.completions.create(**asked, extra_body={"return_token_ids": True}).choices[0]
parts = [event.choices[0].delta.content for event in openai.chat.completions.create(**asked, stream=True)]
print(json.dumps([whole.token_ids, whole.message.content, "".join(parts)]))
"""


def test_the_openai_client_talks_by_the_chat_template(client, artifacts, run_image, tmp_path):
    from transformers import AutoTokenizer

    source = tmp_path / "talker"
    shutil.copytree(ROOT / "models" / "reference", source)
    (source / "chat_template.jinja").write_text(TEMPLATE)
    artifacts["talker fp32"] = exporting.export(str(source), tmp_path / "artifact").path
    tokenizer = AutoTokenizer.from_pretrained(source)
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True)
    tokens = by_torch(source, ids)[:20]
    for running in run_image("talker fp32"):
        said = subprocess.run(
            [client("images") / "bin" / "python", "-c", CHAT, running.url, json.dumps(TALK)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert json.loads(said.stdout) == [tokens, text, text]


def test_the_health_check_fails_once_the_server_is_gone_and_sigterm_ends_it_well(built, run_image):
    for running in run_image("reference w4a16-rtn"):
        assert healthy(built, running.port) == 0
        running.process.terminate()
        assert running.process.wait(timeout=20) == 0
        assert healthy(built, running.port) == 1


def test_the_packages_of_the_cuda_image_can_be_had_and_are_pinned(client, tmp_path):
    client("images")
    (line,) = stages()["serve-cuda-packages"].all("RUN")
    install = next(step for step in line.split("&&") if "onnxruntime-gpu" in step)
    wanted = install.partition("install ")[2].replace("constraints.txt", str(ROOT / "constraints.txt"))
    venv.create(tmp_path / "base", with_pip=True)
    # Not downloaded: the libraries have gigabytes.
    resolve = f"pip install -q --dry-run --ignore-installed --report {tmp_path}/report.json {wanted}"
    subprocess.run(["/bin/sh", "-c", resolve], env=environment(tmp_path / "base" / "bin"), check=True)
    report = json.loads((tmp_path / "report.json").read_text())
    found = {
        each["metadata"]["name"].lower().replace("_", "-"): each["metadata"]["version"] for each in report["install"]
    }
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    assert [name for name, version in found.items() if f"{name}=={version}" not in pins] == []
    # What libonnxruntime_providers_cuda.so 1.31.1 links, and what it opens when asked.
    needed = {"nvidia-cublas", "nvidia-curand", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-cufft"}
    assert needed <= set(found)
    assert not {"torch", "onnxruntime"} & set(found)
