"""Selections of weights: roles read from a prepared graph, rules over them, and the nodes that they choose.

A role comes from the place of a weight in the graph (the nodes that its output reaches, and those that its input comes
from) together with its module path. Node names alone never decide: exporters rename nodes, and a rule that matches
nothing says nothing.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core.artifact import NodeInfo, SelectionInfo
from qexport.core.errors import ContractError, InputError, SelectionError, near_names
from qexport.core.files import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import onnx_ir as ir

PARAMETERS_KEY = "qexport.parameters"
"""Key in the model's metadata: a JSON list of the initializers that are parameters of the torch model."""

_ATTENTION_OPS = frozenset({"GroupQueryAttention", "MultiHeadAttention", "Attention"})
_SHAPE_OPS = frozenset({"Shape", "Size"})
"""The search ends here: nodes behind it see only a shape, and exporters take the shapes in attention from the
residual."""
_LAYER = re.compile(r"(.*?\.\d+)\.")
"""The module path of a decoder layer: everything up to the first index."""


class Role(StrEnum):
    """The task of a weight in a decoder."""

    ATTENTION = "attention"
    """Projections into and out of attention: q, k, v (or fused qkv) and the output projection."""
    MLP = "mlp"
    LM_HEAD = "lm-head"
    EMBEDDING = "embedding"
    """Lookup tables of tokens and positions."""
    OTHER = "other"
    """Weights outside the decoder layers, such as OPT's projections between embedding and body."""


@dataclass(frozen=True, kw_only=True)
class WeightNode:
    """A node that multiplies by one parameter of the model, or looks up its rows."""

    name: str
    role: Role
    weight: str
    shape: tuple[int, ...]
    """Shape as stored: ``[in, out]`` of a MatMul, ``[rows, dim]`` of an embedding and of a head tied to it."""
    tied: bool
    """True if the node is a head that reads the embedding's table, transposed."""

    @property
    def module(self) -> str:
        """Path of the module that the node came from: ``transformer.h.0.attn.c_attn``."""
        return self.name.rsplit("/", 1)[0]

    @property
    def layer(self) -> str | None:
        """Module path of the decoder layer that the node is in: ``transformer.h.0``; None outside the layers."""
        return layer_of(self.name)

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """Number of output channels, which is the number of per-channel scales."""
        return self.shape[0] if self.tied or self.role is Role.EMBEDDING else self.shape[-1]

    def info(self) -> NodeInfo:
        return NodeInfo(name=self.name, role=self.role.value, weight=self.weight, shape=self.shape)


def weight_nodes(model: ir.Model) -> tuple[WeightNode, ...]:
    """All weight nodes of a prepared graph, in graph order, each with its role.

    Raises:
        ContractError: the graph was not prepared by qexport, or has no weight nodes.
    """
    listed = model.metadata_props.get(PARAMETERS_KEY)
    if listed is None:
        raise ContractError("the graph does not say which initializers are parameters; export the model with qexport")
    weights = dict(_weights(model.graph, frozenset(json.loads(listed))))
    roles = {node: _role(node, weights, model.graph) for node in weights}
    layers = {layer for node, role in roles.items() if role is Role.ATTENTION and (layer := layer_of(node.name or ""))}
    found = []
    for node, (weight, tied) in weights.items():
        role = roles[node] or (Role.MLP if layer_of(node.name or "") in layers else Role.OTHER)
        shape = weight.shape.numpy() if weight.shape is not None else ()
        found.append(WeightNode(name=node.name or "", role=role, weight=weight.name or "", shape=shape, tied=tied))
    if not found:
        raise ContractError("the graph has no node that multiplies by a parameter")
    return tuple(found)


def _weights(graph: ir.Graph, parameters: frozenset[str]) -> Iterator[tuple[ir.Node, tuple[ir.Value, bool]]]:
    """Nodes that use a 2-D parameter, with the parameter and True if it is read through a transpose."""
    for node in graph:
        if node.op_type == "Gather":
            weight, tied = node.inputs[0], False
        elif node.op_type == "MatMul":
            weight, tied = node.inputs[1], False
            producer = weight.producer() if weight is not None else None
            if producer is not None and producer.op_type == "Transpose":
                weight, tied = producer.inputs[0], True
        else:
            continue
        if weight is not None and weight.name in parameters and len(weight.shape or ()) == 2:
            yield node, (weight, tied)


def _role(node: ir.Node, weights: dict[ir.Node, tuple[ir.Value, bool]], graph: ir.Graph) -> Role | None:
    """The role that follows from the place in the graph; None if only the module path can tell."""
    if node.op_type == "Gather":
        return Role.EMBEDDING
    logits = next((value for value in graph.outputs if value.name == "logits"), None)

    def consumers(at: ir.Node) -> Iterable[ir.Node]:
        return (use.node for value in at.outputs for use in value.uses())

    def producers(at: ir.Node) -> Iterable[ir.Node]:
        return (producer for value in at.inputs if value is not None and (producer := value.producer()) is not None)

    def attends(at: ir.Node) -> bool:
        return _is_attention(at, weights)

    def gives_logits(at: ir.Node) -> bool:
        return logits in at.outputs and (at is node or at not in weights)

    def ends(at: ir.Node) -> bool:
        return at in weights or at.op_type in _SHAPE_OPS

    if _reaches(node, consumers, gives_logits, stop=ends):
        return Role.LM_HEAD
    if _reaches(node, consumers, attends, stop=ends) or _reaches(node, producers, attends, stop=ends):
        return Role.ATTENTION
    return None


def _is_attention(node: ir.Node, weights: dict[ir.Node, tuple[ir.Value, bool]]) -> bool:
    """True for an attention operator, or a MatMul of two activations, as in attention that is not fused."""
    if node.op_type in _ATTENTION_OPS:
        return True
    return (
        node.op_type == "MatMul"
        and node not in weights
        and all(value is not None and not value.is_initializer() for value in node.inputs)
    )


def _reaches(
    start: ir.Node,
    step: Callable[[ir.Node], Iterable[ir.Node]],
    goal: Callable[[ir.Node], bool],
    *,
    stop: Callable[[ir.Node], bool],
) -> bool:
    """True if a goal lies on a path from ``start`` that passes no stop node. ``start`` may be the goal itself."""
    if goal(start):
        return True
    seen, front = {start}, [start]
    while front:
        for node in step(front.pop()):
            if goal(node):
                return True
            if node not in seen and not stop(node):
                seen.add(node)
                front.append(node)
    return False


def layer_of(name: str) -> str | None:
    """Module path of the decoder layer of a node with this name; None outside the layers."""
    match = _LAYER.match(name)
    return match.group(1) if match else None


ALL, BODY = "all", "body"
ROLE_NAMES = (ALL, BODY, *(role.value for role in Role if role is not Role.OTHER))
_BODY_ROLES = frozenset({Role.ATTENTION, Role.MLP, Role.OTHER})
"""Roles between the embedding and the output head."""


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Rules that choose weight nodes: roles and exact names, plus patterns to include, minus patterns to exclude.

    Patterns are regular expressions that must match a node's whole name or its whole module path.
    """

    nodes: tuple[str, ...] = (ALL,)
    """Roles, or with ``exact`` names from a file."""
    exact: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The short form of the rules that names a row: ``attention``, ``mlp,lm-head``."""
        parts = [*self.nodes, *(["file"] if self.exact else []), *self.include, *(f"-{rule}" for rule in self.exclude)]
        return ",".join(parts)

    @property
    def rules(self) -> str:
        """The rules in the form of command-line options."""
        parts = [f"--nodes {','.join(self.nodes)}"] if self.nodes else []
        parts += [f"--nodes @file of {len(self.exact)} names"] if self.exact else []
        parts += [f"--include {shlex.quote(pattern)}" for pattern in self.include]
        parts += [f"--exclude {shlex.quote(pattern)}" for pattern in self.exclude]
        return " ".join(parts)

    def select(self, nodes: Sequence[WeightNode]) -> Selection:
        """The nodes that these rules choose, in graph order.

        Raises:
            SelectionError: a rule matches no node, or no node is left.
        """
        chosen: set[str] = set()
        for role in self.nodes:
            chosen |= _matching(nodes, _in_role(role), f"--nodes {role}")
        for name in self.exact:
            chosen |= _matching(nodes, _called(name), name, near=name)
        for pattern in self.include:
            chosen |= _matching(nodes, _pattern(pattern), f"--include {pattern}", near=pattern)
        for pattern in self.exclude:
            chosen -= _matching(nodes, _pattern(pattern), f"--exclude {pattern}", near=pattern)
        if not chosen:
            raise SelectionError(f"{self.rules}: nothing is left to quantize; see `qexport nodes MODEL`")
        return Selection(selector=self, nodes=tuple(node for node in nodes if node.name in chosen))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The nodes that a selector chose from one graph."""

    selector: Selector
    nodes: tuple[WeightNode, ...]

    def info(self) -> SelectionInfo:
        return SelectionInfo(rules=self.selector.rules, nodes=tuple(node.info() for node in self.nodes))

    @property
    def matmuls(self) -> tuple[WeightNode, ...]:
        return tuple(node for node in self.nodes if node.role is not Role.EMBEDDING)

    @property
    def embeddings(self) -> tuple[WeightNode, ...]:
        return tuple(node for node in self.nodes if node.role is Role.EMBEDDING)


def selector_of(nodes: str | None, include: str | Iterable[str], exclude: str | Iterable[str]) -> Selector | None:
    """The selector that a user's choices make; None if the user chose nothing. See :func:`parse_selector`."""
    added, removed = ((each,) if isinstance(each, str) else tuple(each) for each in (include, exclude))
    if nodes is None and not added and not removed:
        return None
    return parse_selector(nodes, added, removed)


def parse_selector(nodes: str | None, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selector:
    """A selector from command-line options: roles joined by commas, ``@FILE`` with one name a line, or both.

    Without ``nodes`` the selection starts from everything, or from nothing if ``include`` is given.

    Raises:
        SelectionError: an unknown role or a pattern that is no regular expression.
        InputError: the file cannot be read or holds no names.
    """
    roles: list[str] = []
    exact: list[str] = []
    words = [] if nodes is None and include else (ALL if nodes is None else nodes).split(",")
    for word in map(str.strip, words):
        if word.startswith("@"):
            exact += _read_names(Path(word[1:]))
        elif word in ROLE_NAMES:
            roles.append(word)
        else:
            raise SelectionError(f"--nodes {word}: unknown role; {near_names(word, ROLE_NAMES)}")
    for pattern in (*include, *exclude):
        try:
            re.compile(pattern)
        except re.error as error:
            raise SelectionError(f"{pattern}: not a regular expression ({error}); correct it") from error
    return Selector(nodes=tuple(roles), exact=tuple(exact), include=tuple(include), exclude=tuple(exclude))


def _read_names(path: Path) -> list[str]:
    lines = read_text(path).splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{path}: holds no node names; write one a line, as `qexport nodes MODEL` lists them")
    return names


def _in_role(role: str) -> Callable[[WeightNode], bool]:
    return lambda node: role in (ALL, node.role.value) or (role == BODY and node.role in _BODY_ROLES)


def _called(name: str) -> Callable[[WeightNode], bool]:
    return lambda node: name in (node.name, node.module)


def _pattern(pattern: str) -> Callable[[WeightNode], bool]:
    compiled = re.compile(pattern)
    return lambda node: bool(compiled.fullmatch(node.name) or compiled.fullmatch(node.module))


def _matching(nodes: Sequence[WeightNode], test: Callable[[WeightNode], bool], rule: str, near: str = "") -> set[str]:
    found = {node.name for node in nodes if test(node)}
    if not found:
        hint = near_names(near, (node.module for node in nodes)) if near else f"the model has {_roles_there(nodes)}"
        raise SelectionError(f"{rule}: matches no node; {hint}")
    return found


def _roles_there(nodes: Sequence[WeightNode]) -> str:
    return ", ".join(sorted({node.role.value for node in nodes}))
