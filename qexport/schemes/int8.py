"""INT8 weights and activations (W8A8): MatMuls through an engine, lookup tables as integers with a scale for each row."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qexport import calibration, cpu, quantized
from qexport.artifact import ONNX_DATA_NAME, ONNX_NAME
from qexport.engines import MatMulRequest, engine
from qexport.errors import InputError
from qexport.schemes import SchemeResult
from qexport.selection import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.artifact import Artifact
    from qexport.inputs.text import TokenSet
    from qexport.selection import Selection, WeightNode


class WeightGrid(StrEnum):
    """The grid that weights are rounded to, symmetric and per output channel."""

    INT8 = "int8"
    """-127 to 127."""
    INT8_REDUCED = "int8-reduced"
    """-64 to 64, ``reduce_range``: CPUs without VNNI add pairs of u8 x s8 products in 16 bits, which overflow beyond."""
    UINT8 = "uint8"
    """1 to 255 around the zero point 128: the same weights as ``int8``, and exact on CPUs without VNNI too."""


EXTERNAL_DATA_BYTES = 1_900_000_000
"""Weights above this go to a file of their own: a protobuf message ends at 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Static:
    """Activation ranges are fixed beforehand, from calibration text."""

    method: calibration.Method = calibration.DEFAULT_METHOD


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Activation ranges are computed for each input as it comes."""


@dataclass(frozen=True, kw_only=True)
class Int8:
    """INT8 weights, symmetric and per output channel, with 8-bit activations."""

    activations: Static | Dynamic
    symmetric: bool = False
    """Static activation ranges are made symmetric around zero."""
    grid: WeightGrid | None = None
    """None: ``int8`` where this CPU has VNNI, else ``uint8``."""

    @property
    def weight_grid(self) -> WeightGrid:
        return self.grid or (WeightGrid.INT8 if cpu.has_vnni() else WeightGrid.UINT8)

    def _settings(self) -> dict[str, str | int | float | bool]:
        """The settings as the manifest keeps them, with what the machine decided."""
        settings: dict[str, str | int | float | bool] = {"weights": self.weight_grid.value}
        if isinstance(self.activations, Static):
            settings |= {"method": calibration.method_label(self.activations.method), "symmetric": self.symmetric}
        return settings

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes once quantized: integers, fp32 scales and zero points."""
        return node.parameters + node.channels * (4 + 1)

    def apply(
        self, parent: Artifact, selection: Selection, folder: Path, *, engine_name: str, tokens: TokenSet | None
    ) -> SchemeResult:
        """Quantize the selected nodes of an fp32 artifact and write ``model.onnx`` into ``folder``.

        Args:
            parent: the fp32 artifact.
            selection: nodes of its graph.
            folder: where the model file goes.
            engine_name: who rewrites the MatMuls.
            tokens: calibration windows; needed for static activations only.

        Returns:
            The nodes found quantized in the emitted graph, with the bytes of all its weights.

        Raises:
            ContractError: what the engine emitted is not what was asked for.
            InputError: static activations without calibration text.
            UnsupportedHere: the engine is not installed.
        """
        import onnx_ir as ir

        stored = _stored_names(selection)
        model = ir.load(parent.onnx_path)
        _untie_heads(model, selection, stored)
        ranges = self._ranges(parent, model, selection, tokens)
        if selection.matmuls:
            request = MatMulRequest(
                nodes=tuple(node.name for node in selection.matmuls),
                ranges=ranges,
                reduce_range=self.weight_grid is WeightGrid.INT8_REDUCED,
                symmetric=self.symmetric,
            )
            model = _rewritten(model, request, engine_name)
            if self.weight_grid is WeightGrid.UINT8:
                _shift_to_unsigned(model)
        for node in selection.embeddings:
            _quantize_lookup(model, node, stored[node.name])
        path = folder / ONNX_NAME
        weight_bytes = _save(model, path)
        found = quantized.check(
            ir.load(path),
            asked={(stored[node.name], node.role is Role.EMBEDDING): node for node in selection.nodes},
            original=_originals(ir.load(parent.onnx_path), selection, stored),
            ranges=ranges,
            symmetric=self.symmetric,
            by=f"engine {engine_name}",
        )
        return SchemeResult(quantized=found, weight_bytes=weight_bytes, settings=self._settings())

    def _ranges(
        self, parent: Artifact, model: ir.Model, selection: Selection, tokens: TokenSet | None
    ) -> calibration.Ranges | None:
        if isinstance(self.activations, Dynamic):
            return None
        if tokens is None:
            raise InputError("static INT8 needs calibration text; give --calibration-text FILE")
        chosen = {node.name for node in selection.matmuls}
        inputs = [node.inputs[0] for node in model.graph if node.name in chosen]
        tensors = [value.name for value in inputs if value is not None and value.name is not None]
        return calibration.calibrate(parent, tensors, tokens, self.activations.method)


def _stored_names(selection: Selection) -> dict[str, str]:
    """Under which name each selected node's weight is stored; an embedding and the head tied to it share one."""
    names = {}
    heads = {node.weight: f"{node.module}.weight" for node in selection.matmuls if node.tied}
    for node in selection.nodes:
        names[node.name] = heads.get(node.weight, node.weight)
    return names


def _originals(
    model: ir.Model, selection: Selection, stored: Mapping[str, str]
) -> Callable[[str], NDArray[np.float32]]:
    """The float weights by stored name, a tied one as its head reads it: ``[in, out]``."""
    tied = {stored[node.name] for node in selection.matmuls if node.tied}
    sources = {stored[node.name]: model.graph.initializers[node.weight] for node in selection.nodes}

    def original(name: str) -> NDArray[np.float32]:
        weight = quantized.array(sources[name])
        return np.asarray(weight.T if name in tied else weight, np.float32)

    return original


def _untie_heads(model: ir.Model, selection: Selection, stored: Mapping[str, str]) -> None:
    """Give each selected head an initializer of its own, ``[in, out]``, since engines quantize nothing else."""
    graph = model.graph
    for head in (node for node in selection.matmuls if node.tied):
        matmul = graph.node(head.name)
        transpose = matmul.inputs[1].producer() if matmul.inputs[1] is not None else None
        assert transpose is not None, f"{head.name} was found to read a transposed table"
        table = np.ascontiguousarray(quantized.array(graph.initializers[head.weight]).T)
        weight = _initializer(graph, stored[head.name], table)
        matmul.replace_input_with(1, weight)
        if not transpose.outputs[0].uses():
            graph.remove(transpose, safe=True)


def _initializer(graph: ir.Graph, name: str, data: NDArray[np.generic]) -> ir.Value:
    import onnx_ir as ir

    value = ir.Value(
        name=name,
        shape=ir.Shape(data.shape),
        type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
        const_value=ir.tensor(data, name=name),
    )
    graph.register_initializer(value)
    return value


def _rewritten(model: ir.Model, request: MatMulRequest, engine_name: str) -> ir.Model:
    """The graph as the engine rewrites it, in an order in which it can run."""
    import onnx_ir as ir

    metadata = dict(model.metadata_props)
    with tempfile.TemporaryDirectory(prefix="qexport-") as folder:
        source = Path(folder) / "source.onnx"
        _save(model, source)
        rewritten = ir.from_proto(engine(engine_name)(source, request))
    # Engines leave their own notes in the metadata, and neural-compressor appends its nodes at the end.
    rewritten.metadata_props.clear()
    rewritten.metadata_props.update(metadata)
    rewritten.graph.sort()
    return rewritten


def _shift_to_unsigned(model: ir.Model) -> None:
    """Store every int8 weight as uint8 with the zero point 128: the same numbers, for kernels of two unsigned operands."""
    import onnx_ir as ir

    for node in quantized.integer_nodes(model):
        for value in (node.integers, node.zero_point):
            assert value is not None, f"{node.weight}: both engines store a zero point"
            if value.dtype is ir.DataType.INT8:
                shifted = (quantized.array(value).view(np.uint8) ^ np.uint8(128)).reshape(quantized.array(value).shape)
                value.const_value = ir.tensor(shifted, name=value.name)
                value.dtype = ir.DataType.UINT8


def _quantize_lookup(model: ir.Model, node: WeightNode, stored: str) -> None:
    """Replace ``Gather(table, ids)`` by a lookup of integers and of their scales.

    A table of its own is stored as ``[rows, dim]`` with a scale per row. One that a quantized head reads too is stored
    once, as the head needs it: ``[dim, rows]``; the lookup then gathers columns.
    """
    import onnx_ir as ir

    graph = model.graph
    gather = graph.node(node.name)
    ids = gather.inputs[1]
    shared = f"{stored}{quantized.SUFFIX}" in graph.initializers
    if not shared:
        table = quantized.array(graph.initializers[node.weight]).astype(np.float32)
        scale = np.maximum(np.abs(table).max(axis=1), np.finfo(np.float32).tiny) / np.float32(127.0)
        _initializer(graph, f"{stored}{quantized.SUFFIX}", np.rint(table / scale[:, None]).astype(np.int8))
        _initializer(graph, f"{stored}_scale", scale)
    integers = graph.initializers[f"{stored}{quantized.SUFFIX}"]
    new: list[ir.Node] = []

    def add(op: str, *inputs: ir.Value | None, **attributes: int | list[int]) -> ir.Value:
        made = ir.node(op, list(inputs), attributes=attributes, name=f"{node.module}/{op}_{len(new)}")
        made.outputs[0].name = f"{made.name}_output"
        new.append(made)
        return made.outputs[0]

    if shared:
        columns = ir.node("Gather", [integers, ids], attributes={"axis": 1}, name=node.name)
        columns.outputs[0].name = f"{node.name}_columns"
        new.append(columns)
        rows = add("Transpose", columns.outputs[0], perm=[1, 2, 0])
    else:
        looked_up = ir.node("Gather", [integers, ids], attributes={"axis": 0}, name=node.name)
        looked_up.outputs[0].name = f"{node.name}_rows"
        new.append(looked_up)
        rows = looked_up.outputs[0]
    values = add("Cast", rows, to=int(ir.DataType.FLOAT))
    if integers.dtype is ir.DataType.UINT8:
        values = add("Sub", values, _initializer(graph, f"{node.module}.middle", np.asarray(128.0, np.float32)))
    scales = add("Gather", graph.initializers[f"{stored}_scale"], ids, axis=0)
    last = _initializer(graph, f"{node.module}.last_axis", np.asarray([-1], np.int64))
    result = add("Mul", values, add("Unsqueeze", scales, last))
    old = gather.outputs[0]
    result.shape, result.type = old.shape, old.type
    graph.insert_before(gather, new)
    old.replace_all_uses_with(result)
    graph.remove(gather, safe=True)


def _save(model: ir.Model, path: Path) -> int:
    """Drop what nothing reads any more, write the model, and return the bytes of its weights."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    weight_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weight_bytes > EXTERNAL_DATA_BYTES:
        ir.save(model, path, external_data=ONNX_DATA_NAME)
    else:
        ir.save(model, path)
    return weight_bytes
