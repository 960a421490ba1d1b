"""Writes a form into a float graph: channels that are multiplied beside the rest, and tokens divided by their peaks.

The graph computes the same afterwards. An engine then rounds the activation that the MatMuls read. ``x @ W`` becomes::

    inner = x * mask                              the channels in float are zero
    unit = inner / max(|inner|)                   with ranges per token
    y = (unit @ W) * max(|inner|) + x[..., channels] @ W[channels]

Each MatMul keeps its name, and the rows of the channels in its weight become zero if nothing else reads the weight.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import array, holds, matmul_weight, set_initializer
from qexport.quantization import rescale
from qexport.quantization.calibration import Edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import WeightNode
    from qexport.quantization.forms import Form
    from qexport.quantization.numerics.histogram import Range

UNIT_RANGE: Range = (-128.0 / 127.0, 1.0)
"""The range of an activation whose tokens are divided by their peaks: 1 becomes 255 and -1 becomes 1, around 128."""
SYMMETRIC_UNIT_RANGE: Range = (-1.0, 1.0)
"""The same for signed integers, where 1 becomes 127."""
SMALLEST_PEAK = 1e-30
"""The divisor of a token of zeros. The token stays zero."""


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation, and the selected MatMuls that multiply it."""

    tensor: str
    nodes: tuple[WeightNode, ...]
    group: rescale.Group | None
    """Those of the MatMuls whose weights nothing else reads; None if there are none."""


def activations(model: ir.Model, nodes: Sequence[WeightNode]) -> list[Activation]:
    """The activations that selected MatMuls read, in graph order."""
    groups = {group.tensor: group for group in rescale.groups(model, nodes)}
    return [
        Activation(tensor=tensor, nodes=tuple(members), group=groups.get(tensor))
        for tensor, members in rescale.by_activation(model, nodes).items()
    ]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The forms of all activations, ready to be written into a graph."""

    among: Sequence[Activation]
    forms: Mapping[str, Form]
    """The forms by the activation's name in the unchanged graph."""

    @property
    def changes(self) -> bool:
        """The graph changes."""
        return any(form.changes or form.scale is not None for form in self.forms.values())

    def nodes(self, condition: Callable[[Form], object]) -> Iterator[tuple[WeightNode, Form]]:
        """The MatMuls whose form fulfils a condition, with the form."""
        for activation in self.among:
            if condition(form := self.forms[activation.tensor]):
                yield from ((node, form) for node in activation.nodes)

    def smooth(self, model: ir.Model) -> None:
        """Smooth the activations of a graph that has no other change."""
        for activation in self.among:
            scale = self.forms[activation.tensor].scale
            if scale is not None and activation.group is not None:
                rescale.rescale(model, activation.group, scale)

    def decompose(self, model: ir.Model) -> None:
        """Write the rest of the forms into a graph that was smoothed."""
        for activation in self.among:
            form = self.forms[activation.tensor]
            if form.changes:
                _decompose(model, activation, form)

    def edit(self) -> Edit:
        """Both steps as one edit."""

        def make(model: ir.Model) -> None:
            self.smooth(model)
            self.decompose(model)

        digest = hashlib.sha256()
        for activation in self.among:
            digest.update(f"{activation.tensor}:{self.forms[activation.tensor].digest}\n".encode())
        return Edit(make=make, digest=digest.hexdigest())


def _decompose(model: ir.Model, activation: Activation, form: Form) -> None:
    import onnx_ir as ir

    graph = model.graph
    own = activation.group.weights if activation.group is not None else ()
    readers = [graph.node(node.name) for node in activation.nodes]
    weights = [matmul_weight(model, node) for node in activation.nodes]
    source = readers[0].inputs[0]
    assert source is not None
    place = f"{readers[0].name}/before"
    first = next(node for node in graph if node in readers)

    def constant(name: str, data: object, dtype: type[np.generic] = np.float32) -> ir.Value:
        return set_initializer(graph, name, np.asarray(data, dtype))

    def add(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        made = ir.node(op, list(inputs), attributes=attributes, name=f"{place}/{op}")
        made.outputs[0].name, made.outputs[0].type = f"{made.name}:0", source.type
        graph.insert_before(first, made)
        return made.outputs[0]

    inner, kept, peak = source, None, None
    if form.channels:
        kept = add("Gather", source, constant(f"{place}/channels", form.channels, np.int64), axis=-1)
        inner = add("Mul", source, constant(f"{place}/mask", _mask(form.channels, len(weights[0]))))
    if form.per_token:
        axes = constant("per_token/axes", [-1], np.int64)
        highest = add("ReduceMax", add("Abs", inner), axes, keepdims=1)
        peak = add("Max", highest, constant("per_token/smallest_peak", SMALLEST_PEAK))
        inner = add("Div", inner, peak)
    for node, reader, weight in zip(activation.nodes, readers, weights, strict=True):
        reader.replace_input_with(0, inner)
        if kept is not None and node.weight in own:
            rest = weight.copy()
            rest[list(form.channels)] = 0.0
            set_initializer(graph, node.weight, rest)
        _add_parts(graph, reader, weight[list(form.channels)], kept, peak)


def _mask(channels: Sequence[int], width: int) -> NDArray[np.float32]:
    mask = np.ones(width, np.float32)
    mask[list(channels)] = 0.0
    return mask


def _add_parts(
    graph: ir.Graph, reader: ir.Node, rows: NDArray[np.float32], kept: ir.Value | None, peak: ir.Value | None
) -> None:
    """Multiply a MatMul's result by the tokens' peaks, and add the product of the channels in float."""
    import onnx_ir as ir

    result = reader.outputs[0]
    made: list[ir.Node] = []

    def add(op: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(op, list(inputs), name=f"{reader.name}/after/{op}")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{node.name}:0", result.type, result.shape
        made.append(node)
        return node.outputs[0]

    whole = result
    if peak is not None:
        whole = add("Mul", whole, peak)
    if kept is not None:
        whole = add("Add", whole, add("MatMul", kept, set_initializer(graph, f"{reader.name}/after/rows", rows)))
    result.replace_all_uses_with(whole, replace_graph_outputs=True)
    made[0].replace_input_with(0, result) if peak is not None else made[-1].replace_input_with(0, result)
    graph.insert_after(reader, made)
    # A graph's output keeps its name.
    if whole.is_graph_output():
        result.name, whole.name = f"{reader.name}/after/integers:0", result.name


@dataclass(frozen=True, kw_only=True)
class Found:
    """The form that a graph holds around a MatMul, as read from the graph."""

    per_token: bool
    """The input is divided by its tokens' peaks, and the result multiplied by them."""
    channels: tuple[int, ...]
    rows: NDArray[np.float32] | None
    """The float rows of the weight for :attr:`channels`, ``[channels, out]``."""


def read_form(value: ir.Value | None, result: ir.Value) -> Found:
    """Read a form back from a graph.

    Args:
        value: the activation that is rounded before a MatMul.
        result: the product, after the scales of the integers.
    """
    peak: ir.Value | None = None
    channels: tuple[int, ...] = ()
    source = value
    divide = _producer(value, "Div")
    if divide is not None and _is_peak(divide.inputs[1], divide.inputs[0]):
        source, peak = divide.inputs
    mask = _producer(source, "Mul")
    if mask is not None and (zeros := _zeros(mask.inputs[1])):
        channels, source = zeros, mask.inputs[0]
    if peak is not None:
        scaled = next(_readers(result, "Mul", peak), None)
        if scaled is None:
            return Found(per_token=False, channels=(), rows=None)
        result = scaled.outputs[0]
    rows = _float_rows(result, source, channels) if channels else None
    return Found(per_token=peak is not None, channels=channels if rows is not None else (), rows=rows)


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def _is_peak(value: ir.Value | None, of: ir.Value | None) -> bool:
    """True if a value is the largest magnitude of each token of ``of``."""
    limit = _producer(value, "Max")
    reduce = _producer(limit.inputs[0], "ReduceMax") if limit is not None else None
    magnitude = _producer(reduce.inputs[0], "Abs") if reduce is not None else None
    if limit is None or reduce is None or magnitude is None or magnitude.inputs[0] is not of:
        return False
    return (
        holds(reduce.inputs[1], np.asarray([-1], np.int64))
        and reduce.attributes.get_int("keepdims", 1) == 1
        and holds(limit.inputs[1], np.asarray(SMALLEST_PEAK, np.float32))
    )


def _zeros(mask: ir.Value | None) -> tuple[int, ...]:
    """The channels that a mask of ones and zeros takes out; empty if the value is no such mask."""
    if mask is None or not mask.is_initializer():
        return ()
    values = array(mask)
    return tuple(np.flatnonzero(values == 0).tolist()) if np.isin(values, (0.0, 1.0)).all() else ()


def _readers(value: ir.Value, op: str, other: ir.Value | None = None) -> Iterator[ir.Node]:
    for use in value.uses():
        if use.node.op_type == op and (other is None or other in use.node.inputs):
            yield use.node


def _float_rows(result: ir.Value, source: ir.Value | None, channels: Sequence[int]) -> NDArray[np.float32] | None:
    """The rows that channels of ``source`` are multiplied by, if that product is added to ``result``; else None."""
    for total in _readers(result, "Add"):
        product = _producer(next(value for value in total.inputs if value is not result), "MatMul")
        gather = _producer(product.inputs[0], "Gather") if product is not None else None
        if product is None or gather is None or gather.inputs[0] is not source:
            continue
        rows = product.inputs[1]
        if rows is None or not rows.is_initializer() or gather.attributes.get_int("axis", 0) != -1:
            continue
        if holds(gather.inputs[1], np.asarray(channels, np.int64)):
            return np.asarray(array(rows), np.float32)
    return None
