"""The verb and its command: what is made, what is refused, and what is there afterwards."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from qexport.cli.app import app
from qexport.core.artifact import MANIFEST_NAME, file_sha256, load_artifact, new_artifact
from qexport.core.errors import ContractError, InputError, QExportError, UnsupportedHere
from qexport.core.names import RuntimeName
from qexport.core.record import Conditions, Measurement, write_records
from qexport.deployment import pipeline as verb
from qexport.deployment.manifest import read_deployment, verify
from qexport.deployment.onnx_twins import require_onnx
from qexport.deployment.pipeline import LAYOUTS, deploy
from qexport.quantization.pipeline import quantize
from qexport.quantization.recipes import RECIPES, OnnxSchemes, TorchSchemes
from tests.command import failure, qexport
from tests.conftest import ROOT
from tests.plants import copy, planted

TARGETS = get_args(RuntimeName)
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


def needed(target):
    """What a target cannot do without."""
    return {"storage_uri": "s3://bucket/model"} if target == "kserve" else {}


def lay(paths, target, folder, **options):
    paths = paths if isinstance(paths, list) else [paths]
    return deploy([Path(path) for path in paths], target, folder, **needed(target), **options)


def contents(folder):
    """Every file, folder and link of a folder, with a digest of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        held = str(path.readlink()) if path.is_symlink() else file_sha256(path) if path.is_file() else "folder"
        found[path.relative_to(folder).as_posix()] = held
    return found


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def whole(fp32):
    """An artifact with everything in ``model.onnx``, which must not be written to."""
    assert not (fp32("llama").path / "model.onnx.data").exists()
    return fp32("llama").path


@pytest.fixture(scope="module")
def parted(whole, tmp_path_factory):
    """An artifact of the same model with weights beside the graph, which must not be written to."""
    folder = tmp_path_factory.mktemp("quantized") / "int8"
    quantize(str(whole), folder, recipe_name="int8-dynamic", options={"engine": "ort"})
    assert (folder / "model.onnx.data").is_file()
    return folder


@pytest.fixture(scope="module", params=["whole", "parted"])
def art(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def old(whole, tmp_path):
    """A deployment that is there already."""
    lay(whole, "optimum", tmp_path / "old")
    return tmp_path / "old"


# What is made


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_is_an_artifacts_or_told(art, tmp_path, target):
    made = lay(art, target, tmp_path / "out")
    artifact = load_artifact(art)
    assert {info.path for info in made.files} | {MANIFEST_NAME} == {
        name for name, held in contents(tmp_path / "out").items() if held != "folder"
    }
    own = {f"{art.name}:{info.path}": info for info in artifact.manifest.files}
    for info in made.files:
        assert bool(info.of) != bool(info.change), info
        assert file_sha256(tmp_path / "out" / info.path) == info.sha256
        assert (tmp_path / "out" / info.path).stat().st_size == info.size_bytes
        if info.of:
            assert own[info.of].sha256 == info.sha256
            assert (tmp_path / "out" / info.path).read_bytes() == (art / own[info.of].path).read_bytes()
    (deployed,) = made.artifacts
    assert deployed.model in {info.path for info in made.files}
    assert (deployed.name, deployed.sha256, deployed.manifest) == (art.name, artifact.sha256, artifact.manifest)
    assert (made.target, deployed.evidence) == (target, None)
    assert made.versions.items() >= LAYOUTS[target].proved.items()
    assert {finding.state for finding in verify(tmp_path / "out").findings} == {"as written"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_graph_is_the_artifacts_byte_for_byte_unless_told(art, tmp_path, target):
    made = lay(art, target, tmp_path / "out")
    has_data = (art / "model.onnx.data").exists()
    model = next(info for info in made.files if info.path == made.artifacts[0].model)
    if target != "transformersjs":
        assert model.of == f"{art.name}:model.onnx"
    elif has_data:
        assert model.change.startswith("reads its weights from model_quantized.onnx_data")
    beside = [info for info in made.files if info.path.endswith((".onnx.data", ".onnx_data"))]
    assert [info.of for info in beside] == ([f"{art.name}:model.onnx.data"] if has_data else [])


@pytest.mark.parametrize("target", TARGETS)
def test_deploying_twice_gives_the_same_bytes(art, tmp_path, target):
    """From another working directory, through another path and at another time."""
    lay(art, target, tmp_path / "one")
    lay(copy(art, tmp_path / "elsewhere" / art.name), target, tmp_path / "deep" / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "deep" / "two")


@pytest.mark.parametrize("target", TARGETS)
def test_the_artifact_is_as_it_was_and_what_is_made_is_no_link_to_it(art, tmp_path, target):
    own = copy(art, tmp_path / art.name)
    before = contents(own)
    lay(own, target, tmp_path / "out")
    assert contents(own) == before
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            path.write_bytes(b"spoiled")
    assert contents(own) == before
    load_artifact(own, verify=True)


@pytest.mark.parametrize("target", TARGETS)
def test_no_path_of_this_machine_gets_into_the_folder(art, tmp_path, target):
    own = copy(art, tmp_path / "not-to-be-told" / art.name)
    lay(own, target, tmp_path / "not-to-be-told" / "out")
    for path in (tmp_path / "not-to-be-told" / "out").rglob("*"):
        assert not path.is_file() or b"not-to-be-told" not in path.read_bytes(), path


def test_files_that_were_put_beside_an_artifact_stay_behind(whole, tmp_path):
    own = copy(whole, tmp_path / "art")
    (own / "notes.txt").write_text("of somebody")
    made = lay(own, "optimum", tmp_path / "out")
    assert "notes.txt" not in {info.path for info in made.files}
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_files_with_the_same_bytes_keep_their_own_names(whole, tmp_path):
    def more(folder):
        (folder / "sub").mkdir()
        for name in ("aaa.json", "zzz.json", "sub/config.json"):
            (folder / name).write_bytes((folder / "config.json").read_bytes())

    art = planted(load_artifact(whole), tmp_path / "art", files=more)
    for info in lay(art.path, "optimum", tmp_path / "out").files:
        assert info.of == f"art:{info.path}"


def test_relative_paths_and_the_dot(whole, tmp_path, monkeypatch):
    own = copy(whole, tmp_path / "art")
    monkeypatch.chdir(own)
    made = deploy([Path()], "optimum", Path("../out"))
    assert made.artifacts[0].name == "art"
    assert (tmp_path / "out" / MANIFEST_NAME).is_file()
    monkeypatch.chdir(tmp_path)
    again = deploy([Path("art/../art/")], "optimum", Path("out"), overwrite=True)
    assert again == made


@pytest.mark.parametrize("name", ["int 8 static", "Käse-茶", "a:b", "int8.v2", "-o"])
def test_an_artifacts_folder_may_have_any_name(whole, tmp_path, name):
    own = copy(whole, tmp_path / name)
    made = json.loads(qexport("deploy", "--to", "genai", "-o", tmp_path / "out", "--json", "--", own).stdout)
    assert made["artifacts"][0]["name"] == name
    assert f"{name}:model.onnx" in {info["of"] for info in made["files"]}
    assert verify(tmp_path / "out").damage == ()


@pytest.mark.parametrize("target", TARGETS)
def test_an_artifacts_folder_may_have_a_name_in_another_script(whole, tmp_path, target):
    lay(copy(whole, tmp_path / "Käse 茶 1"), target, tmp_path / "out")
    assert verify(tmp_path / "out").damage == ()


def test_an_artifact_behind_a_link_is_called_by_its_own_name(whole, tmp_path):
    (tmp_path / "latest").symlink_to(copy(whole, tmp_path / "art"))
    assert lay(tmp_path / "latest", "optimum", tmp_path / "out").artifacts[0].name == "art"


def test_the_command_prints_the_manifest_or_what_became_of_each_file(parted, tmp_path):
    out = tmp_path / "out"
    told = json.loads(qexport("deploy", parted, "--to", "genai", "-o", out, "--json").stdout)
    assert told == json.loads((out / MANIFEST_NAME).read_text())
    again = qexport("deploy", parted, "--to", "genai", "-o", out, "--overwrite")
    assert again.stderr == ""
    for info in told["files"]:
        (line,) = [line for line in again.stdout.splitlines() if line.split()[0] == info["path"]]
        assert f"{info['size_bytes']:,} bytes" in line
        assert line.endswith(info["change"] or f"{info['of']}, byte for byte")
    assert "onnxruntime-genai" in again.stdout


def test_names_in_square_brackets_are_printed_whole(whole, tmp_path):
    own = copy(whole, tmp_path / "[red]art")
    shown = qexport("deploy", own, "--to", "optimum", "-o", tmp_path / "[blue]out").stdout
    assert f"{tmp_path}/[blue]out" in shown
    assert "[red]art:model.onnx, byte for byte" in shown


# Records


def measured(row, recipe, sha, nll):
    return Measurement(
        run="a",
        row=row,
        model="m",
        recipe=recipe,
        artifact_sha256=sha,
        metric="perplexity",
        columns=("nll_nats", "tokens"),
        samples=((nll, 10.0), (20.0, 10.0)),
        conditions=Conditions(text="stories", text_sha256="ab", machine="a CPU", runtime="onnxruntime 1"),
    )


def test_records_go_into_the_manifest_of_the_artifact_that_they_are_of(whole, parted, tmp_path):
    first, second = load_artifact(whole), load_artifact(parted)
    records = [measured("fp32", "fp32", first.sha256, 10.0), measured("i", "int8-dynamic", second.sha256, 11.0)]
    (tmp_path / "report").mkdir()
    write_records(tmp_path / "report" / "records.jsonl", records)
    made = lay(parted, "optimum", tmp_path / "out", records=tmp_path / "report")
    assert made.artifacts[0].evidence.row == "i"
    assert made.artifacts[0].evidence.ratio.value == pytest.approx(2.718281828459045**0.05)
    assert read_deployment(tmp_path / "out") == made
    assert lay(whole, "optimum", tmp_path / "base", records=tmp_path / "report").artifacts[0].evidence.ratio is None


def test_a_broken_models_figure_leaves_the_manifest_json(whole, tmp_path):
    """NaN and Infinity are none, and the demo page reads the manifest in a browser, which refuses them."""
    record = measured("fp32", "fp32", load_artifact(whole).sha256, math.nan)
    write_records(tmp_path / "records.jsonl", [record])
    made = lay(whole, "transformersjs", tmp_path / "out", demo=True, records=tmp_path / "records.jsonl")
    assert math.isnan(made.artifacts[0].evidence.perplexity.value)

    def refuse(constant):
        raise ValueError(constant)

    json.loads((tmp_path / "out" / MANIFEST_NAME).read_text(), parse_constant=refuse)


@pytest.mark.parametrize("target", TARGETS)
def test_records_without_this_artifact(whole, tmp_path, target):
    with pytest.raises(InputError, match="no record of this artifact"):
        lay(whole, target, tmp_path / "out", records=ROOT / "docs" / "results" / "reference")
    assert os.listdir(tmp_path) == []


def test_records_that_are_not_there(whole, tmp_path):
    words = ("deploy", whole, "--to", "genai", "-o", tmp_path / "out", "--records", tmp_path / "none")
    assert "none" in failure(*words)
    assert os.listdir(tmp_path) == []


# An artifact that cannot be used


def in_torch(whole, folder, recipe):
    return planted(
        load_artifact(whole), folder, manifest=lambda own: own.model_copy(update={"kind": "torch", "recipe": recipe})
    )


@pytest.mark.parametrize("recipe", [row.name for row in RECIPES.values() if isinstance(row.scheme, TorchSchemes)])
@pytest.mark.parametrize("target", TARGETS)
def test_what_stays_in_torch_names_the_recipe_to_take_instead(whole, tmp_path, target, recipe):
    artifact = in_torch(whole, tmp_path / "art", recipe)
    with pytest.raises(UnsupportedHere, match=f"{recipe} runs in PyTorch only") as caught:
        lay(artifact.path, target, tmp_path / "out")
    assert os.listdir(tmp_path) == ["art"]
    _, _, instead = str(caught.value).partition("take ")
    words = instead.split("`")[1].split()
    assert words[:2] in (["qexport", "quantize"], ["qexport", "export"])
    if words[1] == "quantize":
        assert isinstance(RECIPES[words[words.index("--recipe") + 1]].scheme, OnnxSchemes)


def test_what_stays_in_torch_in_a_recipe_of_another_version(whole, tmp_path):
    """Manifests hold any recipe: one that this version does not know is no reason for a traceback."""
    artifact = in_torch(whole, tmp_path / "art", "bnb-int2")
    with pytest.raises(UnsupportedHere, match="bnb-int2 runs in PyTorch only"):
        require_onnx(artifact, "to deploy")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json"])
def test_an_altered_file_of_the_same_size(whole, tmp_path, target, name):
    own = copy(whole, tmp_path / "art")
    held = bytearray((own / name).read_bytes())
    held[len(held) // 2] ^= 1
    (own / name).write_bytes(held)
    with pytest.raises(ContractError, match=rf"{name}: altered since its manifest was written"):
        lay(own, target, tmp_path / "out")
    assert os.listdir(tmp_path) == ["art"]


def no_manifest(own):
    (own / MANIFEST_NAME).unlink()


def half_a_manifest(own):
    (own / MANIFEST_NAME).write_text((own / MANIFEST_NAME).read_text()[:200])


def no_data(own):
    (own / "model.onnx.data").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_manifest, "has no qexport.json"),
        (half_a_manifest, "corrupt manifest"),
        (no_data, "model.onnx.data: named in the manifest but missing"),
    ],
)
def test_an_artifact_that_was_spoiled(parted, tmp_path, spoil, message):
    own = copy(parted, tmp_path / "art")
    spoil(own)
    assert message in failure("deploy", own, "--to", "genai", "-o", tmp_path / "out")
    assert os.listdir(tmp_path) == ["art"]


def test_an_artifact_that_is_not_there(tmp_path):
    assert "none: " in failure("deploy", tmp_path / "none", "--to", "genai", "-o", tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["../outside.txt", "sub/../../outside.txt", "{absolute}"])
def test_a_manifest_that_names_files_outside_its_folder(whole, tmp_path, path):
    """Somebody else's artifact must not make files beside the deployment, nor fetch any into it."""
    own = copy(whole, tmp_path / "theirs" / "art")
    (own / "sub").mkdir()
    outside = tmp_path / "theirs" / "outside.txt"
    outside.write_text("planted")
    manifest = json.loads((own / MANIFEST_NAME).read_text())
    digest = hashlib.sha256(b"planted").hexdigest()
    manifest["files"].append({"path": path.format(absolute=outside), "size_bytes": 7, "sha256": digest})
    (own / MANIFEST_NAME).write_text(json.dumps(manifest))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "outside.txt").write_text("mine")
    assert "outside.txt" in failure("deploy", own, "--to", "optimum", "-o", tmp_path / "ours" / "out")
    assert contents(tmp_path / "ours") == {"outside.txt": hashlib.sha256(b"mine").hexdigest()}


# Options


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "transformersjs"])
def test_a_page_is_for_transformersjs_only(whole, tmp_path, target):
    words = ("--storage-uri", "s3://bucket/model") if target == "kserve" else ()
    line = failure("deploy", whole, "--to", target, "-o", tmp_path / "out", "--demo", *words)
    assert f"--demo: is for --to transformersjs, not for {target}" in line
    assert os.listdir(tmp_path) == []


def test_every_target_has_a_layout():
    assert set(LAYOUTS) == set(TARGETS)


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "kserve"])
def test_an_address_is_for_kserve_only(whole, tmp_path, target):
    line = failure("deploy", whole, "--to", target, "-o", tmp_path / "out", "--storage-uri", "s3://bucket/model")
    assert f"--storage-uri: is for --to kserve, not for {target}" in line
    assert os.listdir(tmp_path) == []


def test_kserve_wants_an_address(whole, tmp_path):
    assert "--storage-uri" in failure("deploy", whole, "--to", "kserve", "-o", tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words", [("--to", "tensorflow", "-o", "out"), ("-o", "out"), ("--to", "genai")], ids=["unknown", "no-to", "no-o"]
)
def test_usage(whole, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert qexport("deploy", whole, *words, code=2).stdout == ""
    assert qexport("deploy", "--to", "genai", "-o", "out", code=2).stdout == ""
    assert os.listdir(tmp_path) == []


def in_the_configuration(folder):
    edit(folder / "tokenizer_config.json", chat_template=TEMPLATE)


def in_a_file_of_its_own(folder):
    (folder / "chat_template.jinja").write_text(TEMPLATE)


@pytest.mark.parametrize("target", TARGETS)
def test_chat_needs_a_template(whole, tmp_path, target):
    with pytest.raises(UnsupportedHere, match="--chat: its tokenizer has no chat template"):
        lay(whole, target, tmp_path / "out", chat=True)
    assert os.listdir(tmp_path) == []


def test_chat_with_an_empty_template_is_refused_in_one_line(whole, tmp_path):
    art = planted(
        load_artifact(whole),
        tmp_path / "art",
        files=lambda folder: edit(folder / "tokenizer_config.json", chat_template=""),
    )
    assert "no chat template" in failure("deploy", art.path, "--to", "genai", "-o", tmp_path / "out", "--chat")


@pytest.mark.parametrize("place", [in_the_configuration, in_a_file_of_its_own])
@pytest.mark.parametrize("target", ["optimum", "genai", "transformersjs"])
def test_chat_with_a_template_goes_along(whole, tmp_path, target, place):
    from transformers import AutoTokenizer

    art = planted(load_artifact(whole), tmp_path / "art", files=place)
    lay(art.path, target, tmp_path / "out", chat=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<user>Hi"
    if target != "optimum":
        assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE


@pytest.mark.parametrize("target", ["optimum", "genai", "transformersjs"])
def test_a_template_that_is_no_file_of_the_artifact_is_none(whole, tmp_path, target):
    """What lies beside an artifact's files has no digest, and would not go along."""
    own = copy(whole, tmp_path / "art")
    in_a_file_of_its_own(own)
    with pytest.raises(QExportError, match="chat"):
        lay(own, target, tmp_path / "out", chat=True)


def test_other_settings_that_are_no_files_of_the_artifact_are_refused(whole, tmp_path):
    own = planted(
        load_artifact(whole), tmp_path / whole.name, files=lambda folder: (folder / "generation_config.json").unlink()
    ).path
    lay(own, "genai", tmp_path / "without")
    (own / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    with pytest.raises(ContractError, match=r"generation_config\.json: lies there and is not in the manifest"):
        lay(own, "genai", tmp_path / "with")


# Several artifacts


def test_several_of_one_model(whole, parted, tmp_path):
    made = lay([parted, whole], "transformersjs", tmp_path / "out")
    assert [each.name for each in made.artifacts] == [parted.name, whole.name]
    assert [each.model for each in made.artifacts] == ["onnx/model_quantized.onnx", "onnx/model.onnx"]
    assert verify(tmp_path / "out").what == f"deployment for transformersjs of {parted.name}, {whole.name}"


@pytest.mark.parametrize("target", [target for target in TARGETS if not LAYOUTS[target].several])
def test_several_where_there_is_room_for_one(whole, parted, tmp_path, target):
    with pytest.raises(InputError, match=f"--to {target}: takes one artifact, and 2 were given"):
        lay([whole, parted], target, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_several_of_unlike_models(whole, parted, tmp_path):
    other = planted(
        load_artifact(parted),
        tmp_path / "other",
        manifest=lambda own: own.model_copy(
            update={"model": own.model.model_copy(update={"weights_sha256": "1" * 64})}
        ),
    )
    line = failure("deploy", whole, other.path, "--to", "transformersjs", "-o", tmp_path / "out")
    assert f"{other.path}: is of another model than {whole}" in line
    assert os.listdir(tmp_path) == ["other"]


def test_several_with_unlike_tokenizers(whole, parted, tmp_path):
    """The folder has one tokenizer: the second artifact would get other tokens than it was made with."""
    from tests.plants import fewer_merges

    other = planted(load_artifact(parted), tmp_path / "other", files=fewer_merges)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        lay([whole, other.path], "transformersjs", tmp_path / "out")
    assert os.listdir(tmp_path) == ["other"]


def test_the_same_artifact_twice(whole, tmp_path):
    line = failure("deploy", whole, whole, "--to", "transformersjs", "-o", tmp_path / "out")
    assert f"{whole.name}: two of the artifacts have this name" in line
    assert os.listdir(tmp_path) == []


def test_the_name_that_two_artifacts_have_is_told(whole, parted, tmp_path):
    one, two = copy(parted, tmp_path / "one" / "same"), copy(parted, tmp_path / "two" / "same")
    line = failure("deploy", whole, one, two, "--to", "transformersjs", "-o", tmp_path / "out")
    assert "same: two of the artifacts have this name" in line


def test_two_of_one_dtype(whole, tmp_path):
    other = copy(whole, tmp_path / "other")
    line = failure("deploy", whole, other, "--to", "transformersjs", "-o", tmp_path / "out")
    assert f"{other}: is fp32 to Transformers.js, and so is {whole}" in line
    assert os.listdir(tmp_path) == ["other"]


# The place


def test_an_empty_folder_is_filled(whole, tmp_path):
    (tmp_path / "out").mkdir()
    lay(whole, "optimum", tmp_path / "out")
    assert verify(tmp_path / "out").damage == ()


def test_a_deployment_is_replaced_only_if_told_and_then_whole(whole, old):
    (old / "added.txt").write_text("x")
    before = contents(old)
    assert "exists; pass --overwrite" in failure("deploy", whole, "--to", "genai", "-o", old)
    assert contents(old) == before
    made = lay(whole, "genai", old, overwrite=True)
    assert made.target == "genai"
    assert {finding.state for finding in verify(old).findings} == {"as written"}
    assert os.listdir(old.parent) == ["old"]


def a_file(place, _whole):
    place.write_text("mine")


def a_link(place, _whole):
    place.symlink_to("elsewhere")


def a_folder_with_files(place, _whole):
    place.mkdir()
    (place / "thesis.txt").write_text("mine")


def a_hidden_file(place, _whole):
    place.mkdir()
    (place / ".git").write_text("mine")


def an_artifact(place, whole):
    copy(whole, place)


def a_broken_manifest(place, _whole):
    place.mkdir()
    (place / MANIFEST_NAME).write_text('{"kind": "deploym')


def a_manifest_of_something_else(place, _whole):
    place.mkdir()
    (place / MANIFEST_NAME).write_text('["deployment"]')


@pytest.mark.parametrize(
    "put",
    [
        a_file,
        a_link,
        a_folder_with_files,
        a_hidden_file,
        an_artifact,
        a_broken_manifest,
        a_manifest_of_something_else,
    ],
)
def test_what_is_no_deployment_is_never_replaced(whole, tmp_path, put):
    put(tmp_path / "out", whole)
    before = contents(tmp_path)
    line = failure("deploy", whole, "--to", "genai", "-o", tmp_path / "out", "--overwrite")
    assert f"{tmp_path / 'out'}: exists and is not" in line
    assert contents(tmp_path) == before


def test_a_link_to_a_deployment_is_not_replaced_either(whole, old):
    (old.parent / "link").symlink_to(old)
    before = contents(old.parent)
    assert "not a folder" in failure("deploy", whole, "--to", "genai", "-o", old.parent / "link", "--overwrite")
    assert contents(old.parent) == before


def test_the_artifacts_own_folder_is_never_the_place(whole, tmp_path):
    own = copy(whole, tmp_path / "art")
    before = contents(tmp_path)
    failure("deploy", own, "--to", "optimum", "-o", own, "--overwrite")
    failure("deploy", own, "--to", "optimum", "-o", tmp_path, "--overwrite")
    assert contents(tmp_path) == before


def test_a_place_inside_the_artifact_leaves_its_files_alone(whole, tmp_path):
    own = copy(whole, tmp_path / "art")
    before = contents(own)
    CliRunner().invoke(app, ["deploy", str(own), "--to", "optimum", "-o", str(own / "out")])
    assert {name: held for name, held in contents(own).items() if not name.startswith("out")} == before


def test_an_artifact_inside_the_deployment_that_is_replaced_is_not_lost(whole, old):
    own = copy(whole, old / "art")
    before = contents(own)
    CliRunner().invoke(app, ["deploy", str(own), "--to", "genai", "-o", str(old), "--overwrite"])
    assert own.is_dir(), "the artifact went with the deployment that it lay in"
    assert contents(own) == before


def test_a_place_below_a_file(whole, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file" in failure("deploy", whole, "--to", "genai", "-o", tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_no_export_or_quantization_replaces_a_deployment(whole, old):
    """An artifact's place is an artifact's: the other way round it is refused too."""
    before = contents(old)
    with pytest.raises(InputError, match="not an artifact"), new_artifact(old, overwrite=True) as draft:
        shutil.copytree(whole, draft.path, dirs_exist_ok=True)
        draft.finish(load_artifact(whole).manifest)
    assert contents(old) == before


# What stops it in the middle


def stopping(error):
    def write(request, folder):
        LAYOUTS["optimum"].write(request, folder)
        raise error

    return write


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, InputError("no")], ids=str)
def test_nothing_is_left_and_nothing_replaced(whole, old, monkeypatch, error):
    before = contents(old)
    monkeypatch.setitem(verb.LAYOUTS, "genai", replace(LAYOUTS["genai"], write=stopping(error)))
    for folder in (old, old.parent / "new"):
        with pytest.raises(error if isinstance(error, type) else type(error)):
            lay(whole, "genai", folder, overwrite=True)
    assert contents(old) == before
    assert os.listdir(old.parent) == ["old"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle(whole, old, monkeypatch, sent):
    before = contents(old)

    def write(request, folder):
        LAYOUTS["optimum"].write(request, folder)
        signal.raise_signal(sent)

    monkeypatch.setitem(verb.LAYOUTS, "genai", replace(LAYOUTS["genai"], write=write))
    said = qexport("deploy", whole, "--to", "genai", "-o", old, "--overwrite", code=130)
    assert said.stderr == "qexport: interrupted; nothing was changed\n"
    assert contents(old) == before
    assert os.listdir(old.parent) == ["old"]


def test_a_file_that_the_layout_says_nothing_of_is_not_passed_over(whole, tmp_path, monkeypatch):
    def write(request, folder):
        laid = LAYOUTS["optimum"].write(request, folder)
        (folder / "surprise.bin").write_bytes(b"\0")
        return laid

    monkeypatch.setitem(verb.LAYOUTS, "genai", replace(LAYOUTS["genai"], write=write))
    with pytest.raises(Exception, match="surprise"):
        lay(whole, "genai", tmp_path / "out")
    assert os.listdir(tmp_path) == []


# A deployment given where an artifact is wanted


@pytest.mark.parametrize(
    "words",
    [
        ("deploy", "{}", "--to", "genai", "-o", "out"),
        ("quantize", "{}", "--recipe", "int8-dynamic", "-o", "out"),
        ("quantize", "{}", "--recipe", "bnb-nf4", "-o", "out"),
        ("export", "{}", "-o", "out"),
        ("nodes", "{}"),
        ("eval", "{}", "--tasks", "piqa", "-o", "out"),
        ("push", "{}", "user/tiny", "--dry-run", "-o", "out", "--license", "mit"),
        ("gate", "{}", "--baseline", "gate.json", "--update", "--config", "{plan}"),
    ],
    ids=" ".join,
)
def test_a_deployment_is_no_artifact(old, monkeypatch, tmp_path_factory, words):
    monkeypatch.chdir(old.parent)
    plan = tmp_path_factory.mktemp("plan") / "gate.toml"
    plan.write_text("[budgets.disk_bytes]\nat_most = 1\nof = 'baseline'\n")
    line = failure(*(word.format(old, plan=plan) for word in words))
    assert str(old) in line
    assert "deployment" in line
    assert os.listdir(old.parent) == ["old"]


def test_push_writes_to_a_folder_only_when_nothing_is_sent(whole, tmp_path):
    assert "-o: is where --dry-run writes to" in failure("push", whole, "user/tiny", "-o", tmp_path / "out")
    assert os.listdir(tmp_path) == []
