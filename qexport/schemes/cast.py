"""The whole graph in 16 bits: float16 or bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from qexport import half
from qexport.errors import ContractError
from qexport.graph import array
from qexport.schemes import Rewritten, Settings, Target, with_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from qexport.artifact import QuantizedNode
    from qexport.float_graph import FloatGraph
    from qexport.inputs.text import TokenSet
    from qexport.selection import Selection, WeightNode

_WITHOUT_BF16: frozenset[Target] = frozenset({"cpu", "web"})
"""Targets whose runtime has hardly a kernel of bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Weights and computation in a 16-bit floating-point type, but for :data:`qexport.half.KEPT`; no node is selected.

    In bfloat16 on a CPU only what is stored is, and what goes into and comes out of every product is rounded to it.
    """

    dtype: Literal["fp16", "bf16"]
    target: Target = "cpu"

    OPTIONS: ClassVar[tuple[str, ...]] = ("target",)
    takes_nodes: ClassVar[bool] = False
    engine: ClassVar[str] = "qexport"
    calibration: ClassVar[str] = ""

    def configured(self, choices: Mapping[str, object]) -> Cast:
        """See :meth:`qexport.schemes.OnnxScheme.configured`."""
        return with_fields(self, choices)

    def refusal(self, node: WeightNode) -> str:
        """See :meth:`qexport.schemes.OnnxScheme.refusal`."""
        del node
        return ""

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes in 16 bits."""
        return 2 * node.parameters

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """Cast the whole graph, whatever is selected; see :meth:`qexport.schemes.OnnxScheme.apply`.

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
            loads_here=self.target in _WITHOUT_BF16,
        )

    @property
    def _rounds_only(self) -> bool:
        return self.dtype == "bf16" and self.target in _WITHOUT_BF16

    def _settings(self) -> Settings:
        if self._rounds_only:
            return {"dtype": self.dtype, "arithmetic": "fp32 on bf16 values", "kept_in_fp32": "all but products"}
        return {"dtype": self.dtype, "kept_in_fp32": half.KEPT}

    def _check(self, emitted: ir.Model, parent: ir.Model) -> tuple[QuantizedNode, ...]:
        """Make sure that every matrix is stored in the 16-bit type, as its float weight rounds to it; no node is quantized.

        Raises:
            ContractError: one is not.
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
