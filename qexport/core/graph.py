"""Edits of a graph that every scheme makes: set initializers, untie heads, write the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qexport.core import external_data
from qexport.core.artifact import ONNX_DATA_NAME, ONNX_NAME
from qexport.core.errors import ContractError
from qexport.core.float_graph import decoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core.artifact import Artifact
    from qexport.core.selection import WeightNode

EXTERNAL_DATA_BYTES = 1_900_000_000
"""Weights of more bytes than this go to a file of their own, because protobuf ends at 2 GiB."""
_FIRST_OPSET = 18
_INLINE_BYTES = 1024
"""Initializers of fewer bytes stay in ``model.onnx``: shapes and axes are read before weights are."""
_PAGE_BYTES = 4096
"""Tensors begin at a page, so that mapping one tensor maps nothing of another."""


def load_verified_graph(path: Path) -> Artifact:
    """As :func:`qexport.core.external_data.load_verified`, for callers that read the graph with onnx next.

    Raises:
        InputError: see there.
        ContractError: see there; or onnx cannot read the graph.
    """
    import onnx

    artifact = external_data.load_verified(path)
    if artifact.manifest.kind == "onnx":
        with decoded(artifact.onnx_path):
            onnx.load_model(artifact.onnx_path, load_external_data=False)
    return artifact


def array(value: ir.Value) -> NDArray[np.generic]:
    """The contents of an initializer."""
    assert value.const_value is not None, f"{value.name} is no initializer"
    return value.const_value.numpy()


def set_initializer(graph: ir.Graph, name: str, data: NDArray[np.generic]) -> ir.Value:
    """Make or replace the initializer of this name, with these contents."""
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
    """The float weight that a MatMul multiplies by, ``[in, out]``, in its own memory order."""
    weight = np.asarray(array(model.graph.initializers[node.weight]), np.float32)
    return weight.T if node.tied else weight


def untie(model: ir.Model, head: WeightNode, name: str) -> None:
    """Give a head that shares an embedding's table its own initializer ``[in, out]`` called ``name``."""
    graph = model.graph
    replace_weight(graph, graph.node(head.name), set_initializer(graph, name, matmul_weight(model, head)))


def replace_weight(graph: ir.Graph, matmul: ir.Node, weight: ir.Value) -> None:
    """Make a MatMul multiply by another value, and remove a table's Transpose that has no reader left."""
    before = matmul.inputs[1]
    matmul.replace_input_with(1, weight)
    _drop_transpose(graph, before)


def replace_node(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Replace a node: the new node's one output takes over the old name, type, shape and readers.

    A table's Transpose that only the old node read is removed.
    """
    before, after = old.outputs[0], new.outputs[0]
    after.type, after.shape = before.type, before.shape
    graph.insert_before(old, new)
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    read = tuple(old.inputs)
    graph.remove(old, safe=True)
    after.name = before.name
    for value in read:
        _drop_transpose(graph, value)


def _drop_transpose(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove the Transpose behind a value that has no reader."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Transpose" and not node.outputs[0].uses():
        graph.remove(node, safe=True)


def contrib_node(
    graph: ir.Graph, op: str, name: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, int]
) -> ir.Node:
    """A node of ONNX Runtime's own operators, not in the graph yet; the graph gets their domain."""
    import onnx_ir as ir

    graph.opset_imports.setdefault("com.microsoft", 1)
    return ir.node(op, inputs, attributes=attributes, domain="com.microsoft", name=name)


def holds(value: ir.Value | None, expected: NDArray[np.generic], dtype: str = "") -> bool:
    """True if an initializer has exactly these contents; with ``dtype`` they are the bytes of a type of that name."""
    if value is None or not value.is_initializer():
        return False
    found = array(value)
    if dtype:
        if value.dtype is None or value.dtype.name.lower() != dtype:
            return False
        found = found.view(np.uint8)
    same_kind = (found.dtype, found.shape) == (expected.dtype, expected.shape)
    return same_kind and np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")


def raise_opset(model: ir.Model, version: int) -> None:
    """Declare at least this opset of ONNX, up to 21.

    Both exporters write at least opset 18. From 18 to 21 the operators of decoders only gained types.

    Raises:
        ContractError: the graph is of an opset before 18.
    """
    opset = model.graph.opset_imports[""]
    if opset < _FIRST_OPSET:
        raise ContractError(f"the graph is of ONNX opset {opset}; export the model again")
    model.graph.opset_imports[""] = max(version, opset)


def cut(model: ir.Model, *, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The part of a graph that computes some of its values from others, and from the graph's inputs if it must.

    Args:
        model: the graph, which does not change.
        inputs: the names of values that become inputs of the part.
        outputs: the names of the values that the part computes.
    """
    import onnx_ir as ir

    own = [str(value.name) for value in model.graph.inputs]
    part = ir.convenience.extract(model.graph, [*inputs, *own], outputs)
    part.inputs[:] = [value for value in part.inputs if value.uses()]
    return ir.Model(part, ir_version=model.ir_version)


def save(model: ir.Model, folder: Path, *, external_data_bytes: int | None = None) -> int:
    """Remove nodes that nothing reads, write ``model.onnx``, and return the bytes of its weights.

    Initializers over the same memory are stored once, in ``model.onnx.data``. ONNX Runtime maps each of them by itself.
    It releases an initializer that it has packed for a kernel, while the rows that are looked up stay in the file.

    Args:
        model: the graph; it is changed.
        folder: the folder of the files.
        external_data_bytes: weights of more bytes than this go to ``model.onnx.data``; None takes
            :data:`EXTERNAL_DATA_BYTES`.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    values = [value for value in model.graph.initializers.values() if value.const_value is not None]
    stored = {_memory(value.const_value): value.const_value.nbytes for value in values if value.const_value is not None}
    weight_bytes = sum(stored.values())
    limit = EXTERNAL_DATA_BYTES if external_data_bytes is None else external_data_bytes
    if weight_bytes > limit or len(stored) < len(values):
        _store_outside(values, folder)
    ir.save(model, folder / ONNX_NAME)
    return weight_bytes


def _memory(tensor: ir.TensorProtocol) -> tuple[int, int]:
    """The memory of a tensor, as a key: views of the same array have the same key."""
    import onnx_ir as ir

    held = tensor.raw if isinstance(tensor, ir.Tensor) else None
    return (held.ctypes.data if isinstance(held, np.ndarray) else id(tensor), tensor.nbytes)


def _store_outside(values: Sequence[ir.Value], folder: Path) -> None:
    """Write the contents of initializers to ``model.onnx.data``, each once, and make the initializers point there."""
    import onnx_ir as ir

    places: dict[tuple[int, int], int] = {}
    kept: list[ir.TensorProtocol] = []  # so that no other tensor gets the memory of one that was written
    with (folder / ONNX_DATA_NAME).open("wb") as file:
        for value in values:
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _INLINE_BYTES:
                continue
            memory = _memory(tensor)
            if memory not in places:
                file.write(bytes(-file.tell() % _PAGE_BYTES))
                places[memory] = file.tell()
                file.write(tensor.tobytes())
                kept.append(tensor)
            value.const_value = ir.ExternalTensor(
                ONNX_DATA_NAME,
                places[memory],
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                base_dir=folder,
            )
