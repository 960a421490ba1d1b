"""The protocol of a loaded artifact, and what the runtimes have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from qexport.core import Provider, UnsupportedHere
from qexport.runtime.decoding import Decoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Observe = Literal["nothing", "kernels", "device memory", "warnings"]
"""Optional observations of a session, which cost time: the kernels that run, the device memory that they take, or the
runtime's warnings, on stderr."""


INTEGER_MATMULS = frozenset(
    {"DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearMatMul"}
)
"""Kernels of ONNX Runtime that multiply 8-bit integers."""


QUANTIZED_KERNELS: Mapping[str, frozenset[str]] = {
    "integer_matmuls": INTEGER_MATMULS,
    "block_matmuls": frozenset({"MatMulNBits"}),
    "block_lookups": frozenset({"GatherBlockQuantized"}),
    "bnb4_matmuls": frozenset({"MatMulBnb4"}),
}
"""Kernels of ONNX Runtime that read quantized weights, by their name in the record."""


NODES_ON = "nodes_on_"
"""The record's prefix for the number of nodes that an execution provider ran: ``nodes_on_cpu``."""


SATURATES = "u8s8_saturates"
"""Name of the fact that u8 x s8 kernels add pairs of products in 16 bits on this CPU."""


class ProviderUnavailable(UnsupportedHere):
    """The requested execution provider is not available: an error for the whole run, not for one row."""


class Session(Protocol):
    """An artifact loaded and ready to score tokens."""

    @property
    def runtime(self) -> str:
        """Name and version of the runtime: ``onnxruntime 1.31.1``."""

    @property
    def provider(self) -> Provider: ...
    @property
    def threads(self) -> int: ...
    @property
    def device(self) -> str:
        """The accelerator's name; empty on the CPU."""

    @property
    def kernel_class(self) -> str:
        """The class of the kernels that run, see :mod:`qexport.runtime.kernels`; empty if kernels were not observed."""

    def logits(self, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Next-token logits ``[batch, sequence, vocab]`` of ids ``[batch, sequence]`` without padding."""

    def decoder(self, *, batch: int, capacity: int) -> Decoder:
        """A decoder for ``batch`` rows of at most ``capacity`` tokens each, prompts included."""

    def facts(self) -> dict[str, float | int | str]:
        """Plain facts about the run, for the record."""

    def device_bytes(self) -> int:
        """Bytes of tensors held on the device now; needs ``observe``."""

    def peak_device_bytes(self) -> int:
        """Most bytes of tensors held on the device at once, weights included; needs ``observe``."""
