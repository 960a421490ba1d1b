"""Moves scale from an activation's channels into the weights that multiply them, without changing the result.

``x @ W`` is ``(x / s) @ (s[:, None] * W)`` for any positive ``s``. The methods that use this module choose ``s`` so
that both factors are easy to round: SmoothQuant for INT8, AWQ for four bits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qexport import runtime
from qexport.core import ONNX_DATA_NAME, ONNX_NAME, ContractError, array, scratch_folder, set_initializer
from qexport.quantization import calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import Artifact, WeightNode
    from qexport.inputs import TokenSet

SAME_FUNCTION = 1e-4
"""Largest change of a logit, as a share of the logits' spread, if a graph must compute the same as before."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Selected MatMuls that multiply one activation. They can only be rescaled together."""

    tensor: str
    """Name of the activation."""
    nodes: tuple[WeightNode, ...]
    """The selected MatMuls that read the activation."""
    selected: frozenset[str]
    """Names of all selected MatMuls. The weights of other MatMuls do not change by a bit."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights, each once."""
        return tuple(dict.fromkeys(node.weight for node in self.nodes))


@dataclass(frozen=True)
class _Factor:
    """A constant that scales an activation; its last axis runs along the activation's channels."""

    value: ir.Value
    plus: float = 0.0
    """Number that the graph adds to the constant before use: 1 in Gemma's norms."""

    def divide(self, graph: ir.Graph, scale: NDArray[np.float32]) -> None:
        assert self.value.name is not None
        whole = array(self.value).astype(np.float64) + self.plus
        set_initializer(graph, self.value.name, (whole / scale - self.plus).astype(np.float32))


def by_activation(model: ir.Model, nodes: Sequence[WeightNode]) -> Mapping[str, Sequence[WeightNode]]:
    """The MatMuls in ``nodes`` by the name of the activation that they multiply, in graph order."""
    matmuls = {node.name: node for node in nodes}
    found: dict[str, list[WeightNode]] = {}
    for node in model.graph:
        chosen, value = matmuls.get(node.name or ""), node.inputs[0] if node.inputs else None
        if chosen is not None and value is not None and node.op_type == "MatMul":
            found.setdefault(value.name or "", []).append(chosen)
    return found


def groups(model: ir.Model, nodes: Sequence[WeightNode]) -> list[Group]:
    """Group the MatMuls in ``nodes`` by the activation that they share, in graph order.

    A weight that is also read outside its group is in no group, such as the table of a head tied to an embedding.
    """
    selected = frozenset(node.name for node in nodes)
    found = []
    for tensor, members in by_activation(model, [node for node in nodes if not node.tied]).items():
        names = {node.name for node in members}
        own = [
            node
            for node in members
            if all(use.node.name in names for use in model.graph.initializers[node.weight].uses())
        ]
        if own:
            found.append(Group(tensor=tensor, nodes=tuple(own), selected=selected))
    return found


def follows_norm(model: ir.Model, group: Group, channels: int) -> bool:
    """True if the division of a group's activation goes into the constants of a norm."""
    readers = [model.graph.node(node.name) for node in group.nodes]
    return _factors(readers[0].inputs[0], readers, frozenset(), channels) is not None


def rescale(model: ir.Model, group: Group, scale: NDArray[np.float32]) -> None:
    """Divide the channels of a group's activation by ``scale`` and multiply the rows of its weights by ``scale``.

    If only the group reads the activation, the division goes into the constants of the norm, or the columns of the
    selected linear layer, that produces the activation. Else a Mul is inserted before the MatMuls of the group.

    Args:
        model: the prepared graph in fp32; it is changed.
        group: a group from :func:`groups` of this model.
        scale: the positive scales, ``[in]``.
    """
    graph = model.graph
    readers = [graph.node(node.name) for node in group.nodes]
    tensor = readers[0].inputs[0]
    assert tensor is not None
    factors = _factors(tensor, readers, group.selected, len(scale))
    if factors is None:
        _insert_division(graph, tensor, readers, scale)
    for factor in factors or ():
        factor.divide(graph, scale)
    for name in group.weights:
        weight = np.asarray(array(graph.initializers[name]), np.float32)
        set_initializer(graph, name, weight * scale[:, None])


def rescaling(among: Sequence[Group], scales: Mapping[str, NDArray[np.float32]]) -> calibration.Edit:
    """The edit that rescales every group whose activation has a scale; ``scales`` are by the activation's name."""
    chosen = [group for group in among if group.tensor in scales]

    def make(model: ir.Model) -> None:
        for group in chosen:
            rescale(model, group, scales[group.tensor])

    digest = hashlib.sha256()
    for group in chosen:
        digest.update(json.dumps([group.tensor, [node.name for node in group.nodes]]).encode())
        digest.update(scales[group.tensor].astype("<f4").tobytes())
    return calibration.Edit(make=make, digest=digest.hexdigest())


def check_same_function(parent: Artifact, model: ir.Model, tokens: TokenSet, *, by: str) -> None:
    """Make sure that an edited graph computes the same as its parent, on the beginning of a calibration window.

    Args:
        parent: the fp32 artifact.
        model: the edited graph of the parent, in fp32.
        tokens: the calibration windows.
        by: the name of the edit, for the message.

    Raises:
        ContractError: a logit differs by more than :data:`SAME_FUNCTION` of the logits' spread.
    """
    import onnx_ir as ir

    ids = tokens.sequences[0][None, : calibration.PREFILL_CHUNK]
    exact = runtime.OrtSession(parent.onnx_path).logits(ids)
    with scratch_folder("equalize") as folder:
        path = Path(folder) / ONNX_NAME
        ir.save(model, path, external_data=ONNX_DATA_NAME)
        edited = runtime.OrtSession(path).logits(ids)
    off = float(np.abs(edited - exact).max()) / (float(exact.std()) or 1.0)
    if not off <= SAME_FUNCTION:
        raise ContractError(
            f"{by} changed what the model computes: a logit by {off:.2g} of their spread, at most {SAME_FUNCTION:g} "
            "is rounding"
        )


def _factors(
    value: ir.Value | None, readers: Sequence[ir.Node], selected: frozenset[str], channels: int
) -> list[_Factor] | None:
    """The constants that divide ``value`` if all are divided channel by channel; None if there are no such constants.

    Only ``readers`` may read the changed ``value``; other nodes may read only its shape. The same holds for every value
    on the way.
    """
    node = value.producer() if value is not None else None
    if value is None or node is None or value.is_graph_output():
        return None
    if any(use.node not in readers and use.node.op_type != "Shape" for use in value.uses()):
        return None

    def further(source: ir.Value | None) -> list[_Factor] | None:
        return _factors(source, [node], selected, channels)

    constants = [_constant(each, channels) for each in node.inputs]
    known = [each for each in constants if each is not None]
    match node.op_type:
        case "LayerNormalization" if node.attributes.get_int("axis", -1) == -1:
            found = known if len(known) == sum(each is not None for each in node.inputs[1:]) else None
        case "Relu":  # relu(x / s) is relu(x) / s for a positive s
            found = further(node.inputs[0])
        case "Mul" if known:
            found = known[:1]
        case "Mul" if node.inputs[0] is not node.inputs[1]:
            found = further(node.inputs[0]) or further(node.inputs[1])
        case "Add" if len(known) == 1:
            rest = further(node.inputs[0] if constants[0] is None else node.inputs[1])
            found = [*rest, *known] if rest else None
        case "MatMul" if node.name in selected:
            found = known or None
        case _:
            found = None
    return found


def _constant(value: ir.Value | None, channels: int) -> _Factor | None:
    """The initializer behind a value, if nothing else reads it and its last axis has this length; else None."""
    if value is None or len(value.uses()) != 1:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Add":
        for one, other in ((0, 1), (1, 0)):
            vector, plus = _constant(node.inputs[one], channels), node.inputs[other]
            if vector is not None and plus is not None and plus.is_initializer() and array(plus).size == 1:
                return _Factor(vector.value, vector.plus + float(array(plus).item()))
        return None
    fits = value.is_initializer() and value.shape is not None and len(value.shape) > 0 and value.shape[-1] == channels
    return _Factor(value) if fits else None


def _insert_division(graph: ir.Graph, tensor: ir.Value, readers: Sequence[ir.Node], scale: NDArray[np.float32]) -> None:
    import onnx_ir as ir

    name = f"{(readers[0].name or '').rsplit('/', 1)[0]}/rescale"
    divisor = set_initializer(graph, f"{name}/factor", (1.0 / scale).astype(np.float32))
    mul = ir.node("Mul", [tensor, divisor], name=f"{name}/Mul")
    result = mul.outputs[0]
    result.name, result.shape, result.type = f"{mul.name}:0", tensor.shape, tensor.type
    first = next(node for node in graph if node in readers)
    graph.insert_before(first, mul)
    for reader in readers:
        reader.replace_input_with(0, result)
