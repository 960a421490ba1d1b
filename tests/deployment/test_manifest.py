"""The manifest of a deployment, and what ``qexport verify`` finds out with it."""

from __future__ import annotations

import json
import os
import shutil
from typing import get_args

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from qexport.cli.app import app
from qexport.core.artifact import DEPLOYMENT, MANIFEST_NAME, file_sha256, kind_of, load_artifact
from qexport.core.errors import InputError
from qexport.deployment.manifest import Deployment, LaidFile, read_deployment, verify
from qexport.deployment.pipeline import deploy
from qexport.quantization.targets import Target
from tests.plants import copy


@pytest.fixture(scope="module")
def art(fp32):
    return fp32("llama").path


@pytest.fixture(scope="module")
def laid(art, tmp_path_factory):
    """A deployment that has files of every kind, and must not be written to."""
    folder = tmp_path_factory.mktemp("laid") / "genai"
    deploy([art], "genai", folder)
    return folder


@pytest.fixture
def own(laid, tmp_path):
    """A deployment that a test may spoil."""
    return copy(laid, tmp_path / "own")


@pytest.fixture(params=["artifact", "deployment"])
def either(request, art, laid, tmp_path):
    """An artifact or a deployment that a test may spoil."""
    return copy(art if request.param == "artifact" else laid, tmp_path / "own")


def run(*words, code=0):
    result = CliRunner().invoke(app, ["verify", *map(str, words)], catch_exceptions=True)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.stderr
    assert result.stderr.count("\n") == (0 if code == 0 else 1)
    return result


def states(folder):
    """What is not as it was written."""
    return {each.path: each.state for each in verify(folder).findings if each.state != "as written"}


def rewrite(folder, change):
    """The manifest, once ``change`` had its values."""
    values = json.loads((folder / MANIFEST_NAME).read_text())
    change(values)
    (folder / MANIFEST_NAME).write_text(json.dumps(values))


def entry(values, path):
    return next(info for info in values["files"] if info["path"] == path)


# What is there


def test_everything_is_as_written(either):
    found = verify(either)
    manifest = json.loads((either / MANIFEST_NAME).read_text())
    assert [each.path for each in found.findings] == [info["path"] for info in manifest["files"]]
    assert {each.state for each in found.findings} == {"as written"}
    assert found.damage == ()
    assert run(either).stderr == ""


def test_what_a_folder_is(art, laid, tmp_path):
    assert verify(art).what == "artifact fp32"
    assert verify(laid).what == f"deployment for genai of {art.name}"


def test_each_file_says_whose_it_is(laid, art):
    found = {each.path: each for each in verify(laid).findings}
    assert (found["model.onnx"].of, found["model.onnx"].change) == (f"{art.name}:model.onnx", "")
    assert (found["genai_config.json"].of, found["genai_config.json"].change) == ("", "written for onnxruntime-genai")
    shown = run(laid).stdout.splitlines()
    assert shown[0] == f"{laid}: deployment for genai of {art.name}"
    assert f"  as written: model.onnx  was {art.name}:model.onnx, byte for byte" in shown
    assert "  as written: genai_config.json  written for onnxruntime-genai" in shown
    assert len(shown) == 1 + len(found)


def test_json_has_every_finding(either):
    told = json.loads(run(either, "--json").stdout)
    assert told["what"] == verify(either).what
    assert told["findings"] == [vars(each) for each in verify(either).findings]


# What was changed


def flipped(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def longer(path):
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("spoil", [flipped, truncated, emptied, longer])
@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json"])
def test_an_altered_file(either, name, spoil):
    spoil(either / name)
    assert states(either) == {name: "altered"}
    result = run(either, code=3)
    assert f"  altered: {name}" in result.stdout
    assert result.stderr == f"qexport: {either}: is not as it was written: {name} (altered); make it again\n"


def test_an_altered_file_says_what_it_was(own, art):
    flipped(own / "model.onnx")
    flipped(own / "genai_config.json")
    shown = run(own, code=3).stdout
    assert f"  altered: model.onnx  was {art.name}:model.onnx, byte for byte\n" in shown
    assert "  altered: genai_config.json  written for onnxruntime-genai\n" in shown


def gone(path):
    path.unlink()


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_link_to_nowhere(path):
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("spoil", [gone, a_folder, a_link_to_nowhere])
def test_a_missing_file(either, spoil):
    spoil(either / "model.onnx")
    assert states(either) == {"model.onnx": "missing"}
    result = run(either, "--json", code=3)
    assert result.stderr.endswith("is not as it was written: model.onnx (missing); make it again\n")
    missing = [each for each in json.loads(result.stdout)["findings"] if each["state"] == "missing"]
    assert [each["path"] for each in missing] == ["model.onnx"]


def test_added_files_are_told_and_do_no_harm(either):
    """A clone of a hub's repository has such."""
    (either / "README.md").write_text("a card")
    (either / "sub" / "deep").mkdir(parents=True)
    (either / "sub" / "deep" / MANIFEST_NAME).write_text("{}")
    (either / ".gitattributes").write_text("x")
    assert states(either) == {"README.md": "added", f"sub/deep/{MANIFEST_NAME}": "added", ".gitattributes": "added"}
    assert "  added: README.md\n" in run(either).stdout


def test_everything_at_once(own):
    flipped(own / "model.onnx")
    gone(own / "config.json")
    (own / "new.txt").write_text("")
    assert states(own) == {"model.onnx": "altered", "config.json": "missing", "new.txt": "added"}
    line = run(own, code=3).stderr
    assert "config.json (missing), model.onnx (altered); make it again" in line
    assert "new.txt" not in line


def test_two_files_that_changed_places(own):
    one, two = own / "config.json", own / "tokenizer_config.json"
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)
    assert states(own) == {"config.json": "altered", "tokenizer_config.json": "altered"}


def test_links_to_the_very_bytes_are_as_written(either, tmp_path):
    """So the hub's cache keeps a snapshot."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in [path for path in either.rglob("*") if path.is_file()]:
        shutil.move(path, blobs / path.name)
        path.symlink_to(os.path.relpath(blobs / path.name, path.parent))
    assert states(either) == {}
    (either / "config.json").unlink()
    (either / "config.json").symlink_to(blobs / "tokenizer.json")
    assert states(either) == {"config.json": "altered"}


def test_names_in_square_brackets_are_printed_whole(own):
    (own / "[red]new.txt").write_text("")
    assert "  added: [red]new.txt\n" in run(own).stdout


def test_a_relative_folder(own, monkeypatch):
    monkeypatch.chdir(own)
    assert run(".").stdout.startswith(".: deployment for genai of")


def test_verifying_changes_nothing(own):
    before = {path: path.stat().st_mtime_ns for path in (own, *own.rglob("*"))}
    verify(own)
    assert {path: path.stat().st_mtime_ns for path in (own, *own.rglob("*"))} == before


# Manifests that cannot be used


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda _: None, "no such folder"),
        (lambda path: path.mkdir(), "has no qexport.json"),
        (lambda path: path.write_text("x"), "a file, not a folder"),
    ],
)
def test_a_folder_without_a_manifest(tmp_path, put, said):
    put(tmp_path / "own")
    line = run(tmp_path / "own", code=3).stderr
    assert line.startswith(f"qexport: {tmp_path / 'own'}: {said}; ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "1",
        '"deployment"',
        '{"kind": "deployment"}',
        '{"kind": ["deployment"]}',
        '{"kind": "artifact"}',
        "\0",
    ],
)
def test_a_corrupt_manifest(either, text):
    (either / MANIFEST_NAME).write_text(text)
    result = run(either, code=3)
    assert result.stdout == ""
    assert f"{either / MANIFEST_NAME}: corrupt manifest" in result.stderr


def test_a_manifest_cut_in_two(either):
    text = (either / MANIFEST_NAME).read_text()
    (either / MANIFEST_NAME).write_text(text[: len(text) // 2])
    assert "corrupt manifest" in run(either, code=3).stderr


def test_a_manifest_that_is_a_folder(either):
    (either / MANIFEST_NAME).unlink()
    (either / MANIFEST_NAME).mkdir()
    assert "has no qexport.json" in run(either, code=3).stderr


def test_a_manifest_with_bytes_that_are_no_text(either):
    """Of a spoiled manifest nothing can be believed, so it is not read as well as can be."""
    text = (either / MANIFEST_NAME).read_bytes()
    (either / MANIFEST_NAME).write_bytes(text.replace(b'"llama"', b'"ll\xffma"'))
    assert "corrupt manifest" in run(either, code=3).stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"target": "tensorflow"},
        {"comment": "mine"},
        {"files": None},
        {"artifacts": [{"name": "x"}]},
        {"kind": "deploy"},
    ],
    ids=str,
)
def test_a_manifest_of_another_form(own, changes):
    rewrite(own, lambda values: values.update(changes))
    assert "corrupt manifest" in run(own, code=3).stderr
    with pytest.raises(InputError, match="corrupt manifest"):
        read_deployment(own)


# Manifests that contradict themselves


def an_origin_that_no_artifact_has(values):
    entry(values, "model.onnx")["of"] = "other:model.onnx"


def an_origin_of_other_bytes(values):
    info = entry(values, "config.json")
    info["of"] = info["of"].replace("config.json", "model.onnx")


def a_digest_that_is_not_the_origins(values):
    entry(values, "model.onnx")["sha256"] = "0" * 64


def another_digest_of_the_artifact(values):
    values["artifacts"][0]["sha256"] = "0" * 64


def a_file_of_no_origin(values):
    entry(values, "model.onnx")["of"] = ""


def a_file_of_an_artifact_and_changed(values):
    entry(values, "model.onnx")["change"] = "quantized further"


def a_model_that_is_no_file(values):
    values["artifacts"][0]["model"] = "other.onnx"


def a_model_that_is_not_told(values):
    values["files"].remove(entry(values, "model.onnx"))


def a_file_twice(values):
    values["files"].append(entry(values, "config.json") | {"of": "", "change": "mine"})


def no_artifacts(values):
    values["artifacts"] = []


@pytest.mark.parametrize(
    "contradict",
    [
        an_origin_that_no_artifact_has,
        an_origin_of_other_bytes,
        a_digest_that_is_not_the_origins,
        another_digest_of_the_artifact,
        a_file_of_no_origin,
        a_file_of_an_artifact_and_changed,
        a_model_that_is_no_file,
        a_model_that_is_not_told,
        a_file_twice,
        no_artifacts,
    ],
)
def test_a_manifest_that_contradicts_itself(own, contradict):
    rewrite(own, contradict)
    result = run(own, code=3)
    assert result.stdout == ""
    assert str(own / MANIFEST_NAME) in result.stderr


def test_a_graph_that_was_changed_with_both_its_digests(own):
    """The artifact's digest is over those of its files."""
    flipped(own / "model.onnx")

    def agree(values):
        for files in (values, values["artifacts"][0]["manifest"]):
            entry(files, "model.onnx")["sha256"] = file_sha256(own / "model.onnx")

    rewrite(own, agree)
    assert str(own / MANIFEST_NAME) in run(own, code=3).stderr


@pytest.mark.parametrize("path", ["../outside.txt", "sub/../../outside.txt", "/etc/hostname"])
def test_a_manifest_that_names_files_outside_its_folder(either, path):
    rewrite(either, lambda values: values["files"].append({**values["files"][0], "path": path}))
    result = run(either, code=3)
    assert path in result.stderr
    assert result.stdout == "", "a file outside the folder was read"


# Reading and writing


def test_what_is_written_is_read_again(laid):
    made = read_deployment(laid)
    text = (laid / MANIFEST_NAME).read_text()
    assert json.loads(text) == json.loads(made.model_dump_json(by_alias=True))
    assert Deployment.model_validate_json(made.model_dump_json(by_alias=True)) == made
    assert text.endswith("}\n")
    assert MANIFEST_NAME not in {info.path for info in made.files}


def test_the_manifest_holds_the_artifacts_own(laid, art):
    (deployed,) = read_deployment(laid).artifacts
    told = json.loads((laid / MANIFEST_NAME).read_text())["artifacts"][0]["manifest"]
    assert told == json.loads((art / MANIFEST_NAME).read_text())
    assert deployed.manifest == load_artifact(art).manifest


def test_a_deployment_that_is_an_artifact(art):
    with pytest.raises(InputError, match="is an artifact; `qexport deploy` makes folders"):
        read_deployment(art)


def test_an_artifact_that_is_a_deployment(laid):
    for thorough in (False, True):
        with pytest.raises(InputError, match="is a deployment, which other runtimes load; give the artifact"):
            load_artifact(laid, verify=thorough)


def test_the_manifest_cannot_be_changed_by_its_readers(laid):
    made = read_deployment(laid)
    for value in (made, made.files[0], made.artifacts[0]):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(value, next(iter(type(value).model_fields)), "other")
    with pytest.raises(ValidationError, match="forbidden"):
        LaidFile(path="a", size_bytes=1, sha256="0", more=1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"kind": "deployment"}', DEPLOYMENT),
        ('{"kind": "onnx"}', "onnx"),
        ("{}", ""),
        ("[]", ""),
        ("null", ""),
        ("3", ""),
        ('"deployment"', ""),
        ("{", ""),
        ("", ""),
    ],
)
def test_kind_of_a_manifest(text, kind):
    assert kind_of(text) == kind


def test_the_command_knows_every_target():
    shown = CliRunner().invoke(app, ["deploy", "--help"], env={"COLUMNS": "200"}).stdout
    assert [target for target in get_args(Target) if target not in shown] == []
