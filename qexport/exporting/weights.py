"""Finds the torch model's parameters in an exported graph, and gives them their names and their one form.

An initializer is a parameter if it equals one, or the transpose of one. If several parameters have equal content
(biases of zeros, norms of ones), the module that uses the initializer decides, then the exporter's name, then the order
in the model.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qexport.core import ContractError
from qexport.exporting.scopes import SCOPE, WRAPPER, scope_of
from qexport.exporting.simplify import add_initializer

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

Kind = Literal["linear", "conv1d", "embedding", "other"]

_EXPORTED_NAME = "qexport.exported_name"
"""Key in a value's ``meta`` for the exporter's name of the initializer."""


@dataclass(frozen=True, kw_only=True)
class _Match:
    """A parameter that an initializer equals, under one of the parameter's names.

    Attributes:
        stored_as: the name under which a tied parameter is stored: its embedding's, else its first.
        transposed: True if the initializer equals the parameter's transpose.
    """

    name: str
    stored_as: str
    kind: Kind
    transposed: bool

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


class Weights:
    """The torch model's parameters, and the initializers made for them.

    Attributes:
        placed: the initializers made so far, by name.
    """

    def __init__(self, torch_model: PreTrainedModel) -> None:
        modules = dict(torch_model.named_modules())
        self.placed: dict[str, ir.Value] = {}
        self._arrays: dict[str, NDArray[np.float32]] = {}
        self._embedded: set[str] = set()
        self._matrices: set[str] = set()
        self._by_content: dict[bytes, list[_Match]] = defaultdict(list)
        self._taken: set[str] = set()
        names: dict[tuple[int, ...], list[str]] = defaultdict(list)
        tensors = dict(torch_model.named_parameters(remove_duplicate=False))
        for name, tensor in tensors.items():
            names[tensor.data_ptr(), *tensor.shape].append(name)
        for tied in names.values():
            kinds = {name: _kind(modules[name.rpartition(".")[0]], tensors[name].ndim) for name in tied}
            stored_as = next((name for name, kind in kinds.items() if kind == "embedding"), tied[0])
            self._add(stored_as, kinds, tensors[stored_as].detach().numpy())

    def _add(self, stored_as: str, kinds: dict[str, Kind], array: NDArray[np.float32]) -> None:
        self._arrays[stored_as] = array
        if "embedding" in kinds.values():
            self._embedded.add(stored_as)
        if set(kinds.values()) != {"other"}:
            self._matrices.add(stored_as)
        for transposed in (False, True) if array.ndim == 2 else (False,):
            self._by_content[_digest(array.T if transposed else array)] += [
                _Match(name=name, stored_as=stored_as, kind=kind, transposed=transposed) for name, kind in kinds.items()
            ]

    def place(self, graph: ir.Graph) -> None:
        """Replace the exporter's initializers by named ones, and bring linear layers into their one form."""
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
        if weight is None:
            return
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
            each.meta[SCOPE] = match.module
            each.outputs[0].shape, each.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, new)
        _replace(node.outputs[0], new[-1].outputs[0])
        graph.remove(node, safe=True)
        if match.kind == "conv1d":
            _drop_detour(matmul, new[-1])

    def _operand(self, graph: ir.Graph, before: ir.Node, match: _Match) -> ir.Value:
        """The weight [in, out] of a linear layer; read through a Transpose if an embedding shares it."""
        import onnx_ir as ir

        name = match.stored_as
        if name not in self._embedded:
            array = self._arrays[name]
            return self._initializer(graph, name, array if match.kind == "conv1d" else array.T)
        transpose = ir.node("Transpose", [self._initializer(graph, name, self._arrays[name])], {"perm": [1, 0]})
        transpose.meta[SCOPE] = match.module
        graph.insert_before(before, transpose)
        return transpose.outputs[0]

    def _place_other(self, graph: ir.Graph, node: ir.Node, index: int, matches: list[_Match]) -> None:
        """Make ``node`` read a named initializer if it reads an embedding, a bias or a norm's weight now."""
        wanted: tuple[Kind, ...] = ("embedding",) if node.op_type == "Gather" and index == 0 else ("other",)
        fitting = [match for match in matches if match.kind in wanted and not match.transposed]
        value = node.inputs[index]
        if not fitting or value is None:
            return
        match = self._choose(node, value, fitting)
        node.replace_input_with(index, self._initializer(graph, match.stored_as, self._arrays[match.stored_as]))
        node.meta[SCOPE] = match.module

    def _choose(self, node: ir.Node, value: ir.Value, matches: list[_Match]) -> _Match:
        """Choose among parameters of equal content: by the module of ``node``, the exporter's name, the order."""
        scope, name = _fed_by(node) or scope_of(node), value.meta[_EXPORTED_NAME].removeprefix(f"{WRAPPER}.")
        chosen = (
            [match for match in matches if match.module == scope]
            or [match for match in matches if match.name == name]
            or [match for match in matches if match.module.startswith(f"{scope}.")]
            or matches
        )
        match = next((match for match in chosen if match.name not in self._taken), chosen[0])
        self._taken.add(match.name)
        return match

    def _initializer(self, graph: ir.Graph, name: str, array: NDArray[np.float32]) -> ir.Value:
        if name not in self.placed:
            self.placed[name] = add_initializer(graph, name, array)
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
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _right_operand(node: ir.Node) -> tuple[ir.Value | None, bool]:
    """The initializer behind the right operand of a MatMul or Gemm; True if the operand is its transpose."""
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


def _fed_by(node: ir.Node) -> str:
    """The linear layer to whose product ``node`` adds something."""
    if node.op_type == "Add":
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.op_type == "MatMul":
                return scope_of(producer)
    return ""


def _replace(old: ir.Value, new: ir.Value) -> None:
    if old.is_graph_output():
        new.name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _drop_detour(matmul: ir.Node, last: ir.Node) -> None:
    """Remove the Reshapes of transformers' Conv1D: to [rows, in] before its product, back to [..., out] behind it."""
    source = matmul.inputs[0]
    before = source.producer() if source is not None else None
    after = [use.node for use in last.outputs[0].uses()]
    if before is None or before.op_type != "Reshape" or len(after) != 1 or after[0].op_type != "Reshape":
        return
    if scope_of(before) != scope_of(matmul) or scope_of(after[0]) != scope_of(matmul):
        return  # not Conv1D's own Reshapes, so their purpose is not known
    matmul.replace_input_with(0, before.inputs[0])
    for node in (matmul, last):
        node.outputs[0].shape, node.outputs[0].type = after[0].outputs[0].shape, after[0].outputs[0].type
    _replace(after[0].outputs[0], last.outputs[0])
