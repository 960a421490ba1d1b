from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from qexport.core.artifact import Draft, load_artifact
from qexport.core.errors import InputError
from qexport.deployment.card import CARD_NAME
from qexport.deployment.hub import LIST_NAME, licence_of
from tests.hub_stand_in import TOKEN, serving, sha256

BASE = "openai-community/gpt2"
DRIVER = """
import json, sys
from pathlib import Path
from qexport.core.errors import QExportError
from qexport.deployment.hub import push

for line in sys.stdin:
    path, repo_id, options = json.loads(line)
    options = {name: Path(value) if name in ("records", "dry_run") else value for name, value in options.items()}
    try:
        answer = 0, push(Path(path), repo_id, **options).model_dump_json()
    except QExportError as error:
        answer = error.exit_code, f"{type(error).__name__}: {error}"
    sys.stderr.flush()
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Pushed:
    code: int
    said: str
    stderr: str

    def done(self) -> dict:
        """The report of a push that went well, with nothing on stderr."""
        assert (self.code, self.stderr) == (0, ""), self.said + self.stderr
        return json.loads(self.said)

    def refused(self, kind: str) -> str:
        """The one line of an error of that kind."""
        assert (self.code, self.stderr) == (3, ""), self.stderr
        name, _, line = self.said.strip().partition(": ")
        assert name == kind
        assert "\n" not in line
        return line


@pytest.fixture(scope="module")
def address():
    with serving() as stand_in:
        yield stand_in


@pytest.fixture
def hub(address):
    """An empty hub."""
    address.reset()
    return address


@pytest.fixture(scope="module")
def environment(address, tmp_path_factory):
    """As a user has it who set the hub's address and a token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return kept | {"HF_ENDPOINT": address.url, "HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def started(environment, tmp_path_factory):
    """Starts processes of their own: the hub's library reads its settings when it is imported, and tests are offline."""
    running = []

    def start(code, *arguments, **changed):
        settings = {name: value for name, value in (environment | changed).items() if value is not None}
        command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
        folder = tmp_path_factory.mktemp("process")
        errors = (folder / "stderr").open("w+")
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=settings, cwd=folder, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        running.append((process, errors))
        return process, errors

    yield start
    for process, errors in running:
        process.communicate(timeout=60)
        errors.close()


@pytest.fixture(scope="module")
def usual(started):
    """One process for all pushes whose environment is the usual one."""
    return started(DRIVER)


@pytest.fixture
def run(started):
    def python(code, *arguments):
        process, errors = started(code, *arguments)
        said, _ = process.communicate(timeout=300)
        errors.seek(0)
        return Pushed(process.returncode, said, errors.read())

    return python


@pytest.fixture
def push(started, usual):
    def call(path, repo_id, *, environment=None, **options):
        given = {"licence": "apache-2.0"} | {name: str(v) if isinstance(v, Path) else v for name, v in options.items()}
        process, errors = started(DRIVER, **environment) if environment else usual
        before = errors.seek(0, os.SEEK_END)
        process.stdin.write(json.dumps([str(path), repo_id, given]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        errors.seek(before)
        stderr = errors.read()
        assert answer, stderr
        return Pushed(*json.loads(answer), stderr)

    return call


@pytest.fixture
def artifact(fp32, tmp_path):
    """A small artifact that may be written to."""
    folder = tmp_path / "artifact"
    shutil.copytree(fp32("gpt2").path, folder)
    return load_artifact(folder)


def changed(artifact, folder, **model):
    """A copy whose manifest says something else of the model."""
    shutil.copytree(artifact.path, folder)
    (folder / "qexport.json").unlink()
    info = artifact.manifest.model.model_copy(update=model)
    Draft(folder).finish(artifact.manifest.model_copy(update={"model": info}))
    return load_artifact(folder)


def test_what_was_pushed_comes_back_byte_for_byte(hub, push, run, artifact, tmp_path):
    (artifact.path / "notes.txt").write_text("not in the manifest, and nobody's business")
    report = push(artifact.path, "user/tiny").done()
    files = hub.repos["user/tiny"].files
    assert set(files) == {CARD_NAME, "qexport.json", ".gitattributes"} | {f.path for f in artifact.manifest.files}
    assert report["url"] == f"{hub.url}/user/tiny/commit/{hub.repos['user/tiny'].commits[-1][0]}"
    assert (report["changed"], report["removed"], report["others"]) == (True, [], [])
    assert {info["path"]: info["sha256"] for info in report["files"]} == {
        path: sha256(data) for path, data in files.items() if path != ".gitattributes"
    }
    assert any(request.startswith("PUT /lfs/") for request in hub.requests), (
        "the ONNX file takes the way of large files"
    )
    assert len(hub.repos["user/tiny"].commits) == 2, "the one that made the repository, and one with everything"

    code = "import sys, huggingface_hub as h; h.snapshot_download(sys.argv[1], local_dir=sys.argv[2])"
    down = tmp_path / "down"
    assert run(code, "user/tiny", down).code == 0
    assert load_artifact(down, verify=True).sha256 == artifact.sha256
    if shutil.which("jq"):
        check = re.search(r"jq .*", files[CARD_NAME].decode())[0]
        told = subprocess.run(["bash", "-c", check], cwd=down, capture_output=True, text=True, check=True).stdout
        assert told.splitlines() == [f"{info.path}: OK" for info in artifact.manifest.files]


@pytest.mark.slow
def test_the_python_of_the_card_loads_from_the_hub_and_generates(hub, push, run, artifact):
    """With the weights beside the graph, which onnxruntime refuses to read through the links of the hub's cache."""
    model = onnx.load(artifact.onnx_path)
    artifact.onnx_path.unlink()
    (artifact.path / "qexport.json").unlink()
    onnx.save_model(
        model, artifact.onnx_path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024
    )
    Draft(artifact.path).finish(artifact.manifest)
    push(artifact.path, "user/tiny").done()
    assert "model.onnx.data" in hub.repos["user/tiny"].files
    snippet = re.search(r"```python\n(.*?)```", hub.repos["user/tiny"].files[CARD_NAME].decode(), re.DOTALL)[1]
    generated = run(f"import warnings; warnings.simplefilter('ignore')\n{snippet}print(tokens.shape[1])")
    assert generated.code == 0, generated.stderr
    assert int(generated.said.split()[-1]) > 4


def test_a_second_push_replaces_the_first_and_takes_its_leftovers_away(hub, push, artifact):
    push(artifact.path, "user/tiny").done()
    first = dict(hub.repos["user/tiny"].files)
    hub.add("user/tiny", first | {"LICENSE": b"by hand"})
    path = artifact.path / "generation_config.json"
    path.unlink()
    (artifact.path / "qexport.json").unlink()
    Draft(artifact.path).finish(artifact.manifest)
    report = push(artifact.path, "user/tiny").done()
    assert report["removed"] == ["generation_config.json"]
    assert report["others"] == ["LICENSE"]
    assert set(first) - set(hub.repos["user/tiny"].files) == {"generation_config.json"}


def test_the_same_push_again_changes_nothing(hub, push, artifact):
    push(artifact.path, "user/tiny").done()
    commits = len(hub.repos["user/tiny"].commits)
    report = push(artifact.path, "user/tiny").done()
    assert report["url"].endswith(hub.repos["user/tiny"].commits[-1][0])
    assert not report["changed"]
    assert len(hub.repos["user/tiny"].commits) == commits


def test_another_model_is_not_overwritten(hub, push, artifact):
    hub.add("user/tiny", {"config.json": b"{}", "model.safetensors": b"weights", CARD_NAME: b"# Mine"})
    line = push(artifact.path, "user/tiny").refused("InputError")
    assert "user/tiny: holds another model (config.json)" in line
    assert hub.repos["user/tiny"].files[CARD_NAME] == b"# Mine"


@pytest.mark.parametrize("name", ["model.onnx", "config.json", CARD_NAME, "qexport.json"])
def test_a_file_altered_on_its_way_is_found(hub, push, artifact, name):
    hub.corrupt = name
    line = push(artifact.path, "user/tiny").refused("ContractError")
    assert f"user/tiny: {name} in the commit" in line
    assert "do not use that commit" in line


def test_a_file_that_the_hub_leaves_out_is_found(hub, push, artifact):
    hub.lose = "model.onnx"
    line = push(artifact.path, "user/tiny").refused("ContractError")
    assert "model.onnx is not in the commit" in line


def test_an_altered_artifact_is_not_sent(hub, push, artifact):
    data = bytearray(artifact.onnx_path.read_bytes())
    data[-1] ^= 1
    artifact.onnx_path.write_bytes(data)
    assert "model.onnx: altered" in push(artifact.path, "user/tiny").refused("ContractError")
    assert hub.requests == []


def test_private_makes_it_private_and_is_no_empty_word(hub, push, artifact):
    assert push(artifact.path, "user/secret", private=True).done()
    assert hub.repos["user/secret"].private
    push(artifact.path, "user/open").done()
    assert not hub.repos["user/open"].private
    assert "is public already" in push(artifact.path, "user/open", private=True).refused("InputError")


@pytest.mark.parametrize(
    ("token", "repo_id", "line"),
    [
        (None, "user/tiny", "`hf auth login`, or set HF_TOKEN"),
        ("hf_wrong", "user/tiny", "`hf auth login`, or set HF_TOKEN"),
        (TOKEN, "somebody/tiny", "your token may not write there"),
        ("hf_stranger", "user/public", "take one with write access to user"),
    ],
)
def test_a_token_that_may_not_write(hub, push, artifact, *, token, repo_id, line):
    hub.add("user/public", {".gitattributes": b""})
    found = push(artifact.path, repo_id, environment={"HF_TOKEN": token}).refused("InputError")
    assert found.startswith(f"{repo_id}: ")
    assert line in found
    assert "config.json" not in hub.repos["user/public"].files


@pytest.mark.parametrize(
    ("status", "kind", "line"),
    [
        (412, "InputError", "changed by somebody else meanwhile"),
        (413, "InputError", "refuses the push (413) (the stand-in was told to fail)"),
        (503, "UnsupportedHere", "the hub does not work now (503)"),
    ],
)
def test_a_hub_that_fails(hub, push, artifact, *, status, kind, line):
    hub.fail = status
    assert line in push(artifact.path, "user/tiny").refused(kind)


def test_no_hub_at_all(push, artifact):
    line = push(artifact.path, "user/tiny", environment={"HF_ENDPOINT": "http://127.0.0.1:9"}).refused(
        "UnsupportedHere"
    )
    assert line.startswith("user/tiny: http://127.0.0.1:9 cannot be reached (ConnectionError)")
    line = push(artifact.path, "user/tiny", environment={"HF_HUB_OFFLINE": "1"}).refused("UnsupportedHere")
    assert "HF_HUB_OFFLINE is set" in line


@pytest.mark.parametrize("repo_id", ["tiny", "user/ti ny", "user/tiny/again", "user/-tiny", "user/ti--ny"])
def test_a_name_that_the_hub_does_not_take(hub, push, artifact, repo_id):
    assert "USER/" in push(artifact.path, repo_id).refused("InputError")
    assert hub.requests == []


def test_a_dry_run_needs_no_hub_and_tells_what_would_be_sent(hub, push, artifact, tmp_path):
    out = tmp_path / "out"
    report = push(artifact.path, "user/tiny", dry_run=out, environment={"HF_HUB_OFFLINE": "1"}).done()
    assert hub.requests == []
    assert sorted(os.listdir(out)) == [CARD_NAME, LIST_NAME]
    listed = json.loads((out / LIST_NAME).read_text())
    assert listed["files"] == report["files"]
    push(artifact.path, "user/tiny").done()
    sent = hub.repos["user/tiny"].files
    assert {info["path"]: info["sha256"] for info in listed["files"]} == {
        path: sha256(data) for path, data in sent.items() if path != ".gitattributes"
    }
    assert (out / CARD_NAME).read_bytes() == sent[CARD_NAME]
    assert "exists; choose another" in push(artifact.path, "user/tiny", dry_run=out).refused("InputError")


def test_the_licence_is_that_of_the_base_models_card_at_its_revision(hub, push, artifact, tmp_path):
    card = (
        b"---\nlicense: other\nlicense_name: gpt-2-licence\nlicense_link: https://example.org/licence\n---\n# GPT-2\n"
    )
    revision = hub.add(BASE, {CARD_NAME: card})
    hub.add(BASE, {CARD_NAME: b"---\nlicense: mit\n---\nlater\n"})
    ours = changed(artifact, tmp_path / "from-hub", name=BASE, revision=revision)
    report = push(ours.path, "user/tiny", licence=None).done()
    assert report["licence"] == "gpt-2-licence"
    text = hub.repos["user/tiny"].files[CARD_NAME].decode()
    assert "license: other\nlicense_name: gpt-2-licence\nlicense_link: https://example.org/licence\n" in text
    assert f"\nbase_model: {BASE}\n" in text
    assert "\nbase_model_relation: quantized\n" in text
    assert "[gpt-2-licence](https://example.org/licence), the base model's, from its card at this revision" in text


@pytest.mark.parametrize("card", [None, b"# no front matter\n", b"---\ntags: [x]\n---\n", b"---\nlicense: [a\n---\n"])
def test_a_licence_that_nobody_tells_is_asked_for(hub, push, artifact, tmp_path, card):
    revision = hub.add(BASE, {} if card is None else {CARD_NAME: card})
    ours = changed(artifact, tmp_path / "from-hub", name=BASE, revision=revision)
    for dry_run in ({}, {"dry_run": tmp_path / "out"}):
        assert "with --license" in push(ours.path, "user/tiny", licence=None, **dry_run).refused("InputError")
    assert "user/tiny" not in hub.repos
    assert push(ours.path, "user/tiny", licence="mit").done()["licence"] == "mit"


def test_the_licence_of_a_local_model_is_asked_for(artifact):
    with pytest.raises(InputError, match="gpt2: a local model, whose licence the artifact does not know"):
        licence_of(artifact.manifest.model, None)
    with pytest.raises(InputError, match=r"--license Apache 2\.0: not a name of the hub"):
        licence_of(artifact.manifest.model, "Apache 2.0")


def test_a_licence_that_the_hub_does_not_know_is_refused_before_anything_is_sent(hub, push, artifact):
    line = push(artifact.path, "user/tiny", licence="appache-2.0").refused("InputError")
    assert '"license" must be one of' in line
    assert set(hub.repos["user/tiny"].files) == {".gitattributes"}


def test_records_of_another_artifact_stop_a_push(hub, push, artifact):
    records = Path(__file__).parent.parent.parent / "docs" / "results" / "reference"
    assert "no record of this artifact" in push(artifact.path, "user/tiny", records=records).refused("InputError")
    assert hub.requests == []
