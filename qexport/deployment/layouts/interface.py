"""The inputs and outputs of an artifact's graph, as a client sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Shape = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or an output.

    Attributes:
        dtype: the ONNX name of the type: ``INT64``, ``FLOAT``, ``FLOAT16``.
        shape: numbers, and names of dynamic dimensions.
    """

    dtype: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Interface:
    """The inputs and outputs of a decoder graph, in the graph's order."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    @property
    def layers(self) -> int:
        return sum(name.startswith("past_key_values.") and name.endswith(".key") for name in self.inputs)

    @property
    def cache(self) -> Tensor:
        """The keys of the first layer: [batch, heads, past, head_dim]."""
        return self.inputs["past_key_values.0.key"]


def read_interface(path: Path) -> Interface:
    """Read a graph's inputs and outputs; weights in a separate file are not read."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return Interface(
        inputs={value.name: _tensor(value) for value in graph.input},
        outputs={value.name: _tensor(value) for value in graph.output},
    )


def _tensor(value: object) -> Tensor:
    import onnx

    assert isinstance(value, onnx.ValueInfoProto)
    kind = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    return Tensor(dtype=onnx.TensorProto.DataType.Name(kind.elem_type), shape=shape)
