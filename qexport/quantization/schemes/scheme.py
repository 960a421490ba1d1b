"""Schemes: ways to change weights and activations. The fields of a scheme are its whole configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints

from qexport.core import InputError, Role, TargetName, near_names
from qexport.quantization.targets import Need, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from qexport.core import FloatGraph, QuantizedNode, Selection, WeightNode
    from qexport.inputs import TokenSet

Settings = dict[str, str | int | float | bool]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A graph as a scheme rewrote it, not saved yet."""

    model: ir.Model
    check: Callable[[ir.Model], tuple[QuantizedNode, ...]]
    """Compares the graph read from the saved file with the request, and returns the nodes found quantized.

    Raises ContractError if the two differ."""
    settings: Settings
    loads_here: bool = True
    """False if ONNX Runtime's CPU provider has no kernels for the types; the file is then checked as ONNX alone."""


@dataclass(frozen=True, kw_only=True)
class SchemeResult:
    """The result of a scheme in the manifest's terms."""

    quantized: tuple[QuantizedNode, ...]
    """The nodes found quantized when the result was opened again."""
    weight_bytes: int
    """Bytes of all weights as stored; tied weights count once."""
    settings: Settings
    versions: dict[str, str] = field(default_factory=dict)


class OnnxScheme(Protocol):
    """A scheme that rewrites the graph of an fp32 artifact."""

    OPTIONS: ClassVar[tuple[str, ...]]
    """Names of the options that a user or a row of an experiment may choose; see :meth:`configured`."""

    takes_nodes: ClassVar[bool]
    """True if the scheme applies to a selection of nodes, False if it applies to the whole graph."""

    @property
    def target(self) -> TargetName: ...

    @property
    def needs(self) -> frozenset[Need]:
        """The requirements of the scheme's graphs on the target; see :data:`qexport.quantization.targets.Need`."""

    lookup: ClassVar[Need | None]
    """The requirement of a quantized embedding on the target; None if the scheme has no lookup form."""

    leaves_half: ClassVar[bool]
    """True if attention computes in 16 bits after the scheme has rewritten a graph for CUDA."""

    @property
    def engine(self) -> str:
        """The engine that rewrites the graph: ``inc``, ``ort`` or ``qexport``."""

    @property
    def calibration(self) -> str:
        """The methods that learn from calibration text, in the manifest's words; empty if the scheme needs no text."""

    @property
    def slow(self) -> str:
        """The reason why the artifact is slower than fp32 on its target, with a remedy; empty if it is not."""

    def configured(self, choices: Mapping[str, object]) -> OnnxScheme:
        """This scheme with other values of some options.

        Raises:
            InputError: the scheme has no such option, or the option does not take the value.
        """

    def refusal(self, node: WeightNode) -> str:
        """The reason why this scheme has no form of a node; empty if it has one."""

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes once quantized, scales and zero points included."""

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """Quantize the selected nodes of a copy of an fp32 graph.

        Args:
            parent: the fp32 graph, which does not change.
            selection: the nodes to quantize.
            tokens: the calibration windows, if :attr:`calibration` asks for them.

        Raises:
            ContractError: a tool did something else than it was asked for.
            UnsupportedHere: the scheme cannot do this on this machine, or for this target.
        """


def refused_lookup(scheme: OnnxScheme, node: WeightNode) -> str:
    """The reason why a scheme's target has no quantized lookup; empty if it has one, or if the node multiplies."""
    if node.role is not Role.EMBEDDING or scheme.lookup is None:
        return ""
    return refusal({scheme.lookup}, scheme.target)


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
