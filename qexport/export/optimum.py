"""Export with Optimum: TorchScript's exporter, for whatever the fused one cannot do."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.errors import UnsupportedHere
from qexport.export.quiet import quiet
from qexport.export.signature import optimum_config

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedModel

OPSET = 18


def export_optimum(model: PreTrainedModel) -> ir.Model:
    """Trace ``model`` with Optimum's configuration for its architecture. The model is given back as it was.

    Raises:
        UnsupportedHere: Optimum does not know the architecture.
    """
    import onnx_ir as ir

    with quiet(), _config_restored(model), tempfile.TemporaryDirectory(prefix="qexport-") as folder:
        from optimum.exporters.onnx.convert import export

        config = optimum_config(model)
        if config is None:
            raise UnsupportedHere(
                f"Optimum cannot export the architecture {model.config.model_type}; use --exporter fused"
            )
        path = Path(folder) / "model.onnx"
        export(model, config, path, opset=OPSET, device="cpu")
        graph = ir.load(path)
        ir.external_data.load_to_model(graph)  # the folder goes away
    return graph


@contextlib.contextmanager
def _config_restored(model: PreTrainedModel) -> Iterator[None]:
    """Optimum writes into the model's configuration what it wants overridden."""
    before = dict(model.config.__dict__)
    try:
        yield
    finally:
        model.config.__dict__.clear()
        model.config.__dict__.update(before)
