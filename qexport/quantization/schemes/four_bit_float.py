"""NF4 and FP4 weights in ONNX: the bytes of bitsandbytes, multiplied by ONNX Runtime's MatMulBnb4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from qexport.core import (
    ContractError,
    QuantizedNode,
    Role,
    TargetName,
    UnsupportedHere,
    contrib_node,
    holds,
    matmul_weight,
    replace_node,
    set_initializer,
)
from qexport.quantization.int8_check import require_nothing_besides
from qexport.quantization.numerics import bnb4
from qexport.quantization.schemes.scheme import Rewritten, Settings, with_fields
from qexport.quantization.targets import Need, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import FloatGraph, Selection, WeightNode
    from qexport.inputs import TokenSet

OPERATOR = "MatMulBnb4"
QUANT_TYPES: Mapping[bnb4.Kind, int] = {"fp4": 0, "nf4": 1}
"""The value of the operator's attribute ``quant_type`` for each code book."""
SLOW = "the CPU's kernel takes 1.7 times fp32's time for a sentence and 2.6 times for a token; take w4a16-gptq"


@dataclass(frozen=True, kw_only=True)
class FourBitFloat:
    """Weights of selected MatMuls in a 4-bit format of bitsandbytes, in blocks of 64; activations are not quantized."""

    kind: Literal["nf4", "fp4"]
    target: TargetName = "cpu"

    OPTIONS: ClassVar[tuple[str, ...]] = ("target",)
    takes_nodes: ClassVar[bool] = True
    lookup: ClassVar[Need | None] = None
    leaves_half: ClassVar[bool] = False
    engine: ClassVar[str] = "qexport"
    calibration: ClassVar[str] = ""

    @property
    def needs(self) -> frozenset[Need]:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.needs`."""
        return frozenset({"MatMulBnb4"})

    @property
    def slow(self) -> str:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.slow`."""
        return SLOW if self.target == "cpu" else ""

    def configured(self, choices: Mapping[str, object]) -> FourBitFloat:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.configured`."""
        return with_fields(self, choices)

    def refusal(self, node: WeightNode) -> str:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.refusal`."""
        if node.role is Role.EMBEDDING:
            return f"{self.kind} has no lookup form: {OPERATOR} multiplies only; leave embeddings out of the selection"
        return ""

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes once quantized: codes, and a float32 scale for each block."""
        code_bytes, blocks = bnb4.packed_sizes(node.parameters)
        return code_bytes + 4 * blocks

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.apply`.

        Raises:
            UnsupportedHere: a selected node has no 4-bit form, or the target has no kernel.
        """
        del tokens
        self._require_form(selection)
        model = parent.copy()
        for node in selection.matmuls:
            self._quantize(model, node)
        return Rewritten(
            model=model,
            check=lambda emitted: self._check(emitted, parent.model, selection),
            settings=self._settings(),
        )

    def _settings(self) -> Settings:
        return {"weight_dtype": self.kind, "block_size": bnb4.BLOCK_SIZE}

    def _require_form(self, selection: Selection) -> None:
        if reason := refusal(self.needs, self.target):
            raise UnsupportedHere(f"{self.kind}: {reason}")
        for node in selection.nodes:
            if reason := self.refusal(node):
                raise UnsupportedHere(f"{node.name}: {reason}")

    def _quantize(self, model: ir.Model, node: WeightNode) -> None:
        """Make a node multiply by codes. A head that shares an embedding's table gets its own codes."""
        graph = model.graph
        matmul = graph.node(node.name)
        weight = matmul_weight(model, node)
        packed, peaks = bnb4.quantize(weight.T, self.kind)
        inputs = [
            matmul.inputs[0],
            set_initializer(graph, f"{node.module}.weight_{self.kind}", packed),
            set_initializer(graph, f"{node.module}.weight_absmax", peaks),
        ]
        attributes = self._attributes(*weight.shape)
        replace_node(graph, matmul, contrib_node(graph, OPERATOR, node.name, inputs, attributes))

    def _attributes(self, inputs: int, outputs: int) -> dict[str, int]:
        return {"K": inputs, "N": outputs, "block_size": bnb4.BLOCK_SIZE, "quant_type": QUANT_TYPES[self.kind]}

    def _check(self, emitted: ir.Model, parent: ir.Model, selection: Selection) -> tuple[QuantizedNode, ...]:
        """Compare the emitted file with the selection; the codes are rounded again from the parent's weights.

        Raises:
            ContractError: a node is missing or extra, or has other attributes, codes or scales; or the graph has
                another quantizing operator.
        """
        found = {node.name: node for node in emitted.graph if node.op_type == OPERATOR}
        asked = {node.name: node for node in selection.nodes}
        if found.keys() != asked.keys():
            different = sorted(map(str, found.keys() ^ asked.keys()))
            raise ContractError(f"{self.kind}: quantized nodes differ from the selection: {different}")
        require_nothing_besides(emitted, (), by=f"{self.kind}:")
        for name, node in asked.items():
            self._check_node(found[name], matmul_weight(parent, node))
        return tuple(
            QuantizedNode(
                name=node.name,
                weight=node.weight,
                weight_dtype=self.kind,
                per_channel=False,
                activation="none",
                block_size=bnb4.BLOCK_SIZE,
            )
            for node in selection.nodes
        )

    def _check_node(self, node: ir.Node, weight: NDArray[np.float32]) -> None:
        wanted = self._attributes(*weight.shape)
        attributes = {name: node.attributes.get_int(name) for name in wanted}
        if attributes != wanted:
            raise ContractError(f"{node.name}: has the attributes {attributes} instead of {wanted}")
        codes, peaks = bnb4.quantize(weight.T, self.kind)
        if not (holds(node.inputs[1], codes) and holds(node.inputs[2], peaks)):
            raise ContractError(f"{node.name}: does not hold the {self.kind} codes and scales of its weight")
