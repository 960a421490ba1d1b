"""The prepared form of a graph (:mod:`qexport.exporting.prepare`), checked against the torch model."""

from __future__ import annotations

import json

import numpy as np
from onnx import numpy_helper


def assert_linear_layers(model, torch_model):
    """Points 1 and 3: named by module path, weights [in, out], shared ones stored once, no Gemm."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    nodes, tensors = _nodes(model), _tensors(model)
    embeddings = {id(module.weight) for module in torch_model.modules() if isinstance(module, nn.Embedding)}
    for path, module in torch_model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        matmul = nodes[f"{path}/MatMul"]
        assert matmul.op_type == "MatMul"
        weight = module.weight.detach().numpy()
        if id(module.weight) in embeddings:
            transpose = nodes[f"{path}/Transpose"]
            assert list(transpose.output) == [matmul.input[1]]
            assert f"{path}.weight" not in tensors
            np.testing.assert_array_equal(tensors[transpose.input[0]], weight)
        else:
            assert matmul.input[1] == f"{path}.weight"
            np.testing.assert_array_equal(tensors[f"{path}.weight"], weight if isinstance(module, Conv1D) else weight.T)
        if module.bias is not None:
            add = nodes[f"{path}/Add"]
            assert add.op_type == "Add"
            assert set(add.input) == {matmul.output[0], f"{path}.bias"}
            np.testing.assert_array_equal(tensors[f"{path}.bias"], module.bias.detach().numpy())
    assert not [node.name for node in model.graph.node if node.op_type == "Gemm"]


def assert_other_parameters(model, torch_model, *, lost=None):
    """Points 2, 4 and 6. Parameters with ``lost`` in their name may be missing."""
    from torch import nn

    nodes, tensors = _nodes(model), _tensors(model)
    parameters = dict(torch_model.named_parameters())
    for path, module in torch_model.named_modules():
        if isinstance(module, nn.Embedding):
            gather = nodes[f"{path}/Gather"]
            assert (gather.op_type, gather.input[0]) == ("Gather", f"{path}.weight")
            np.testing.assert_array_equal(tensors[f"{path}.weight"], module.weight.detach().numpy())
    listed = json.loads({entry.key: entry.value for entry in model.metadata_props}["qexport.parameters"])
    assert len(set(listed)) == len(listed)
    assert set(listed) == tensors.keys() & parameters.keys()
    missing = parameters.keys() - set(listed)
    assert not {name for name in missing if lost is None or lost not in name}
    for name in listed:
        parameter = parameters[name].detach().numpy()
        assert np.array_equal(tensors[name], parameter) or np.array_equal(tensors[name], parameter.T)
        users = [node for node in model.graph.node if name in node.input]
        # whatever reads a parameter belongs to the module that owns it, or to one that shares it
        assert {node.name.rpartition("/")[0] for node in users} & {name.rpartition(".")[0], "lm_head", "embed_out"}


def _nodes(model):
    return {node.name: node for node in model.graph.node}


def _tensors(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
