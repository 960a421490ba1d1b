from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import onnx
import pytest

from qexport.core.artifact import Artifact, QuantizedNode, file_sha256
from qexport.core.errors import InputError, UnsupportedHere
from qexport.deployment.layouts.last_logits import NAME as NUM_LOGITS
from qexport.deployment.layouts.layout import Request
from qexport.deployment.layouts.transformersjs import LAYOUT, dtype_of
from qexport.deployment.pipeline import deploy
from qexport.quantization.recipes import RECIPES
from qexport.runtime.onnx_session import OrtSession, decoder_feeds
from tests.plants import planted

IDS = np.array([[1, 5, 9, 2, 300, 17]])
DTYPES = {
    "": "fp32",
    "_fp16": "fp16",
    "_quantized": "q8",
    "_q4": "q4",
    "_q4f16": "q4f16",
    "_bnb4": "bnb4",
}
"""By the end of the file's name, as Transformers.js 4.3 has them in DEFAULT_DTYPE_SUFFIX_MAPPING."""


def lay(artifacts, folder, **options):
    artifacts = artifacts if isinstance(artifacts, list) else [artifacts]
    for artifact in artifacts:
        LAYOUT.check(artifact)
    folder.mkdir(exist_ok=True)
    return LAYOUT.write(Request(artifacts=artifacts, name="tiny", **options), folder)


def settings_of(folder):
    return json.loads((folder / "config.json").read_text())["transformers.js_config"]


def by_hand(artifact, *weights, **changes):
    """The artifact with a manifest that says other things of it."""
    nodes = [
        QuantizedNode(name=f"n{place}", weight=f"w{place}", weight_dtype=dtype, per_channel=True, activation="none")
        for place, dtype in enumerate(weights)
    ]
    return Artifact(
        path=artifact.path, manifest=artifact.manifest.model_copy(update={"quantized": tuple(nodes), **changes})
    )


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def logits(path, **more):
    session = OrtSession(path, threads=1)
    inputs = [tensor for tensor in session.inputs if tensor.name != NUM_LOGITS]
    return session.run({**decoder_feeds(inputs, IDS, None), **more}, ["logits"])["logits"]


# Names


@pytest.mark.parametrize(
    ("weights", "recipe", "dtype"),
    [
        ((), "fp32", "fp32"),
        ((), "fp16", "fp16"),
        (("int8",), "fp32", "q8"),
        (("uint8",), "fp32", "q8"),
        (("int8", "uint8"), "fp32", "q8"),
        (("int8",), "fp16", "q8"),
        (("int4",), "fp32", "q4"),
        (("uint4",), "fp32", "q4"),
        (("int4", "uint8"), "fp32", "q4"),
        (("int4",), "fp16", "q4f16"),
        (("int8", "uint4"), "fp16", "q4f16"),
        (("nf4",), "fp32", "bnb4"),
        (("fp4", "int8"), "fp32", "bnb4"),
    ],
)
def test_dtype_by_the_manifest(fp32, quantized, weights, recipe, dtype):
    own = fp32("llama") if recipe == "fp32" else quantized(recipe)
    assert dtype_of(by_hand(own, *weights)) == dtype


@pytest.mark.parametrize(
    ("recipe", "options", "name"),
    [
        ("fp16", {}, "model_fp16"),
        ("int8-dynamic", {"engine": "ort"}, "model_quantized"),
        ("int8-static", {"engine": "ort"}, "model_quantized"),
        ("w8a16-rtn", {"target": "web"}, "model_quantized"),
        ("w4a16-rtn", {"target": "web"}, "model_q4"),
        ("nf4", {}, "model_bnb4"),
    ],
)
def test_each_recipe_has_its_name_and_computes_what_the_artifact_does(quantized, tmp_path, recipe, options, name):
    artifact = quantized(recipe, **options)
    laid = lay(artifact, tmp_path / "out")
    assert laid.models == (f"onnx/{name}.onnx",)
    assert settings_of(tmp_path / "out")["dtype"] == DTYPES[name.removeprefix("model")] == dtype_of(artifact)
    there = {path.name for path in (tmp_path / "out" / "onnx").iterdir()}
    outside = any(info.path == "model.onnx.data" for info in artifact.manifest.files)
    assert there == {f"{name}.onnx"} | ({f"{name}.onnx_data"} if outside else set())
    path = tmp_path / "out" / "onnx" / f"{name}.onnx"
    wanted = logits(artifact.onnx_path)
    inputs = {value.name for value in onnx.load(path, load_external_data=False).graph.input}
    if NUM_LOGITS not in inputs:
        assert np.array_equal(logits(path), wanted)
        return
    # As in qexport.deployment.layouts.last_logits: kernels for one position may sum in another order.
    for count, expected in ((0, wanted), (1, wanted[:, -1:]), (3, wanted[:, -3:])):
        found = logits(path, **{NUM_LOGITS: np.array(count)})
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(wanted).max()
    assert NUM_LOGITS in laid.changes[f"onnx/{name}.onnx"]


def test_weights_outside_are_named_as_transformersjs_looks_for_them(quantized, tmp_path):
    artifact = quantized("int8-dynamic", engine="ort")
    laid = lay(artifact, tmp_path / "out")
    assert settings_of(tmp_path / "out")["use_external_data_format"] == {"model_quantized.onnx": 1}
    assert "model_quantized.onnx_data" in laid.changes["onnx/model_quantized.onnx"]
    assert file_sha256(tmp_path / "out" / "onnx" / "model_quantized.onnx_data") == file_sha256(
        artifact.path / "model.onnx.data"
    )


def test_weights_inside_are_not_looked_for_outside(fp32, tmp_path):
    lay(fp32("llama"), tmp_path / "out")
    assert settings_of(tmp_path / "out") == {"dtype": "fp32"}


def test_all_dtypes_in_one_folder(fp32, quantized, tmp_path):
    artifacts = [
        quantized("int8-dynamic", engine="ort"),
        fp32("llama"),
        quantized("w4a16-rtn", target="web"),
        quantized("fp16"),
        quantized("nf4"),
    ]
    laid = lay(artifacts, tmp_path / "out")
    wanted = ["_quantized", "", "_q4", "_fp16", "_bnb4"]
    assert laid.models == tuple(f"onnx/model{suffix}.onnx" for suffix in wanted)
    assert settings_of(tmp_path / "out") == {"dtype": "q8", "use_external_data_format": {"model_quantized.onnx": 1}}
    for artifact, name in zip(artifacts, laid.models, strict=True):
        path = tmp_path / "out" / name
        feeds = {NUM_LOGITS: np.array(0)} if NUM_LOGITS in path.read_bytes().decode("latin-1") else {}
        assert np.allclose(logits(path, **feeds), logits(artifact.onnx_path), atol=1e-3)
    others = [logits(artifact.onnx_path) for artifact in artifacts]
    assert not np.allclose(others[0], others[2], atol=1e-3), "or one could stand for the other"


def test_the_configuration_keeps_all_it_had(fp32, tmp_path):
    def change(folder):
        edit(folder / "config.json", note="Käse", **{"transformers.js_config": {"dtype": "q4f16"}})

    artifact = planted(fp32("llama"), tmp_path / "art", files=change)
    laid = lay(artifact, tmp_path / "out")
    own = json.loads((artifact.path / "config.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == own | {
        "transformers.js_config": {"dtype": "fp32"}
    }
    assert laid.changes["config.json"] == "transformers.js_config says dtype fp32"


def test_two_of_one_dtype_leave_the_folder_empty(fp32, quantized, tmp_path):
    one, two = quantized("int8-dynamic", engine="ort"), quantized("w8a16-rtn", target="web")
    with pytest.raises(InputError, match=r"is q8 to Transformers\.js, and so is .*; give one of the two") as caught:
        lay([one, fp32("llama"), two], tmp_path / "out")
    assert str(caught.value).startswith(f"{two.path}: ")
    assert str(one.path) in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


# What it cannot run


def test_what_its_build_cannot_load_names_the_op_and_the_recipe_to_take(quantized):
    for recipe, options, op, instead in (
        ("bf16", {}, "Cast of bfloat16", "fp16"),
        ("fp8", {}, "DequantizeLinear of float8", "int8-static"),
        ("w4a16-rtn", {}, "GatherBlockQuantized", "--recipe w4a16-rtn --target web"),
    ):
        with pytest.raises(UnsupportedHere) as caught:
            LAYOUT.check(quantized(recipe, **options))
        line = str(caught.value)
        assert line.startswith(f"{quantized(recipe, **options).path}: ")
        assert f"has no {op}" in line
        assert line.endswith(instead) or instead in line.partition("make it with ")[2]


def test_the_number_of_lookups_is_the_graphs(quantized):
    artifact = quantized("w4a16-rtn")
    graph = onnx.load(artifact.onnx_path, load_external_data=False).graph
    lookups = sum(node.op_type == "GatherBlockQuantized" for node in graph.node)
    assert lookups > 0
    with pytest.raises(UnsupportedHere, match=f"the artifact {lookups}; "):
        LAYOUT.check(artifact)


def test_the_way_out_is_a_way_out(quantized):
    """What the refusals above tell to take is taken."""
    for recipe, options in (
        ("fp16", {}),
        ("int8-static", {"engine": "ort"}),
        ("w4a16-rtn", {"target": "web"}),
        ("w8a16-rtn", {"target": "web"}),
    ):
        assert recipe in RECIPES
        LAYOUT.check(quantized(recipe, **options))


def test_integer_arithmetic_that_would_be_float_there(quantized):
    own = quantized("w4a16-rtn", target="web")
    artifact = by_hand(own, "int4", settings={**own.manifest.settings, "compute": "int8"})
    with pytest.raises(
        UnsupportedHere, match=r"in float and the artifact rounds activations.*--recipe w4a16-rtn --target web"
    ):
        LAYOUT.check(artifact)
    LAYOUT.check(by_hand(own, "int4", settings={**own.manifest.settings, "compute": "float"}))


def test_a_graph_that_takes_padding_on_the_right_only(fp32):
    own = fp32("llama")
    with pytest.raises(
        UnsupportedHere, match=r"Transformers\.js pads batches on the left.*--exporter optimum.*--to genai"
    ):
        LAYOUT.check(by_hand(own, exporter="fused-cuda"))


def test_what_it_cannot_run_is_refused_before_anything_is_written(fp32, quantized, tmp_path):
    with pytest.raises(UnsupportedHere, match="bfloat16"):
        deploy([fp32("llama").path, quantized("bf16").path], "transformersjs", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# The page


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []
        self.ids = set()

    def handle_starttag(self, _tag, attributes):
        told = dict(attributes)
        self.found += [told[name] for name in ("src", "href") if name in told]
        if "id" in told:
            self.ids.add(told["id"])


def page_of(folder):
    page = Links()
    page.feed((folder / "index.html").read_text(encoding="utf-8"))
    return page


@pytest.mark.parametrize("chat", [False, True])
def test_the_page_and_what_it_is_told(fp32, quantized, tmp_path, chat):
    laid = lay([quantized("fp16"), fp32("llama")], tmp_path / "out", demo=True, chat=chat)
    assert json.loads((tmp_path / "out" / "demo.json").read_text()) == {"dtypes": ["fp16", "fp32"], "chat": chat}
    for name in ("index.html", "demo.css", "demo.js", "demo.json"):
        assert laid.changes[name] == "written for the demo page"


def test_without_being_asked_for_there_is_no_page(fp32, tmp_path):
    laid = lay(fp32("llama"), tmp_path / "out")
    assert not {"index.html", "demo.css", "demo.js", "demo.json"} & (
        {path.name for path in (tmp_path / "out").iterdir()} | set(laid.changes)
    )


def test_all_of_the_page_is_in_the_package_and_goes_along(fp32, tmp_path):
    lay(fp32("llama"), tmp_path / "out", demo=True)
    packed = {
        each.name: each.read_bytes() for each in (resources.files("qexport.deployment.layouts") / "demo").iterdir()
    }
    assert set(packed) == {"index.html", "demo.css", "demo.js"}
    for name, held in packed.items():
        assert (tmp_path / "out" / name).read_bytes() == held


def test_the_page_finds_its_files_and_its_elements(fp32, tmp_path):
    deploy([fp32("llama").path], "transformersjs", tmp_path / "out", demo=True)
    page = page_of(tmp_path / "out")
    local = {link.removeprefix("./") for link in page.found if not re.match(r"[a-z]+:|#|//", link)}
    assert {"demo.css", "demo.js"} <= local
    for link in local:
        assert (tmp_path / "out" / link).is_file(), link
    code = (tmp_path / "out" / "demo.js").read_text(encoding="utf-8")
    asked = set(re.findall(r"""\$\(["']([\w-]+)["']\)""", code))
    assert len(asked) > 5
    assert asked <= page.ids
    for name in re.findall(r"""read\(["']([\w.-]+)["']\)""", code):
        assert (tmp_path / "out" / name).is_file(), name


def test_the_page_loads_the_version_that_the_layout_was_proved_with(fp32, tmp_path):
    """Another one would look for other files."""
    lay(fp32("llama"), tmp_path / "out", demo=True)
    text = "".join((tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("index.html", "demo.js"))
    version = LAYOUT.proved["@huggingface/transformers"]
    named = set(re.findall(r"@huggingface/transformers@([\d.]+\d)", text))
    assert named == {version}


def test_the_page_tells_of_each_dtype_by_its_place_among_the_artifacts(fp32, quantized, tmp_path):
    artifacts = [quantized("int8-dynamic", engine="ort"), quantized("fp16"), fp32("llama")]
    made = deploy([each.path for each in artifacts], "transformersjs", tmp_path / "out", demo=True)
    told = json.loads((tmp_path / "out" / "demo.json").read_text())["dtypes"]
    assert told == [dtype_of(each) for each in artifacts]
    ends = [each.model.removeprefix("onnx/model").removesuffix(".onnx") for each in made.artifacts]
    assert [DTYPES[end] for end in ends] == told
    outside = {f"{each.model}_data" for each in made.artifacts} & {info.path for info in made.files}
    assert outside == {"onnx/model_quantized.onnx_data"}
