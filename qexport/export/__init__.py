"""From a torch model to ``model.onnx``: export, prepare, and proof that both compute the same."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qexport import progress
from qexport.artifact import ONNX_DATA_NAME, ONNX_NAME
from qexport.inputs.models import ModelSource, copy_side_files, load_torch_model

if TYPE_CHECKING:
    import onnx_ir as ir

Exporter = Literal["fused", "optimum"]

EXTERNAL_DATA_BYTES = 1_900_000_000
"""Weights beyond this go to a file of their own: protobuf ends at 2 GiB."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export came to.

    Attributes:
        parity: for each case tried the largest absolute difference of a logit from torch's.
        weight_bytes: bytes of the graph's initializers.
        parameters: the model's weights, tied ones counted once.
    """

    exporter: Exporter
    parity: dict[str, float]
    weight_bytes: int
    parameters: int


def export_model(
    source: ModelSource,
    folder: Path,
    *,
    exporter: Exporter = "fused",
    external_data_bytes: int = EXTERNAL_DATA_BYTES,
) -> ExportReport:
    """Write ``model.onnx`` and the files beside it into ``folder``, which exists, and check it against torch.

    The graph has the form described in :mod:`qexport.export.prepare` and the inputs and outputs of
    :mod:`qexport.export.signature`. The same model gives the same bytes again.

    Args:
        source: the model.
        folder: where the files go, the path of an artifact's draft.
        exporter: ``fused`` or ``optimum``; both give the same form.
        external_data_bytes: weights of more bytes than this go to ``model.onnx.data``.

    Raises:
        ParityError: the graph does not compute what the torch model computes.
        ContractError: the exporter wrote a graph that cannot be brought into the prepared form.
    """
    from qexport.export import parity
    from qexport.export.fused import export_fused
    from qexport.export.optimum import export_optimum
    from qexport.export.prepare import prepare
    from qexport.export.signature import signature_of

    with progress.task(f"exporting {source.name} ({exporter})", total=4) as advance:
        torch_model = load_torch_model(source)
        signature = signature_of(torch_model)
        advance()
        graph = export_fused(torch_model, signature) if exporter == "fused" else export_optimum(torch_model)
        advance()
        prepare(graph, torch_model, signature)
        weight_bytes = _save(graph, folder, external_data_bytes)
        copy_side_files(source, folder)
        advance()
        del graph
        differences = parity.check(folder / ONNX_NAME, torch_model, signature)
        advance()
    _log.info("%s: largest difference of a logit from torch %.2g", source.name, max(differences.values()))
    return ExportReport(
        exporter=exporter,
        parity=differences,
        weight_bytes=weight_bytes,
        parameters=sum(parameter.numel() for parameter in torch_model.parameters()),
    )


def _save(graph: ir.Model, folder: Path, external_data_bytes: int) -> int:
    """Write the graph; returns the bytes of its initializers."""
    import onnx_ir as ir

    weight_bytes = 0
    for value in graph.graph.initializers.values():
        if value.const_value is not None:
            weight_bytes += value.const_value.nbytes
            # Merging equal constants leaves one with the declared shape of another, which shape inference then refuses.
            value.shape = ir.Shape(value.const_value.numpy().shape)
    external = ONNX_DATA_NAME if weight_bytes > external_data_bytes else None
    ir.save(graph, folder / ONNX_NAME, external_data=external)
    return weight_bytes
