"""Export with Optimum through TorchScript's exporter, for models that the fused exporter cannot export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import UnsupportedHere, quiet, scratch_folder
from qexport.exporting.signature import optimum_config

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedModel

OPSET = 18


def export_optimum(model: PreTrainedModel) -> ir.Model:
    """Trace ``model`` with Optimum's configuration for its architecture. The model is restored afterwards.

    Raises:
        UnsupportedHere: Optimum does not know the architecture, or fails at it.
    """
    import onnx_ir as ir

    kind = model.config.model_type
    with quiet(), _restored(model), scratch_folder("export") as folder:
        from optimum.exporters.onnx.convert import export

        config = optimum_config(model)
        if config is None:
            raise UnsupportedHere(f"{kind}: Optimum does not know this architecture; use --exporter fused")
        path = Path(folder) / "model.onnx"
        try:
            export(model, config, path, opset=OPSET, device="cpu")
        except (MemoryError, OSError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UnsupportedHere(f"{kind}: Optimum fails at this model ({reason}); use --exporter fused") from error
        graph = ir.load(path)
        ir.external_data.load_to_model(graph)  # the folder will be deleted
    return graph


@contextlib.contextmanager
def _restored(model: PreTrainedModel) -> Iterator[None]:
    """Restore the model: Optimum overrides values in the configuration and leaves an unwrapped ``forward`` behind."""
    config, had_forward = dict(vars(model.config)), "forward" in vars(model)
    try:
        yield
    finally:
        vars(model.config).clear()
        vars(model.config).update(config)
        if not had_forward:
            vars(model).pop("forward", None)
