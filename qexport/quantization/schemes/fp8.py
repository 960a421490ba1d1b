"""FP8 weights and activations (E4M3FN) as QuantizeLinear and DequantizeLinear, which every provider reads.

ONNX Runtime's CPU and CUDA providers multiply the dequantized values in floating point. Such a file shows its size
there, and the quality that the format costs. TensorRT turns the same nodes into FP8 kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from qexport.core import (
    ContractError,
    InputError,
    QuantizedNode,
    Role,
    TargetName,
    array,
    holds,
    matmul_weight,
    raise_opset,
    replace_weight,
    set_initializer,
)
from qexport.quantization import calibration as calibrating
from qexport.quantization.int8_check import require_nothing_besides
from qexport.quantization.numerics import fp8
from qexport.quantization.schemes.scheme import Rewritten, Settings, refused_lookup, with_fields
from qexport.quantization.targets import TARGETS, Need

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import FloatGraph, Selection, WeightNode
    from qexport.inputs import TokenSet

WEIGHT_DTYPE = "float8e4m3fn"
METHOD = "minmax"
"""The method of activation ranges. FP8 keeps small values beside a large one, so clipping the large one gains
nothing."""
SLOW = "CPUs have no FP8 kernels: a sentence takes 4 times fp32's time, and a token 9 times; take int8-static"
_OPSET = 19
"""The first opset with FP8 in QuantizeLinear and DequantizeLinear."""
_SUFFIX = "_fp8"


@dataclass(frozen=True, kw_only=True)
class Fp8:
    """E4M3FN weights with a scale per output channel (per tensor for TensorRT), and activations with one scale each."""

    activations: Literal["static", "none"] = "static"
    """``static``: the inputs of the selected MatMuls are rounded to FP8, in ranges fixed from calibration text."""
    target: TargetName = "cpu"

    OPTIONS: ClassVar[tuple[str, ...]] = ("activations", "target")
    takes_nodes: ClassVar[bool] = True
    lookup: ClassVar[Need | None] = "lookups"
    leaves_half: ClassVar[bool] = False
    engine: ClassVar[str] = "qexport"

    @property
    def calibration(self) -> str:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.calibration`."""
        return METHOD if self.activations == "static" else ""

    @property
    def needs(self) -> frozenset[Need]:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.needs`."""
        return frozenset({"float8"})

    @property
    def slow(self) -> str:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.slow`."""
        return SLOW if self.target == "cpu" else ""

    def configured(self, choices: Mapping[str, object]) -> Fp8:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.configured`."""
        return with_fields(self, choices)

    def refusal(self, node: WeightNode) -> str:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.refusal`."""
        return refused_lookup(self, node)

    @property
    def per_channel(self) -> bool:
        return not TARGETS[self.target].symmetric_only

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes once quantized: codes and float32 scales."""
        return node.parameters + 4 * (node.channels if self.per_channel else 1)

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.apply`.

        Raises:
            InputError: static activations without calibration text.
        """
        model, original = parent.copy(), parent.model
        raise_opset(model, _OPSET)
        plans = [_Plan.of(node, selection, self.target) for node in selection.nodes]
        peaks = self._peaks(parent, model, selection, tokens)
        for plan in plans:
            _quantize(model, plan, plan.quantized(original, per_channel=self.per_channel))
        for node in selection.matmuls:
            _quantize_input(model, node, peaks, self.target)
        return Rewritten(
            model=model,
            check=lambda emitted: self._check(emitted, original, plans, peaks),
            settings=self._settings(),
            loads_here=TARGETS[self.target].fuses_integers,
        )

    def _settings(self) -> Settings:
        arithmetic = "fp8" if TARGETS[self.target].onnx_only else "float on fp8 values"
        return {"weight_dtype": WEIGHT_DTYPE, "activations": self.activations, "arithmetic": arithmetic}

    def _peaks(
        self, parent: FloatGraph, model: ir.Model, selection: Selection, tokens: TokenSet | None
    ) -> dict[str, float]:
        """The largest magnitude of each tensor to round, by the tensor's name."""
        if self.activations == "none":
            return {}
        if tokens is None:
            raise InputError("static FP8 needs windows of calibration text; give tokens, or choose activations none")
        names = [_name(model.graph.node(node.name).inputs[0]) for node in selection.matmuls]
        ranges = calibrating.calibrate(parent, names, tokens, calibrating.METHODS[METHOD]) if names else {}
        return {name: max(-low, high) for name, (low, high) in ranges.items()}

    def _check(
        self, emitted: ir.Model, original: ir.Model, plans: list[_Plan], peaks: Mapping[str, float]
    ) -> tuple[QuantizedNode, ...]:
        """Compare the emitted file with the request; the weights are rounded again.

        Raises:
            ContractError: a node reads other codes or scales than those of its weight, or its input is rounded in
                another way; or the graph has another quantizing operator.
        """
        accounted: set[ir.Node] = set()
        by_name = {node.name: node for node in emitted.graph}
        for plan in plans:
            node = by_name.get(plan.node.name)
            if node is None:
                raise ContractError(f"{plan.node.name}: is not in the file any more")
            codes, scale = plan.quantized(original, per_channel=self.per_channel)
            accounted |= _checked_weight(node, plan, codes, scale)
            if plan.node.role is not Role.EMBEDDING:
                accounted |= _checked_input(node, peaks)
        require_nothing_besides(emitted, accounted, by="FP8:")
        return tuple(
            QuantizedNode(
                name=plan.node.name,
                weight=plan.node.weight,
                weight_dtype=WEIGHT_DTYPE,
                per_channel=self.per_channel,
                activation="none" if plan.node.role is Role.EMBEDDING else self.activations,
            )
            for plan in plans
        )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The stored form of the weight of one selected node."""

    node: WeightNode
    stored: str
    """The prefix of the names of the weight's codes and scales."""
    rows: bool
    """True for ``[rows, dim]`` with channels along the rows, False for ``[in, out]``."""
    decoded: bool
    """True if rows are gathered as bytes and decoded through a table, because Gather does not take FP8; False if the
    whole weight passes through a DequantizeLinear."""

    @classmethod
    def of(cls, node: WeightNode, selection: Selection, target: TargetName) -> _Plan:
        """Plan a node. A table that its head reads too is stored once and dequantized whole, as the head needs it."""
        lookup = node.role is Role.EMBEDDING
        others = selection.embeddings if node.tied else [other for other in selection.matmuls if other.tied and lookup]
        shared = any(other.weight == node.weight for other in others)
        return cls(
            node=node,
            stored=node.weight if lookup or shared or not node.tied else f"{node.module}.weight",
            rows=lookup or shared,
            decoded=lookup and not shared and not TARGETS[target].onnx_only,
        )

    def quantized(self, original: ir.Model, *, per_channel: bool) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The codes and scales of the float weight in their stored form."""
        if self.rows:
            weight = np.asarray(array(original.graph.initializers[self.node.weight]), np.float32)
        else:
            weight = matmul_weight(original, self.node)
        return fp8.quantize(weight, (0 if self.rows else 1) if per_channel else None)


def _quantize(model: ir.Model, plan: _Plan, quantized: tuple[NDArray[np.uint8], NDArray[np.float32]]) -> None:
    """Make a node read codes in place of its float weight."""
    import onnx_ir as ir

    codes, scale = quantized
    graph = model.graph
    node = graph.node(plan.node.name)
    name = f"{plan.stored}{_SUFFIX}"
    if plan.decoded:
        _decode_rows(graph, node, set_initializer(graph, name, codes), scale, plan)
        return
    if name in graph.initializers:  # the other reader of a shared table has stored it
        return
    stored = set_initializer(graph, name, codes.view(ir.DataType.FLOAT8E4M3FN.numpy()))
    scales = set_initializer(graph, f"{plan.stored}_scale", scale)
    axis = {"axis": 0 if plan.rows else 1} if scale.ndim else {}
    dequantize = _node("DequantizeLinear", f"{plan.node.module}/DequantizeLinear", [stored, scales], axis)
    if plan.rows:
        table = graph.initializers[plan.node.weight]
        graph.insert_before(min((use.node for use in table.uses()), key=list(graph).index), dequantize)
        table.replace_all_uses_with(dequantize.outputs[0])
        return
    graph.insert_before(node, dequantize)
    replace_weight(graph, node, dequantize.outputs[0])


def _decode_rows(graph: ir.Graph, gather: ir.Node, codes: ir.Value, scale: NDArray[np.float32], plan: _Plan) -> None:
    """Replace ``Gather(table, ids)`` by lookups of the bytes, of the values that they mean, and of the row's scale."""
    import onnx_ir as ir

    place, ids = f"{plan.node.module}/dequantize", gather.inputs[1]
    values = set_initializer(graph, "fp8_values", fp8.VALUES)
    scales = set_initializer(graph, f"{plan.stored}_scale", scale[:, None])
    rows = _node("Gather", str(gather.name), [codes, ids], {"axis": 0})
    indices = _node("Cast", f"{place}/Cast", [rows.outputs[0]], {"to": int(ir.DataType.INT32)})
    decoded = _node("Gather", f"{place}/Gather", [values, indices.outputs[0]], {"axis": 0})
    factors = _node("Gather", f"{place}/Gather_1", [scales, ids], {"axis": 0})
    result = _node("Mul", f"{place}/Mul", [decoded.outputs[0], factors.outputs[0]], {})
    old, new = gather.outputs[0], result.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(gather, [rows, indices, decoded, factors, result])
    old.replace_all_uses_with(new)
    graph.remove(gather, safe=True)


def _quantize_input(model: ir.Model, node: WeightNode, peaks: Mapping[str, float], target: TargetName) -> None:
    """Round the input of a MatMul to FP8; MatMuls that read the same tensor share the rounding."""
    graph = model.graph
    matmul = graph.node(node.name)
    source = matmul.inputs[0]
    if source is None or _name(source) not in peaks:
        return
    known = [use.node for use in source.uses() if use.node.op_type == "QuantizeLinear"]
    rounded = _end_of_rounding(known[0]) if known else _add_rounding(graph, matmul, node.module, peaks, target)
    matmul.replace_input_with(0, rounded.outputs[0])


def _add_rounding(
    graph: ir.Graph, matmul: ir.Node, module: str, peaks: Mapping[str, float], target: TargetName
) -> ir.Node:
    import onnx_ir as ir

    source = matmul.inputs[0]
    assert source is not None
    scale = set_initializer(graph, f"{_name(source)}_scale", np.asarray(fp8.tensor_scale(peaks[_name(source)])))
    zero_data = np.zeros((), np.uint8).view(ir.DataType.FLOAT8E4M3FN.numpy())
    zero = set_initializer(graph, "fp8_zero", zero_data)
    place = f"{module}/input"
    new = [_node("QuantizeLinear", f"{place}/QuantizeLinear", [source, scale, zero], {})]
    if TARGETS[target].fuses_integers:
        new.append(_node("Cast", f"{place}/Cast", [new[0].outputs[0]], {"to": int(ir.DataType.FLOAT)}))
        new.append(_node("Mul", f"{place}/Mul", [new[1].outputs[0], scale], {}))
    else:
        new.append(_node("DequantizeLinear", f"{place}/DequantizeLinear", [new[0].outputs[0], scale, zero], {}))
    graph.insert_before(matmul, new)
    new[-1].outputs[0].shape, new[-1].outputs[0].type = source.shape, source.type
    return new[-1]


def _end_of_rounding(quantize: ir.Node) -> ir.Node:
    """The node that restores the values that a QuantizeLinear rounded."""
    (use,) = quantize.outputs[0].uses()
    return next(iter(use.node.outputs[0].uses())).node if use.node.op_type == "Cast" else use.node


def _node(op: str, name: str, inputs: list[ir.Value | None], attributes: dict[str, int]) -> ir.Node:
    import onnx_ir as ir

    made = ir.node(op, inputs, attributes=attributes, name=name)
    made.outputs[0].name = f"{name}_output"
    return made


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""


def _checked_weight(node: ir.Node, plan: _Plan, codes: NDArray[np.uint8], scale: NDArray[np.float32]) -> set[ir.Node]:
    """Check the codes and scales of a node's weight; return the quantizing operators between the weight and node."""
    problem = ContractError(f"{node.name}: does not read the FP8 codes and scales of its weight")
    if plan.decoded:
        found = _decoding(node)
        if found is None or not (holds(node.inputs[0], codes) and holds(found, scale[:, None])):
            raise problem
        return set()
    place = 0 if plan.node.role is Role.EMBEDDING else 1
    dequantize = _producer(node, place)
    if plan.rows and place == 1 and dequantize is not None and dequantize.op_type == "Transpose":
        dequantize = _producer(dequantize, 0)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        raise problem
    axis = dequantize.attributes.get_int("axis", 1)
    if scale.ndim and axis != (0 if plan.rows else 1):
        raise problem
    if not (holds(dequantize.inputs[0], codes, WEIGHT_DTYPE) and holds(dequantize.inputs[1], scale)):
        raise problem
    return {dequantize}


def _decoding(rows: ir.Node) -> ir.Value | None:
    """The scales that multiply decoded rows of codes; None if no rows are decoded here."""
    at = rows
    for op in ("Cast", "Gather", "Mul"):
        uses = list(at.outputs[0].uses())
        if rows.op_type != "Gather" or len(uses) != 1 or uses[0].node.op_type != op:
            return None
        at = uses[0].node
        if op == "Gather" and not holds(at.inputs[0], fp8.VALUES):
            return None
    factors = _producer(at, 1)
    same_ids = factors is not None and factors.op_type == "Gather" and factors.inputs[1] is rows.inputs[1]
    return factors.inputs[0] if same_ids and factors is not None else None


def _checked_input(node: ir.Node, peaks: Mapping[str, float]) -> set[ir.Node]:
    """Check the scale of the two operators that round a MatMul's input; return them, or none if none were asked for."""
    pair = _rounding(node)
    if (pair is not None) != bool(peaks):
        raise ContractError(f"{node.name}: its input is rounded to FP8: {pair is not None}, asked: {bool(peaks)}")
    if pair is None:
        return set()
    source, zero = _name(pair[0].inputs[0]), np.zeros((), np.uint8)
    scale = np.asarray(fp8.tensor_scale(peaks.get(source, 0.0)))
    exact = all(
        holds(part.inputs[1], scale) and all(holds(value, zero, WEIGHT_DTYPE) for value in part.inputs[2:])
        for part in pair
    )
    if source not in peaks or len(pair[0].inputs) != 3 or not exact:
        raise ContractError(f"{node.name}: its input {source} is not rounded to FP8 over its calibrated range")
    return set(pair)


def _rounding(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The QuantizeLinear before a node, and the node that restores its values: DequantizeLinear, or Mul after Cast."""
    last = _producer(node, 0)
    before = _producer(last, 0) if last is not None and last.op_type in {"Mul", "DequantizeLinear"} else None
    if last is not None and last.op_type == "Mul" and before is not None:
        before = _producer(before, 0) if before.op_type == "Cast" else None
    return (before, last) if last is not None and before is not None and before.op_type == "QuantizeLinear" else None


def _producer(node: ir.Node, place: int) -> ir.Node | None:
    value = node.inputs[place]
    return value.producer() if value is not None else None
