"""Parameters that look alike are not mixed up, whatever the exporter made of them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qexport.core.errors import ContractError
from qexport.exporting.fused import export_fused
from qexport.exporting.optimum import export_optimum
from qexport.exporting.prepare import prepare
from qexport.exporting.signature import signature_of
from tests.architectures import tiny_model
from tests.exporting.contract import assert_linear_layers, assert_other_parameters


def prepared(torch_model, exporter):
    signature = signature_of(torch_model)
    graph = export_fused(torch_model, signature) if exporter == "fused" else export_optimum(torch_model)
    prepare(graph, torch_model, signature)
    return ir.to_proto(graph)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_biases_of_zeros_and_norms_of_ones_stay_apart(name):
    """TorchScript writes one initializer for all that are equal."""
    torch_model = tiny_model(name, fresh=True)
    model = prepared(torch_model, "optimum")
    assert_linear_layers(model, torch_model)
    assert_other_parameters(model, torch_model)


@pytest.mark.parametrize("exporter", ["fused", "optimum"])
def test_matrices_that_are_all_equal_stay_apart(exporter):
    """Every matrix of a shape is the same one, square and symmetric ones included: only the place tells them apart."""
    torch_model = tiny_model("gpt2")
    for parameter in torch_model.parameters():
        parameter.data.zero_()
    model = prepared(torch_model, exporter)
    assert_linear_layers(model, torch_model)
    assert_other_parameters(model, torch_model)


TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
main (int64[batch_size, sequence_length] input_ids) => (float[batch_size, sequence_length, 6] logits)
<float[6, 4] a = {%s}, float[6, 4] b = {%s}, float[6] c = {0, 0, 0, 0, 0, 0}, int64[2] flat = {-1, 4},
 int64[3] back = {1, -1, 6}>
{
  h = Gather (a, input_ids)
  rows = Reshape (h, flat)
  out = Gemm <transB = 1> (rows, b, c)
  logits = Reshape (out, back)
}
"""


class Signature:
    def __init__(self):
        self.inputs = {"input_ids": ("batch_size", "sequence_length")}
        self.outputs = {"logits": ("batch_size", "sequence_length", 6)}


def tied_torch_model(*, tied):
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(4, 6)  # before the embedding, whose name a shared weight takes all the same
            self.words = torch.nn.Embedding(6, 4)
            self.words.weight.data = torch.arange(24.0).reshape(6, 4) / 10
            self.head.weight.data = self.words.weight.data.clone()
            self.head.bias.data.zero_()
            if tied:
                self.head.weight = self.words.weight

    return Tiny()


@pytest.mark.parametrize("tied", [True, False])
def test_equal_weights_are_one_only_if_torch_shares_them(tied):
    """A graph without any scope, and two initializers of the same content: ties come from torch, places from the graph."""
    numbers = ", ".join(str(value / 10) for value in range(24))
    proto = onnx.parser.parse_model(TEXT % (numbers, numbers))
    ids = np.array([[1, 5, 2]])
    before = ort.InferenceSession(proto.SerializeToString()).run(None, {"input_ids": ids})[0]
    graph = ir.from_proto(proto)
    prepare(graph, tied_torch_model(tied=tied), Signature())
    after = ir.to_proto(graph)
    session = ort.InferenceSession(after.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"input_ids": ids})[0], before, rtol=1e-6)
    names = {tensor.name for tensor in after.graph.initializer}
    assert ("head.weight" in names) != tied
    assert {"words.weight", "head.bias"} <= names
    assert ("head/Transpose" in {node.name for node in after.graph.node}) == tied
    assert {"head/MatMul", "head/Add", "words/Gather"} <= {node.name for node in after.graph.node}
    assert set(json.loads(after.metadata_props[0].value)) == names & {"words.weight", "head.weight", "head.bias"}


def test_weight_that_is_not_in_the_graph_is_an_error():
    numbers = ", ".join(str(value / 10) for value in range(24))
    graph = ir.from_proto(onnx.parser.parse_model(TEXT % (numbers, numbers)))
    torch_model = tied_torch_model(tied=False)
    torch_model.head.weight.data[0, 0] += 1
    with pytest.raises(ContractError, match=r"lacks 1 weights of the model, head\.weight among them"):
        prepare(graph, torch_model, Signature())


def test_other_outputs_than_expected_are_an_error():
    numbers = ", ".join(str(value / 10) for value in range(24))
    graph = ir.from_proto(onnx.parser.parse_model(TEXT % (numbers, numbers)))
    signature = Signature()
    signature.outputs["present.0.key"] = ("batch_size", 1, 1, 1)
    with pytest.raises(ContractError, match=r"present\.0\.key"):
        prepare(graph, tied_torch_model(tied=True), signature)
