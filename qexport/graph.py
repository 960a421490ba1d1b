"""Edits of a graph that every scheme makes: initializers set, tied heads given a weight of their own, the file written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.artifact import ONNX_DATA_NAME, ONNX_NAME

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.selection import WeightNode

EXTERNAL_DATA_BYTES = 1_900_000_000
"""Weights beyond this go to a file of their own: protobuf ends at 2 GiB."""


def array(value: ir.Value) -> NDArray[np.generic]:
    """The contents of an initializer."""
    assert value.const_value is not None, f"{value.name} is no initializer"
    return value.const_value.numpy()


def set_initializer(graph: ir.Graph, name: str, data: NDArray[np.generic]) -> ir.Value:
    """The initializer of this name with these contents, made or changed in its place."""
    import onnx_ir as ir

    tensor = ir.tensor(np.asarray(data, order="C"), name=name)  # ascontiguousarray makes a scalar a vector
    if name in graph.initializers:
        value = graph.initializers[name]
        value.const_value = tensor
        value.shape, value.dtype = ir.Shape(data.shape), tensor.dtype
        return value
    value = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def matmul_weight(model: ir.Model, node: WeightNode) -> NDArray[np.float32]:
    """The float weight that a MatMul multiplies by, ``[in, out]``, in memory order of its own."""
    weight = np.asarray(array(model.graph.initializers[node.weight]), np.float32)
    return weight.T if node.tied else weight


def untie(model: ir.Model, head: WeightNode, name: str) -> None:
    """Give a head that reads an embedding's table through a Transpose an initializer ``[in, out]`` called ``name``."""
    graph = model.graph
    matmul = graph.node(head.name)
    transpose = matmul.inputs[1].producer() if matmul.inputs[1] is not None else None
    assert transpose is not None, f"{head.name} was found to read a transposed table"
    matmul.replace_input_with(1, set_initializer(graph, name, matmul_weight(model, head)))
    if not transpose.outputs[0].uses():
        graph.remove(transpose, safe=True)


def save(model: ir.Model, folder: Path, *, external_data_bytes: int | None = None) -> int:
    """Drop what nothing reads any more, write ``model.onnx``, and return the bytes of its weights.

    Args:
        model: the graph; it is changed.
        folder: where the file goes.
        external_data_bytes: weights of more bytes than this go to ``model.onnx.data``; None takes
            :data:`EXTERNAL_DATA_BYTES`.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    weight_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    limit = EXTERNAL_DATA_BYTES if external_data_bytes is None else external_data_bytes
    ir.save(model, folder / ONNX_NAME, external_data=ONNX_DATA_NAME if weight_bytes > limit else None)
    return weight_bytes
