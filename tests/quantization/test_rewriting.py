"""The way of a graph through a quantization: how often files are read, and what stops it."""

from __future__ import annotations

import shutil

import onnx_ir as ir
import pytest

from qexport import quantization
from qexport.core.artifact import Artifact, load_artifact
from qexport.core.errors import ContractError
from qexport.core.float_graph import FloatGraph
from qexport.core.selection import parse_selector, weight_nodes
from qexport.inputs.text import Text
from qexport.quantization import pipeline, rewriting
from qexport.quantization.schemes.cast import Cast
from qexport.quantization.schemes.scheme import Rewritten
from tests.rewritten import apply

TEXT = Text(origin="here", documents=tuple(f"{number} red stones and {number} green ones." * 9 for number in range(8)))


@pytest.mark.parametrize("recipe", ["int8-static", "int8-dynamic", "w4a16-gptq", "w4a16-awq", "nf4", "fp8", "fp16"])
def test_the_parent_is_read_once_and_the_result_once(fp32, tmp_path, monkeypatch, recipe):
    read, real = [], ir.load

    def load(path, *arguments, **options):
        read.append(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(ir, "load", load)
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))  # ranges are observed, not remembered
    parent = fp32("gpt2")
    text = TEXT if pipeline.recipe(recipe).scheme.calibration else None
    made = quantization.quantize(str(parent.path), tmp_path / "out", recipe_name=recipe, text=text)
    assert [path.parent.name.startswith(".out.new-") for path in read] == [False, True]
    assert read[0] == parent.onnx_path
    assert load_artifact(made.path, verify=True).manifest.recipe == recipe


@pytest.mark.parametrize("recipe", ["int8-static", "w4a16-gptq", "fp8", "bf16"])
def test_a_scheme_leaves_the_parent_as_it_was(fp32, tmp_path, recipe):
    parent = FloatGraph.read(fp32("llama"))
    before = ir.to_proto(parent.model).SerializeToString()
    tokens = quantization.calibration_tokens(parent.artifact, TEXT)
    nodes = parse_selector("body").select(weight_nodes(parent.model))
    rewriting.rewrite(pipeline.recipe(recipe).scheme, parent, nodes, tmp_path, tokens=tokens)
    assert ir.to_proto(parent.model).SerializeToString() == before


def test_a_file_that_is_no_onnx(fp32, tmp_path):
    folder = shutil.copytree(fp32("gpt2").path, tmp_path / "spoiled")
    (folder / "model.onnx").write_bytes(b"no graph")
    artifact = Artifact(path=folder, manifest=fp32("gpt2").manifest)
    with pytest.raises(ContractError, match="cannot be read as ONNX"):
        FloatGraph.read(artifact)


class Spoils(Cast):
    """A scheme whose file is not valid ONNX, for a type that the CPU provider need not have."""

    def apply(self, parent, selection, *, tokens):
        del selection, tokens
        model = parent.copy()
        next(iter(model.graph)).op_type = "NoSuchOperator"
        return Rewritten(model=model, check=lambda _: (), settings={}, loads_here=False)


def test_a_file_that_is_not_valid_is_no_result(fp32, tmp_path):
    parent = fp32("gpt2", "optimum")
    with pytest.raises(ContractError, match="is not valid ONNX"):
        apply(Spoils(dtype="fp16", target="tensorrt"), parent, None, tmp_path, tokens=None)
