"""The whole graph in 16 bits: float16 or bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from qexport.core import ContractError, TargetName, array
from qexport.quantization import half
from qexport.quantization.schemes.scheme import Rewritten, Settings, with_fields
from qexport.quantization.targets import TARGETS, Need

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from qexport.core import FloatGraph, QuantizedNode, Selection, WeightNode
    from qexport.inputs import TokenSet


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Weights and arithmetic in a 16-bit type, except :data:`qexport.quantization.half.KEPT`; no node is selected.

    In bfloat16 on a CPU only the storage has 16 bits; the inputs and outputs of every product are rounded to bfloat16.
    """

    dtype: Literal["fp16", "bf16"]
    target: TargetName = "cpu"

    OPTIONS: ClassVar[tuple[str, ...]] = ("target",)
    takes_nodes: ClassVar[bool] = False
    lookup: ClassVar[Need | None] = None
    leaves_half: ClassVar[bool] = True
    engine: ClassVar[str] = "qexport"
    calibration: ClassVar[str] = ""
    slow: ClassVar[str] = ""

    @property
    def needs(self) -> frozenset[Need]:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.needs`."""
        return frozenset({"bfloat16"} if self.dtype == "bf16" else ())

    def configured(self, choices: Mapping[str, object]) -> Cast:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.configured`."""
        return with_fields(self, choices)

    def refusal(self, node: WeightNode) -> str:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.refusal`."""
        del node
        return ""

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes in 16 bits."""
        return 2 * node.parameters

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """Cast the whole graph, whatever is selected; see :meth:`qexport.quantization.schemes.scheme.OnnxScheme.apply`.

        Raises:
            ContractError: a weight does not fit the type.
        """
        del selection, tokens
        model = parent.copy()
        if self._rounds_only:
            half.round_to_bf16(model)
        else:
            half.to_half(model, self.dtype)
        return Rewritten(
            model=model,
            check=lambda emitted: self._check(emitted, parent.model),
            settings=self._settings(),
            loads_here=not TARGETS[self.target].computes_bf16,
        )

    @property
    def _rounds_only(self) -> bool:
        return self.dtype == "bf16" and not TARGETS[self.target].computes_bf16

    def _settings(self) -> Settings:
        if self._rounds_only:
            return {"dtype": self.dtype, "arithmetic": "fp32 on bf16 values", "kept_in_fp32": "all but products"}
        return {"dtype": self.dtype, "kept_in_fp32": half.KEPT}

    def _check(self, emitted: ir.Model, parent: ir.Model) -> tuple[QuantizedNode, ...]:
        """Make sure that every matrix is stored as its float weight rounded to the 16-bit type; no node is quantized.

        Raises:
            ContractError: a matrix has another type or other values.
        """
        for name in sorted(half.parameters(parent)):
            weight = np.asarray(array(parent.graph.initializers[name]), np.float32)
            if weight.ndim != 2:
                continue
            stored = emitted.graph.initializers.get(name)
            if stored is None or stored.dtype is not half.data_type(self.dtype):
                raise ContractError(f"{name}: is not stored in {self.dtype}")
            if not np.array_equal(array(stored), half.rounded(weight, self.dtype, name)):
                raise ContractError(f"{name}: is not what its weight rounds to in {self.dtype}")
        return ()
