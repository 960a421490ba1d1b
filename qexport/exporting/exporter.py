"""Exports a torch model to ``model.onnx``, prepares the graph, and proves that both compute the same."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import EXTERNAL_DATA_BYTES, ONNX_NAME, Exporter, progress, save
from qexport.inputs import ModelSource, copy_side_files, load_torch_model

if TYPE_CHECKING:
    from qexport.exporting.parity import Difference


_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The result of an export.

    Attributes:
        parity: the largest logit differences from torch in float64, for each case tried: the graph's, and the noise,
            which is that of torch in float32.
        weight_bytes: the bytes of the graph's initializers.
        parameters: the number of the model's weights; tied weights count once.
    """

    exporter: Exporter
    parity: dict[str, Difference]
    weight_bytes: int
    parameters: int

    @property
    def settings(self) -> dict[str, float]:
        """The largest differences over all cases, for a manifest."""
        found = self.parity.values()
        return {
            "parity_max_logit_difference": max(case.graph for case in found),
            "parity_max_logit_difference_deviations": max(case.graph_deviations for case in found),
            "noise_max_logit_difference": max(case.noise for case in found),
            "noise_max_logit_difference_deviations": max(case.noise_deviations for case in found),
        }


def export_model(
    source: ModelSource,
    folder: Path,
    *,
    exporter: Exporter = "fused",
    external_data_bytes: int = EXTERNAL_DATA_BYTES,
) -> ExportReport:
    """Write ``model.onnx`` and the files beside it into ``folder``, which exists, and check it against torch.

    The graph has the form described in :mod:`qexport.exporting.prepare` and the inputs and outputs of
    :mod:`qexport.exporting.signature`. The same model always gives the same bytes.

    Args:
        source: the model.
        folder: the folder of the files, the path of an artifact's draft.
        exporter: see :data:`Exporter`.
        external_data_bytes: weights of more bytes than this go to ``model.onnx.data``.

    Raises:
        ParityError: the graph does not compute the same as the torch model.
        ContractError: the exporter wrote a graph that cannot be brought into the prepared form.
    """
    from qexport.exporting import parity
    from qexport.exporting.fused import export_fused
    from qexport.exporting.optimum import export_optimum
    from qexport.exporting.prepare import prepare
    from qexport.exporting.signature import signature_of

    with progress.task(f"exporting {source.name} ({exporter})", total=4) as advance:
        torch_model = load_torch_model(source)
        signature = signature_of(torch_model)
        if exporter == "fused-cuda":  # all rows share the length of the past, but not their next position
            signature = replace(signature, position_ids=True)
        advance()
        if exporter == "optimum":
            graph = export_optimum(torch_model)
        else:
            graph = export_fused(torch_model, signature, bias=exporter == "fused")
        advance()
        prepare(graph, torch_model, signature)
        weight_bytes = save(graph, folder, external_data_bytes=external_data_bytes)
        copy_side_files(source, folder)
        advance()
        del graph
        differences = parity.check(folder / ONNX_NAME, torch_model, signature, exporter=exporter)
        advance()
    name, closest = max(differences.items(), key=lambda item: item[1].graph / item[1].allowed)
    _log.info("%s: nearest to a refusal is %s: %s, allowed are %.3g", source.name, name, closest, closest.allowed)
    return ExportReport(
        exporter=exporter,
        parity=differences,
        weight_bytes=weight_bytes,
        parameters=sum(parameter.numel() for parameter in torch_model.parameters()),
    )
