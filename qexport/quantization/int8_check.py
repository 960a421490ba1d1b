"""Find the quantized nodes in an emitted INT8 graph, and compare them with the request."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from qexport.core import ContractError, QuantizedNode, array
from qexport.quantization.decomposition import read_form
from qexport.quantization.numerics.grid import channel_peaks, pair_peaks, row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import WeightNode
    from qexport.quantization.calibration import Ranges

SUFFIX = "_quantized"
"""Suffix that engines append to the name of a weight to name its integers."""
LOOKUP_SUFFIX = f"_lookup{SUFFIX}"
"""Suffix of a lookup's own initializer over integers that a MatMul reads too."""
LOOKUP_STEPS = 127
"""Integer for the largest entry of a row of a lookup table."""

PAIR_LIMIT = 128
"""Largest sum of two neighbouring weights whose product with 255 fits in 16 bits."""

QUANTIZING_OPS = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
"""Operators that produce, read or multiply integers of few bits."""

Activation = Literal["none", "static", "dynamic", "per-token"]
Key = tuple[str, bool]
"""Name of a stored weight, and True if the node looks up its rows instead of multiplying by it."""


@dataclass(frozen=True, kw_only=True)
class IntegerNode:
    """A node of an emitted graph that reads a weight stored as 8-bit integers."""

    weight: str
    """Name of the float weight that the integers represent."""
    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    lookup: bool
    """True if the node looks up rows of a table, False if it multiplies."""
    axis: int
    """Axis of the integers along which the scales run."""
    activation: Activation
    activation_scale: ir.Value | None = None
    activation_zero_point: ir.Value | None = None
    activation_name: str = ""
    """The float tensor that is quantized before the node."""
    operators: frozenset[ir.Node] = frozenset()
    """The quantizing operators that implement the node."""
    channels: tuple[int, ...] = ()
    """Channels of the activation that are multiplied in float."""
    rows: NDArray[np.float32] | None = None
    """The rows of the weight for these channels, ``[channels, out]``."""

    @property
    def key(self) -> Key:
        return self.weight, self.lookup

    def parts(self) -> tuple[NDArray[np.generic], NDArray[np.float32], np.float32]:
        """Integers, scales ``[channels]`` and the one zero point: the weight is (integers - zero point) * scales.

        Raises:
            ContractError: the zero point differs between channels.
        """
        zeros = np.unique(array(self.zero_point)) if self.zero_point is not None else np.zeros(1)
        if zeros.size != 1:
            raise ContractError(f"{self.weight}: its zero points differ, but a symmetric grid has only one")
        return array(self.integers), array(self.scale).astype(np.float32).ravel(), np.float32(zeros[0])

    @property
    def per_channel(self) -> bool:
        """True if each channel has its own scale."""
        return array(self.scale).size == int(np.asarray(self.integers.shape)[self.axis])


def integer_nodes(model: ir.Model) -> tuple[IntegerNode, ...]:
    """All nodes that read integer weights: MatMulInteger, MatMul between DequantizeLinear, Gather of integers."""
    return tuple(found for node in model.graph if (found := _integer_node(node)) is not None)


def _integer_node(node: ir.Node) -> IntegerNode | None:
    if node.op_type == "MatMulInteger" and _is_constant(node.inputs[1]):
        return _matmul_integer(node)
    if node.op_type == "MatMul":
        return _qdq_matmul(node)
    if node.op_type == "Gather" and _is_constant(node.inputs[0]) and _name(node.inputs[0]).endswith(SUFFIX):
        return _lookup(node)
    return None


def _matmul_integer(node: ir.Node) -> IntegerNode:
    integers = node.inputs[1]
    assert integers is not None
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    quantizer = source if source is not None and source.op_type == "DynamicQuantizeLinear" else None
    scale = quantizer.outputs[1] if quantizer is not None else None
    weight_scale, result = _scaled(node, integers, scale)
    bound = quantizer is not None and len(node.inputs) > 2 and node.inputs[2] is quantizer.outputs[2]
    form = read_form(quantizer.inputs[0], result) if quantizer is not None else None
    return IntegerNode(
        weight=_name(integers).removesuffix(SUFFIX),
        integers=integers,
        scale=weight_scale,
        zero_point=node.inputs[3] if len(node.inputs) > 3 else None,
        lookup=False,
        axis=1,
        activation="dynamic" if bound else "none",
        activation_scale=scale,
        activation_name=_name(quantizer.inputs[0]) if quantizer is not None else "",
        operators=frozenset({node} if quantizer is None else {node, quantizer}),
        channels=form.channels if form is not None else (),
        rows=form.rows if form is not None else None,
    )


def _qdq_matmul(node: ir.Node) -> IntegerNode | None:
    weight = node.inputs[1].producer() if node.inputs[1] is not None else None
    if weight is None or weight.op_type != "DequantizeLinear" or not _is_constant(weight.inputs[0]):
        return None
    integers, scale = weight.inputs[0], weight.inputs[1]
    assert integers is not None
    assert scale is not None
    dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
    quantize = dequantize.inputs[0].producer() if dequantize is not None and dequantize.inputs[0] is not None else None
    static = (
        dequantize is not None
        and quantize is not None
        and (dequantize.op_type, quantize.op_type) == ("DequantizeLinear", "QuantizeLinear")
        and tuple(dequantize.inputs[1:]) == tuple(quantize.inputs[1:])
    )
    form = read_form(quantize.inputs[0], node.outputs[0]) if static and quantize is not None else None
    rounded: Activation = "none" if form is None else "per-token" if form.per_token else "static"
    return IntegerNode(
        weight=_name(integers).removesuffix(SUFFIX),
        integers=integers,
        scale=scale,
        zero_point=weight.inputs[2] if len(weight.inputs) > 2 else None,
        lookup=False,
        axis=weight.attributes.get_int("axis", 1) % 2,
        activation=rounded,
        activation_scale=quantize.inputs[1] if static and quantize is not None else None,
        activation_zero_point=quantize.inputs[2] if static and quantize is not None else None,
        activation_name=_name(quantize.inputs[0]) if static and quantize is not None else "",
        operators=frozenset({weight, *((dequantize, quantize) if static and dequantize and quantize else ())}),
        channels=form.channels if form is not None else (),
        rows=form.rows if form is not None else None,
    )


def _lookup(node: ir.Node) -> IntegerNode:
    integers = node.inputs[0]
    assert integers is not None
    by_name = {value.name: value for value in (node.graph.initializers.values() if node.graph is not None else ())}
    name = _name(integers).removesuffix(LOOKUP_SUFFIX).removesuffix(SUFFIX)
    return IntegerNode(
        weight=name,
        integers=integers,
        scale=by_name[f"{name}_scale"],
        zero_point=by_name.get(f"{name}_zero_point"),
        lookup=True,
        axis=node.attributes.get_int("axis", 0),
        activation="none",
    )


def _scaled(node: ir.Node, integers: ir.Value, activation_scale: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """The weight's scale, found in the graph behind the MatMulInteger and not by its name, and the scaled product."""
    sizes = (1, array(integers).shape[1])
    for multiplied in _following(node, ("Cast", "Mul")):
        factors = [*multiplied.inputs]
        for value in multiplied.inputs:
            producer = value.producer() if value is not None else None
            factors += producer.inputs if producer is not None and producer.op_type == "Mul" else ()
        scales = [
            value for value in factors if value is not None and _is_constant(value) and array(value).size in sizes
        ]
        if scales and (activation_scale is None or activation_scale in factors):
            return scales[0], multiplied.outputs[0]
    raise ContractError(
        f"{node.name}: the product of integers is never multiplied by the weight's and the input's scale"
    )


def _following(node: ir.Node, ops: tuple[str, ...]) -> Iterator[ir.Node]:
    for value in node.outputs:
        for use in value.uses():
            if use.node.op_type in ops:
                yield use.node
                yield from _following(use.node, ops)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""


def check(
    model: ir.Model,
    *,
    asked: Mapping[Key, WeightNode],
    original: Callable[[str], NDArray[np.float32]],
    ranges: Ranges,
    static: bool,
    symmetric: bool,
    steps: int,
    by: str,
    paired: bool = False,
    per_token: Collection[str] = (),
    floats: Mapping[str, tuple[tuple[int, ...], NDArray[np.float32]]] = MappingProxyType({}),
) -> tuple[QuantizedNode, ...]:
    """Compare an emitted graph with the request.

    Args:
        model: the emitted graph.
        asked: the nodes to quantize, by the name of their stored weight and True for a lookup.
        original: returns the float weight of a name, laid out like the integers.
        ranges: the fixed range of each activation tensor that has one.
        static: True if every activation has a fixed range; else those per token have one.
        symmetric: True if these ranges must be symmetric.
        steps: the integer that the largest weight of a MatMul's channel must become.
        by: the engine that emitted the graph, for the message.
        paired: True if two neighbours of a MatMul's weight must add up to at most ``steps`` + 1.
        per_token: the stored weights whose activation is divided by the peaks of its tokens.
        floats: the channels that are multiplied in float and their rows ``[channels, out]``, by stored weight.

    Returns:
        The nodes found quantized, in the order of ``asked``.

    Raises:
        ContractError: a node is missing, is extra, is not per channel or is on another grid; its activation is
            quantized in another way or over another range; its integers differ from the float weight by more than half
            a step; or the graph has another quantizing operator.
    """
    nodes = integer_nodes(model)
    found = {node.key: node for node in nodes}
    missing, extra = sorted(asked.keys() - found.keys()), sorted(found.keys() - asked.keys())
    if missing or extra or len(nodes) != len(found):
        raise ContractError(
            f"{by}: quantized nodes differ from the selection: left in float {_some(missing)}; "
            f"not selected {_some(extra)}; twice {len(nodes) - len(found)}"
        )
    require_nothing_besides(model, {operator for node in nodes for operator in node.operators}, by=by)
    for (weight, lookup), node in found.items():
        # qexport quantizes a lookup's own table with all steps; the engine may have been asked for fewer.
        own_table = lookup and (weight, False) not in found
        _check_weight(
            node, original(weight), LOOKUP_STEPS if own_table else steps, paired=paired and not own_table, by=by
        )
        if not lookup:
            wanted: Activation = "per-token" if weight in per_token else "static" if static else "dynamic"
            _check_activation(node, ranges, wanted, symmetric=symmetric, by=by)
            _check_floats(node, floats.get(weight), by=by)
    return tuple(
        QuantizedNode(
            name=reader.name,
            weight=reader.weight,
            weight_dtype=str(array(found[key].integers).dtype),
            per_channel=found[key].per_channel,
            activation=found[key].activation,
            float_channels=found[key].channels,
        )
        for key, reader in asked.items()
    )


def _some(keys: Sequence[Key]) -> str:
    names = [name for name, _ in keys]
    return (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"


def require_nothing_besides(model: ir.Model, accounted: Collection[ir.Node], *, by: str) -> None:
    """Make sure that every quantizing operator belongs to a selected weight.

    Other integer arithmetic, such as quantized outputs, costs accuracy too.

    Args:
        model: the emitted graph.
        accounted: the quantizing operators of the selected nodes.
        by: the tool that emitted the graph, for the message.

    Raises:
        ContractError: the graph has another quantizing operator.
    """
    stray = [node for node in model.graph if node.op_type in QUANTIZING_OPS and node not in accounted]
    if stray:
        raise ContractError(f"{by} has a quantizing operator outside the selection: {stray[0].op_type} {stray[0].name}")


def _check_weight(node: IntegerNode, original: NDArray[np.float32], steps: int, *, paired: bool, by: str) -> None:
    if not node.per_channel or (node.axis != 1 and not node.lookup):
        raise ContractError(f"{by}: {node.weight} does not have one scale for each output channel")
    if tuple(node.integers.shape or ()) != original.shape:
        raise ContractError(f"{by}: {node.weight} is stored as {node.integers.shape}, not as {original.shape}")
    integers, scale, zero = node.parts()
    for block in row_blocks(original.shape):
        step = scale[block][:, None] if node.axis == 0 else scale
        off = np.abs((integers[block].astype(np.float32) - zero) * step - original[block])
        # In float32, a value in the middle of a step may round to either side.
        if bool(np.any(off > np.float32(0.5 * (1 + 1e-3)) * step)):
            raise ContractError(f"{by}: the integers of {node.weight} are further than half a step from its weights")
    peak = pair_peaks(original, axis=node.axis) if paired else channel_peaks(original, axis=node.axis)
    # A channel of zeros may have any scale.
    used = peak > steps * np.finfo(np.float32).tiny
    if bool(np.any(np.abs(peak[used] / scale[used] - steps) > 0.01 * steps)):
        raise ContractError(f"{by}: the scales of {node.weight} do not spread its weights over {steps} steps")
    if paired and saturating_pairs(integers):
        raise ContractError(f"{by}: neighbours in {node.weight} add up to more than {PAIR_LIMIT}, kernels may saturate")


def saturating_pairs(integers: NDArray[np.generic]) -> int:
    """Count the pairs of neighbours in ``[in, out]`` that saturate on a CPU that adds u8 x s8 products in 16 bits.

    Unsigned weights use kernels that do not saturate.
    """
    if integers.dtype != np.int8:
        return 0
    pairs = integers[: len(integers) // 2 * 2].reshape(-1, 2, integers.shape[1]).astype(np.int16).sum(axis=1)
    return int(np.count_nonzero(np.abs(pairs) > PAIR_LIMIT))


def _check_floats(node: IntegerNode, asked: tuple[tuple[int, ...], NDArray[np.float32]] | None, *, by: str) -> None:
    channels, rows = asked if asked is not None else ((), None)
    if node.channels != channels:
        raise ContractError(
            f"{by}: {node.weight} multiplies the channels {_numbers(node.channels)} in float instead of {_numbers(channels)}"
        )
    if rows is not None and not (node.rows is not None and np.array_equal(node.rows, rows)):
        raise ContractError(f"{by}: the float rows of {node.weight} are not the rows of its weight")


def _numbers(channels: Sequence[int]) -> str:
    return ", ".join(map(str, channels)) or "none"


def _check_activation(node: IntegerNode, ranges: Ranges, wanted: Activation, *, symmetric: bool, by: str) -> None:
    if node.activation != wanted:
        raise ContractError(f"{by}: the input of {node.weight} is quantized {node.activation} instead of {wanted}")
    if wanted == "dynamic":
        return
    if node.activation_scale is None or node.activation_zero_point is None:
        raise ContractError(f"{by}: the input of {node.weight} has no scale or no zero point")
    if node.activation_name not in ranges:
        raise ContractError(f"{by}: the input of {node.weight} is {node.activation_name}, which was not calibrated")
    low, high = ranges[node.activation_name]
    scale, zero = float(array(node.activation_scale)), int(array(node.activation_zero_point))
    peak = max(-low, high)
    expected = (peak / 127.0 if symmetric else (high - low) / 255.0) or 1.0
    # onnxruntime divides a symmetric range into 255 steps and neural-compressor into 254: both are right.
    if abs(scale / expected - 1.0) > 0.005 or abs(zero - (0 if symmetric else -low / expected)) > 1.0:
        raise ContractError(
            f"{by}: the input of {node.weight} is quantized with scale {scale:.6g} and zero point {zero}, "
            f"which is not the calibrated range {low:.6g} to {high:.6g}"
        )
