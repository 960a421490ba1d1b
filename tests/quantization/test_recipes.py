"""Every recipe on two architectures and every scheme on five: made, reloaded, counted, run, and close to fp32's logits."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from qexport import quantization
from qexport.cli.app import app
from qexport.core.artifact import load_artifact
from qexport.core.errors import InputError
from qexport.inputs.models import load_tokenizer, locate_model
from qexport.inputs.text import Text
from qexport.quantization.recipes import RECIPES, recipe
from qexport.runtime.opening import open_session

ARCHITECTURES = ("gpt2", "llama")
MORE_ARCHITECTURES = ("mistral", "qwen2", "phi3")
SCHEMES = (
    "fp32",
    "fp16",
    "int8-static",
    "w4a16-rtn",
    "w4a16-gptq",
    "w4a16-awq",
    "nf4",
    "fp8",
    "torch-fp16",
    "bnb-nf4",
)
"""Recipes for more architectures. Of the others tests/schemes has bf16, int8-dynamic and fp4 on these architectures; 8 bits
and HQQ round the same weights by another grid, and bnb-int8, bnb-fp4 and torch-fp32 choose the same modules."""
CASES = [
    *((name, architecture) for name in RECIPES for architecture in ARCHITECTURES),
    *((name, architecture) for name in SCHEMES for architecture in MORE_ARCHITECTURES),
]
WORDS = "the quick brown fox jumps over the lazy dog and then the other dog comes back to the fox again"
STORIES = Text("stories", tuple(f"Story {number}: {WORDS}. It was {number}!" for number in range(8)))
TORCH_ROWS = tuple(name for name in RECIPES if name.startswith(("bnb-", "torch-")))
EXACT = ("fp32", "torch-fp32")
CLOSE = {
    "fp32": 1e-6,
    "fp16": 0.005,
    "bf16": 0.04,
    "int8-dynamic": 0.08,
    "int8-static": 0.15,
    "w8a16-rtn": 0.08,
    "w8a16-gptq": 0.08,
    "w4a16-rtn": 0.45,
    "w4a16-hqq": 0.45,
    "w4a16-gptq": 0.45,
    "w4a16-awq": 0.45,
    "nf4": 0.45,
    "fp4": 0.55,
    "fp8": 0.2,
    "torch-fp32": 1e-5,
    "torch-fp16": 0.005,
    "bnb-int8": 0.08,
    "bnb-nf4": 0.45,
    "bnb-fp4": 0.55,
}
"""Relative error of the logits of tiny models with random weights."""
OPERATORS = {
    "w8a16-rtn": {"MatMulNBits"},
    "w8a16-gptq": {"MatMulNBits"},
    "w4a16-rtn": {"MatMulNBits"},
    "w4a16-hqq": {"MatMulNBits"},
    "w4a16-gptq": {"MatMulNBits"},
    "w4a16-awq": {"MatMulNBits"},
    "nf4": {"MatMulBnb4"},
    "fp4": {"MatMulBnb4"},
    "int8-dynamic": {"MatMulInteger"},
}
"""What the MatMuls of an artifact have become."""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-recipes"))


def make(name, parent, source, folder):
    chosen = recipe(name)
    if name == "fp32":
        return parent
    start = source if name in TORCH_ROWS else parent.path
    options = {"engine": "ort"} if "engine" in chosen.scheme.OPTIONS else {}
    learns = name not in TORCH_ROWS and bool(chosen.scheme.calibration)
    return quantization.quantize(
        str(start), folder, recipe_name=name, options=options, text=STORIES if learns else None
    )


@pytest.mark.parametrize(("name", "architecture"), CASES)
def test_conformance(fp32, tiny, tmp_path, name, architecture):
    parent = fp32(architecture)
    made = make(name, parent, tiny(architecture), tmp_path / "out")
    artifact = load_artifact(made.path, verify=True)
    manifest = artifact.manifest
    assert manifest.recipe == name
    session = open_session(artifact, threads=1, observe="kernels")  # compares what ran with the manifest
    ids = np.array([load_tokenizer(locate_model(tiny(architecture)))(STORIES.documents[0])["input_ids"][:24]])
    exact = open_session(parent, threads=1).logits(ids)
    error = np.linalg.norm(session.logits(ids) - exact) / np.linalg.norm(exact)
    assert error < CLOSE[name]
    if name not in EXACT:
        assert error > 1e-5
        assert artifact.disk_bytes < parent.disk_bytes
    if recipe(name).takes_nodes:
        assert [node.name for node in manifest.quantized] == [node.name for node in manifest.selection.nodes]
        matmuls = [node.name for node in manifest.selection.nodes if node.role != "embedding"]
        if name in OPERATORS:
            graph = onnx.load(artifact.onnx_path, load_external_data=False).graph
            assert sum(node.op_type in OPERATORS[name] for node in graph.node) == len(matmuls)


def test_the_table_is_listed_with_options():
    result = CliRunner().invoke(app, ["recipes", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == list(RECIPES)
    assert "block_size" in rows["w4a16-gptq"]["options"]
    assert all(row["summary"] for row in rows.values())
    shown = CliRunner().invoke(app, ["recipes"]).stdout
    assert all(name in shown for name in RECIPES)


def test_options_are_checked_against_the_scheme():
    changed = recipe("w4a16-rtn").configured({"block_size": 64, "symmetric": False})
    assert (changed.scheme.block_size, changed.scheme.symmetric) == (64, False)
    assert changed.choices == (("block_size", 64), ("symmetric", False))
    assert recipe("w4a16-rtn").scheme.block_size == 32
    with pytest.raises(InputError, match="fp32: the option block_size is not for fp32"):
        recipe("fp32").configured({"block_size": 64})
    with pytest.raises(
        InputError, match=r"w4a16-rtn: the option blok_size is not for this recipe; did you mean block_size"
    ):
        recipe("w4a16-rtn").configured({"blok_size": 64})


def test_a_family_is_listed_whole():
    with pytest.raises(
        InputError, match="w4a16: a family of recipes; choose w4a16-rtn, w4a16-hqq, w4a16-gptq, w4a16-awq"
    ):
        recipe("w4a16")
