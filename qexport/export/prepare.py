"""Bring an exporter's graph into the one form that selection and the engines rely on.

What holds afterwards, whichever exporter wrote the graph:

1. A linear layer is ``MatMul(x, W)`` with W [in, out], then ``Add`` of its bias: nodes ``<module>/MatMul`` and
   ``<module>/Add``, initializers ``<module>.weight`` and ``<module>.bias``. There is no Gemm with a constant weight.
2. An embedding is ``Gather(W [rows, dim], ids)``, named ``<module>/Gather``.
3. A weight that an embedding and a linear layer share is stored once, as the embedding has it: the linear layer reads
   it through a node ``<module>/Transpose``.
4. Every other initializer that is a parameter of the model carries its name. Nothing unused is left.
5. Node names are unique and follow from the model; no path, time or stack trace of the export remains.
6. The metadata ``qexport.parameters`` lists the initializers that are parameters, as JSON.

Parameters are found by content: an initializer is a parameter if it equals one, or the transpose of one. Among
parameters of equal content (biases of zeros, norms of ones) the module that uses it decides, then the exporter's name,
then the order in the model.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qexport.errors import ContractError
from qexport.export.signature import Shape, Signature
from qexport.export.simplify import simplify

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

PARAMETERS_KEY = "qexport.parameters"

_SCOPE = "qexport.scope"
"""Key in a node's ``meta``: path of the torch module that it came from."""

_EXPORTED_NAME = "qexport.exported_name"
"""Key in a value's ``meta``: what the exporter called the initializer."""

Kind = Literal["linear", "conv1d", "embedding", "other"]


def prepare(model: ir.Model, torch_model: PreTrainedModel, signature: Signature) -> None:
    """Rewrite ``model`` in place so that the points at the top of this module hold.

    Raises:
        ContractError: a weight of the torch model is not in the graph, or is there in a form not known here.
    """
    from onnx_ir.passes import common

    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    _note_scopes(model.graph, frozenset(name for name, _ in torch_model.named_modules()))
    weights = _Weights(torch_model)
    weights.place(model.graph)
    simplify(model, weights.placed.keys())
    common.TopologicalSortPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    names = [name for name in model.graph.initializers if name in weights.placed]
    weights.check_complete(names)
    _name_everything(model.graph, frozenset(names))
    _set_signature(model.graph, signature)
    _strip(model)
    model.metadata_props[PARAMETERS_KEY] = json.dumps(names)


def _note_scopes(graph: ir.Graph, modules: frozenset[str]) -> None:
    """Keep each node's module path before the exporter's marks go.

    torch.onnx writes a list of scopes under the wrapper's attribute ``model``; TorchScript writes ``/path/of/module/Op``
    into the node's name.
    """
    for node in graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        if scopes is not None:
            paths = [scope.removeprefix("model.") for scope in reversed(ast.literal_eval(scopes))]
        else:
            parts = (node.name or "").split("/")[1:-1]
            paths = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        node.meta[_SCOPE] = next((path for path in paths if path in modules), "")


@dataclass(frozen=True, kw_only=True)
class _Match:
    """A parameter that an initializer equals, under one of the parameter's names.

    Attributes:
        stored_as: the first name of a tied parameter, under which it is stored.
        transposed: the initializer equals the parameter's transpose.
    """

    name: str
    stored_as: str
    kind: Kind
    transposed: bool

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


class _Weights:
    """The torch model's parameters, and the initializers made for them."""

    def __init__(self, torch_model: PreTrainedModel) -> None:
        modules = dict(torch_model.named_modules())
        self.placed: dict[str, ir.Value] = {}
        self._arrays: dict[str, NDArray[np.float32]] = {}
        self._embedded: set[str] = set()
        self._matrices: set[str] = set()
        self._by_content: dict[bytes, list[_Match]] = defaultdict(list)
        self._taken: set[str] = set()
        stored: dict[int, str] = {}
        for name, tensor in torch_model.named_parameters(remove_duplicate=False):
            stored_as = stored.setdefault(id(tensor), name)
            array = self._arrays[stored_as] = tensor.detach().numpy()
            kind = _kind(modules[name.rpartition(".")[0]], array.ndim)
            if kind == "embedding":
                self._embedded.add(stored_as)
            if kind != "other":
                self._matrices.add(stored_as)
            for transposed in (False, True) if array.ndim == 2 else (False,):
                match = _Match(name=name, stored_as=stored_as, kind=kind, transposed=transposed)
                self._by_content[_digest(array.T if transposed else array)].append(match)

    def place(self, graph: ir.Graph) -> None:
        """Put named initializers in the place of the exporter's, and linear layers into their one form."""
        matches = self._find(graph)
        for node in list(graph):
            if node.op_type in ("MatMul", "Gemm"):
                self._place_linear(graph, node, matches)
        for node in list(graph):
            for index, value in enumerate(node.inputs):
                if value is not None and value in matches:
                    self._place_other(graph, node, index, matches[value])

    def check_complete(self, names: Iterable[str]) -> None:
        missing = sorted(self._matrices - set(names))
        if missing:
            raise ContractError(
                f"the exported graph lacks {len(missing)} weights of the model, {missing[0]} among them"
            )

    def _find(self, graph: ir.Graph) -> dict[ir.Value, list[_Match]]:
        shapes = {shape for array in self._arrays.values() for shape in (array.shape, array.shape[::-1])}
        found = {}
        for number, value in enumerate(list(graph.initializers.values())):
            tensor = value.const_value
            if tensor is not None and tuple(tensor.shape) in shapes:
                matches = self._by_content.get(_digest(tensor.numpy()))
                if matches:
                    found[value] = matches
                    value.meta[_EXPORTED_NAME] = value.name
                    value.name = f"exported_{number}"  # so that the name is free for the parameter
        return found

    def _place_linear(self, graph: ir.Graph, node: ir.Node, matches: dict[ir.Value, list[_Match]]) -> None:
        """Turn ``node`` into MatMul and Add if its right operand is the weight of a linear layer."""
        import onnx_ir as ir

        weight, flipped = _right_operand(node)
        fitting = [
            match
            for match in matches.get(weight, ())
            if (match.kind == "linear" and match.transposed != flipped)
            or (match.kind == "conv1d" and match.transposed == flipped)
        ]
        if not fitting:
            return
        match = self._choose(node, weight, fitting)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        matmul = ir.node("MatMul", [node.inputs[0], self._operand(graph, node, match)])
        new = [matmul] if bias is None else [matmul, ir.node("Add", [matmul.outputs[0], bias])]
        for each in new:
            each.meta[_SCOPE] = match.module
            each.outputs[0].shape, each.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, new)
        _replace(node.outputs[0], new[-1].outputs[0])
        graph.remove(node, safe=True)
        if match.kind == "conv1d":
            _drop_detour(matmul, new[-1])

    def _operand(self, graph: ir.Graph, before: ir.Node, match: _Match) -> ir.Value:
        """The weight [in, out] of a linear layer; read through a Transpose where an embedding shares it."""
        import onnx_ir as ir

        name = match.stored_as
        if name not in self._embedded:
            array = self._arrays[name]
            return self._initializer(graph, name, array if match.kind == "conv1d" else array.T)
        transpose = ir.node("Transpose", [self._initializer(graph, name, self._arrays[name])], {"perm": [1, 0]})
        transpose.meta[_SCOPE] = match.module
        graph.insert_before(before, transpose)
        return transpose.outputs[0]

    def _place_other(self, graph: ir.Graph, node: ir.Node, index: int, matches: list[_Match]) -> None:
        """Let ``node`` read a named initializer if what it reads now is an embedding, a bias, a norm's weight."""
        wanted: tuple[Kind, ...] = ("embedding",) if node.op_type == "Gather" and index == 0 else ("other",)
        fitting = [match for match in matches if match.kind in wanted and not match.transposed]
        value = node.inputs[index]
        if not fitting or value is None:
            return
        match = self._choose(node, value, fitting)
        node.replace_input_with(index, self._initializer(graph, match.stored_as, self._arrays[match.stored_as]))
        node.meta[_SCOPE] = match.module

    def _choose(self, node: ir.Node, value: ir.Value, matches: list[_Match]) -> _Match:
        """Among parameters of equal content: by the module that ``node`` came from, the exporter's name, the order."""
        scope, name = _fed_by(node) or _scope(node), value.meta[_EXPORTED_NAME]
        chosen = (
            [match for match in matches if match.module == scope]
            or [match for match in matches if name in (match.name, f"model.{match.name}")]
            or [match for match in matches if match.module.startswith(f"{scope}.")]
            or matches
        )
        match = next((match for match in chosen if match.name not in self._taken), chosen[0])
        self._taken.add(match.name)
        return match

    def _initializer(self, graph: ir.Graph, name: str, array: NDArray[np.float32]) -> ir.Value:
        import onnx_ir as ir

        if name not in self.placed:
            tensor = ir.tensor(np.ascontiguousarray(array), name=name)
            value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
            graph.register_initializer(value)
            self.placed[name] = value
        return self.placed[name]


def _kind(module: torch.nn.Module, ndim: int) -> Kind:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if ndim != 2:
        return "other"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Linear):
        return "linear"
    return "conv1d" if isinstance(module, Conv1D) else "other"


def _digest(array: NDArray[np.float32]) -> bytes:
    digest = hashlib.sha256(repr((array.dtype.str, array.shape)).encode())
    digest.update(np.ascontiguousarray(array))
    return digest.digest()


def _right_operand(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """The initializer that is, or whose transpose is (then True), the right operand of a MatMul or Gemm."""
    value, flipped = node.inputs[1], False
    if node.op_type == "Gemm":
        plain = (_attribute(node, "transA", 0), _attribute(node, "alpha", 1.0), _attribute(node, "beta", 1.0))
        if plain != (0, 1.0, 1.0):
            return None, False
        flipped = bool(_attribute(node, "transB", 0))
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "Transpose":
        return producer.inputs[0], not flipped
    return value, flipped


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _scope(node: ir.Node) -> str:
    return str(node.meta.get(_SCOPE, ""))


def _fed_by(node: ir.Node) -> str:
    """The linear layer whose product ``node`` adds something to."""
    if node.op_type == "Add":
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.op_type == "MatMul":
                return _scope(producer)
    return ""


def _replace(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():
        new.name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _drop_detour(matmul: ir.Node, last: ir.Node) -> None:
    """Take the Reshapes of transformers' Conv1D away: to [rows, in] before its product, back to [..., out] behind it."""
    before = matmul.inputs[0].producer()
    after = [node for node in last.outputs[0].consumers() if node.op_type == "Reshape"]
    scope = matmul.meta[_SCOPE]
    if before is None or before.op_type != "Reshape" or len(after) != 1 or len(last.outputs[0].uses()) != 1:
        raise ContractError(f"{scope}: not exported as Reshape, Gemm, Reshape")
    matmul.replace_input_with(0, before.inputs[0])
    for node in {matmul, last}:
        node.outputs[0].shape, node.outputs[0].type = after[0].outputs[0].shape, after[0].outputs[0].type
    _replace(after[0].outputs[0], last.outputs[0])


def _name_everything(graph: ir.Graph, parameters: frozenset[str]) -> None:
    """Name nodes ``<module>/<op>``, values after their node, and constants by number, all in the graph's order."""
    counts: Counter[str] = Counter()
    for node in graph:
        scope = _scope(node)
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        node.name = base if not counts[base] else f"{base}_{counts[base]}"
        counts[base] += 1
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"{node.name}:{index}"
    constants = [value for value in graph.initializers.values() if value.name not in parameters]
    for value in constants:
        value.name = f"exported:{value.name}"
    for number, value in enumerate(constants):
        value.name = f"constant_{number}"


def _set_signature(graph: ir.Graph, signature: Signature) -> None:
    """Write the shapes of inputs and outputs down, in the signature's order."""
    for values, shapes in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        by_name = {value.name: value for value in values}
        if by_name.keys() != shapes.keys():
            different = sorted(by_name.keys() ^ shapes.keys(), key=str)
            raise ContractError(f"the exported graph has other inputs and outputs than expected: {different}")
        values[:] = [by_name[name] for name in shapes]
        for value in values:
            value.shape = _ir_shape(shapes[value.name])


def _ir_shape(shape: Shape) -> ir.Shape:
    import onnx_ir as ir

    return ir.Shape(shape)


def _strip(model: ir.Model) -> None:
    """Remove what tells of the export rather than of the model."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.name = "main"
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *_outputs(model.graph)):
        value.metadata_props.clear()
        value.doc_string = None


def _outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from node.outputs
