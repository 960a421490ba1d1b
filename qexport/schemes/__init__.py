"""Schemes: what is done to weights and activations. A scheme's fields are its whole configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_type_hints

from qexport.errors import InputError, near_names
from qexport.selection import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from qexport.artifact import QuantizedNode
    from qexport.float_graph import FloatGraph
    from qexport.inputs.text import TokenSet
    from qexport.selection import Selection, WeightNode

Target = Literal["cpu", "cuda", "tensorrt", "web"]
"""Where an artifact is to run: onnxruntime on a CPU, its CUDA provider, TensorRT, or onnxruntime-web."""
Settings = dict[str, str | int | float | bool]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A graph as a scheme rewrote it, not saved yet."""

    model: ir.Model
    check: Callable[[ir.Model], tuple[QuantizedNode, ...]]
    """Holds the graph that was read from the saved file against what was asked for, and gives the nodes found quantized.

    Raises ContractError where the two differ."""
    settings: Settings
    loads_here: bool = True
    """False where ONNX Runtime's CPU provider has no kernels for the types; the file is then checked as ONNX alone."""


@dataclass(frozen=True, kw_only=True)
class SchemeResult:
    """The result of a scheme in the manifest's terms."""

    quantized: tuple[QuantizedNode, ...]
    """What was found quantized when the result was opened again."""
    weight_bytes: int
    """Bytes of all weights as stored, tied ones once."""
    settings: Settings
    versions: dict[str, str] = field(default_factory=dict)


class OnnxScheme(Protocol):
    """A scheme that rewrites the graph of an fp32 artifact."""

    OPTIONS: ClassVar[tuple[str, ...]]
    """The choices that a user or a row of an experiment may make, by name; see :meth:`configured`."""

    takes_nodes: ClassVar[bool]
    """Whether it is applied to a selection of nodes, and not to the graph as a whole."""

    @property
    def target(self) -> Target: ...

    @property
    def engine(self) -> str:
        """Who rewrites the graph: ``inc``, ``ort`` or ``qexport``."""

    @property
    def calibration(self) -> str:
        """What is learned from calibration text, in the manifest's words; empty where none is needed."""

    def configured(self, choices: Mapping[str, object]) -> OnnxScheme:
        """This scheme with other values of some options.

        Raises:
            InputError: an option that the scheme has not, or a value that it does not take.
        """

    def refusal(self, node: WeightNode) -> str:
        """Why this scheme has no form for a node; empty where it has one."""

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes once quantized, scales and zero points included."""

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """Quantize the selected nodes of a copy of an fp32 graph.

        Args:
            parent: the fp32 graph, which stays as it was.
            selection: nodes of the graph.
            tokens: calibration windows, where :attr:`calibration` asks for them.

        Raises:
            ContractError: a tool did something else than it was asked for.
            UnsupportedHere: the scheme cannot do this on this machine, or for this target.
        """


def refused_lookup(node: WeightNode, target: Target) -> str:
    """Why a target has no form of a node that looks up rows of a quantized table; empty where it has, or it multiplies."""
    if target == "tensorrt" and node.role is Role.EMBEDDING:
        return "TensorRT has no lookups in quantized tables; leave embeddings out of the selection"
    return ""


def with_fields(scheme: T, choices: Mapping[str, object]) -> T:
    """A scheme (a dataclass) with the chosen values of its fields, each checked against the field's type.

    Raises:
        InputError: see :meth:`OnnxScheme.configured`.
    """
    from pydantic import TypeAdapter, ValidationError

    options: tuple[str, ...] = getattr(scheme, "OPTIONS", ())
    hints = get_type_hints(type(scheme))
    values: dict[str, Any] = {}
    for name, value in choices.items():
        if name not in options:
            what = near_names(name, options) if options else "it has no options"
            raise InputError(f"the option {name} is not for this recipe; {what}")
        try:
            values[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            raise InputError(f"the option {name}: {value!r}: {error.errors()[0]['msg']}; correct it") from error
    return dataclasses.replace(scheme, **values)  # type: ignore[type-var]  # every scheme is a dataclass
