"""The torch module that a node came from. Each exporter notes it in its own way."""

from __future__ import annotations

import ast
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

WRAPPER = "wrapped"
"""Attribute of the fused exporter's wrapper that holds the model."""

SCOPE = "qexport.scope"
"""Key in a node's ``meta`` for the path of the torch module."""


def note_scopes(graph: ir.Graph, modules: AbstractSet[str]) -> None:
    """Keep each node's module path, one of ``modules``, before the exporter's marks are removed."""
    for node in graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        if scopes is not None:
            inside = [scope for scope in ast.literal_eval(scopes) if scope.startswith(f"{WRAPPER}.")]
            paths = [scope.removeprefix(f"{WRAPPER}.") for scope in reversed(inside)]
        else:
            parts = (node.name or "").split("/")[1:-1]
            paths = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        node.meta[SCOPE] = next((path for path in paths if path in modules), "")


def scope_of(node: ir.Node) -> str:
    """The module path; empty for the model itself and for nodes that a rewrite made."""
    return str(node.meta.get(SCOPE, ""))
