"""Quantized weights in blocks of inputs: written into a graph and read back.

A product becomes MatMulNBits; in the portable form, DequantizeLinear and MatMul. A lookup becomes GatherBlockQuantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.core import array, contrib_node, raise_opset, replace_node, replace_weight, set_initializer
from qexport.quantization.numerics.blocks import Blocks, Grid, pack, unpack

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import WeightNode

MATMUL, LOOKUP, DEQUANTIZE = "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear"
ACCURACY_LEVELS = {"float": 1, "int8": 4}
"""MatMulNBits' ``accuracy_level``: activations stay in floating point, or are rounded to int8 block by block."""


@dataclass(frozen=True, kw_only=True)
class PackedNode:
    """A node of an emitted graph that reads a weight in blocks."""

    node: str
    lookup: bool
    compute: str
    """A key of :data:`ACCURACY_LEVELS`; empty for a lookup."""
    blocks: Blocks


def store(model: ir.Model, name: str, blocks: Blocks, *, lookup: bool, shared: bool) -> None:
    """Store a weight ``[out, in]`` as initializers for :func:`emit_matmul` and, with ``lookup``, :func:`emit_lookup`.

    The initializers are ``NAME_quantized`` ``[out, blocks, bytes]``, ``NAME_scale`` ``[out, blocks]`` and, on an
    asymmetric grid, ``NAME_zero_point``. With ``lookup`` each is stored again as ``NAME_rows...`` with the rank that
    the operator wants. The two copies of integers and scales use the same memory, which :func:`qexport.core.graph.save`
    stores once.

    Args:
        model: the graph to change.
        name: the name of the float weight.
        blocks: the rounded weight.
        lookup: a node looks up rows of the weight.
        shared: one initializer of integers serves both readers, instead of two over the same bytes; ONNX Runtime then
            keeps these integers for the lookup and a packed copy for the product.
    """
    graph = model.graph
    packed, scales, zeros = pack(blocks)
    set_initializer(graph, f"{name}_quantized", packed)
    set_initializer(graph, f"{name}_scale", scales)
    if zeros is not None:
        set_initializer(graph, f"{name}_zero_point", zeros)
    if lookup:
        if not shared:
            set_initializer(graph, f"{name}_rows_quantized", packed)
        for part, data in (("scale", scales), ("zero_point", blocks.zero_point)):
            if data is not None:
                rows = data[:, :, None]
                set_initializer(graph, f"{name}_rows_{part}", rows.copy() if shared else rows)


def emit_matmul(model: ir.Model, node: WeightNode, name: str, grid: Grid, *, compute: str) -> None:
    """Replace a MatMul by a MatMulNBits over the weight stored as ``name``."""
    graph = model.graph
    old = graph.node(node.name)
    initializers = graph.initializers
    inputs = [old.inputs[0], initializers[f"{name}_quantized"], initializers[f"{name}_scale"]]
    if not grid.symmetric:
        inputs.append(initializers[f"{name}_zero_point"])
    rows, columns = node.shape if node.tied else node.shape[::-1]
    attributes = {
        "K": columns,
        "N": rows,
        "bits": grid.bits,
        "block_size": grid.block_size,
        "accuracy_level": ACCURACY_LEVELS[compute],
    }
    replace_node(graph, old, contrib_node(graph, MATMUL, node.name, inputs, attributes))


def store_portable(model: ir.Model, name: str, blocks: Blocks) -> None:
    """Store a 4-bit weight ``[out, in]`` as signed integers ``[in, out]`` for :func:`emit_portable`."""
    import ml_dtypes

    signed = (blocks.integers.T.astype(np.int8) - blocks.grid.middle).astype(ml_dtypes.int4)
    set_initializer(model.graph, f"{name}_quantized", signed)
    set_initializer(model.graph, f"{name}_scale", np.ascontiguousarray(blocks.scale.T))


def emit_portable(model: ir.Model, node: WeightNode, name: str, grid: Grid) -> None:
    """Make a MatMul read the weight stored as ``name`` through a DequantizeLinear (opset 21)."""
    import onnx_ir as ir

    graph = model.graph
    inputs = [graph.initializers[f"{name}_quantized"], graph.initializers[f"{name}_scale"]]
    attributes = {"axis": 0, "block_size": grid.block_size}
    dequantize = ir.node(DEQUANTIZE, inputs, attributes=attributes, name=f"{node.module}/{DEQUANTIZE}")
    matmul, weight = graph.node(node.name), dequantize.outputs[0]
    weight.name, weight.dtype, weight.shape = f"{dequantize.name}:0", ir.DataType.FLOAT, inputs[0].shape
    graph.insert_before(matmul, dequantize)
    replace_weight(graph, matmul, weight)
    raise_opset(model, 21)


def emit_lookup(model: ir.Model, node: WeightNode, name: str, grid: Grid) -> None:
    """Replace a Gather by a GatherBlockQuantized over the weight stored as ``name``."""
    import onnx_ir as ir

    graph = model.graph
    old = graph.node(node.name)
    initializers = graph.initializers
    integers = initializers.get(f"{name}_rows_quantized") or initializers[f"{name}_quantized"]
    inputs = [integers, old.inputs[1], initializers[f"{name}_rows_scale"]]
    if not grid.symmetric:
        inputs.append(initializers[f"{name}_rows_zero_point"])
    attributes = {"bits": grid.bits, "block_size": grid.block_size, "gather_axis": 0, "quantize_axis": 2}
    gather = contrib_node(graph, LOOKUP, node.name, inputs, attributes)
    output, columns = old.outputs[0], node.shape[1]
    place = f"{node.module}/blocks"
    gather.outputs[0].name, gather.outputs[0].type = f"{place}/rows", output.type
    graph.insert_before(old, gather)
    flat = _constant(model, f"{place}/Reshape_shape", [*[0] * (len(output.shape or ()) - 1), -1])
    last = ir.node("Reshape", [gather.outputs[0], flat], name=f"{place}/Reshape")
    if columns % grid.block_size:
        last.outputs[0].name, last.outputs[0].type = f"{place}/whole_blocks", output.type
        graph.insert_before(old, last)
        bounds = [
            _constant(model, f"{place}/{key}", [number])
            for key, number in (("start", 0), ("end", columns), ("axis", -1))
        ]
        last = ir.node("Slice", [last.outputs[0], *bounds], name=f"{place}/Slice")
    replace_node(graph, old, last)


def _constant(model: ir.Model, name: str, numbers: list[int]) -> ir.Value:
    return set_initializer(model.graph, name, np.asarray(numbers, np.int64))


def packed_nodes(model: ir.Model) -> tuple[PackedNode, ...]:
    """All nodes of a graph that read a weight in blocks, with the weights unpacked."""
    found = []
    for node in model.graph:
        if node.op_type in (MATMUL, LOOKUP):
            found.append(_read(node))
        elif node.op_type == "MatMul" and (portable := _read_portable(node)) is not None:
            found.append(portable)
    return tuple(found)


def _read_portable(node: ir.Node) -> PackedNode | None:
    source = node.inputs[1].producer() if node.inputs[1] is not None else None
    if source is None or source.op_type != DEQUANTIZE or not _attribute(source, "block_size"):
        return None
    integers, scales = source.inputs[0], source.inputs[1]
    assert integers is not None
    assert scales is not None
    grid = Grid(bits=4, block_size=_attribute(source, "block_size"), symmetric=len(source.inputs) < 3)
    signed = np.asarray(array(integers)).astype(np.int8)
    blocks = Blocks(
        integers=(signed.T + grid.middle).astype(np.uint8),
        scale=np.asarray(array(scales), np.float32).T,
        zero_point=None,
        grid=grid,
    )
    return PackedNode(node=node.name or "", lookup=False, compute="float", blocks=blocks)


def _read(node: ir.Node) -> PackedNode:
    lookup = node.op_type == LOOKUP
    integers, scales = (node.inputs[0], node.inputs[2]) if lookup else (node.inputs[1], node.inputs[2])
    zeros = node.inputs[3] if len(node.inputs) > 3 else None
    assert integers is not None
    assert scales is not None
    grid = Grid(
        bits=4 if _attribute(node, "bits") == 4 else 8,
        block_size=_attribute(node, "block_size"),
        symmetric=zeros is None,
        scale_dtype="float16" if array(scales).dtype == np.float16 else "float32",
    )
    packed: NDArray[Any] = array(integers)
    scale: NDArray[Any] = array(scales)
    zero: NDArray[Any] | None = None if zeros is None else array(zeros)
    columns = packed.shape[1] * grid.block_size if lookup else _attribute(node, "K")
    if lookup:
        blocks = unpack(packed, scale[:, :, 0], None, grid=grid, columns=columns)
        unpacked_zero = None if zero is None else zero[:, :, 0]
        blocks = Blocks(integers=blocks.integers, scale=blocks.scale, zero_point=unpacked_zero, grid=grid)
    else:
        blocks = unpack(packed, scale, zero, grid=grid, columns=columns)
    levels = {level: name for name, level in ACCURACY_LEVELS.items()}
    compute = "" if lookup else levels.get(_attribute(node, "accuracy_level"), "unset")
    return PackedNode(node=node.name or "", lookup=lookup, compute=compute, blocks=blocks)


def _attribute(node: ir.Node, name: str) -> int:
    return node.attributes.get_int(name, 0)
