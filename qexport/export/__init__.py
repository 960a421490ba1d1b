"""From a torch model to ``model.onnx``: export, prepare, and proof that both compute the same."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qexport import progress
from qexport.artifact import ONNX_NAME
from qexport.graph import EXTERNAL_DATA_BYTES, save
from qexport.inputs.models import ModelSource, copy_side_files, load_torch_model

if TYPE_CHECKING:
    from qexport.export.parity import Difference

Exporter = Literal["fused", "fused-cuda", "optimum"]
"""``fused``: GroupQueryAttention, padding on either side. ``fused-cuda``: in the form that its CUDA kernel takes, in 16 bits
and padded on the right. ``optimum``: plain operators.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export came to.

    Attributes:
        parity: for each case tried the largest differences of a logit from torch in float64: the graph's, and the noise,
            which is that of torch in float32.
        weight_bytes: bytes of the graph's initializers.
        parameters: the model's weights, tied ones counted once.
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

    The graph has the form described in :mod:`qexport.export.prepare` and the inputs and outputs of
    :mod:`qexport.export.signature`. The same model gives the same bytes again.

    Args:
        source: the model.
        folder: where the files go, the path of an artifact's draft.
        exporter: see :data:`Exporter`.
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
        if exporter == "fused-cuda":  # a row's next position is not the length of the past, which all rows share
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
