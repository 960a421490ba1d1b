"""The verb ``export``: a model becomes an fp32 artifact."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from qexport.core import (
    VERSION,
    Artifact,
    Exporter,
    InputError,
    Manifest,
    ModelInfo,
    check_output,
    load_artifact,
    new_artifact,
    require_utf8,
)
from qexport.exporting.exporter import export_model
from qexport.inputs import NO_TRUST, ModelSource, Trust, locate, table_rows, without_row


def export(
    model: str,
    folder: Path,
    *,
    exporter: Exporter = "fused",
    revision: str | None = None,
    trust: Trust = NO_TRUST,
    overwrite: bool = False,
) -> Artifact:
    """Export a model to ONNX as an fp32 artifact, once its logits have been compared with torch's.

    Args:
        model: the hub id, the local folder, the GGUF file, or ``reference`` for the bundled model.
        folder: the folder of the artifact to make.
        exporter: ``fused`` or ``optimum``.
        revision: the revision of a hub id.
        trust: see :class:`Trust`.
        overwrite: replace an existing artifact.

    Raises:
        InputError: the model cannot be used, or ``folder`` must not be replaced.
        ParityError: the graph does not compute the same as torch.
        UnsupportedHere: the exporter cannot export this architecture.
    """
    require_model_kept(model, folder)
    check_output(folder, overwrite=overwrite)
    require_utf8(folder)
    return export_source(locate(model, revision, trust), folder, exporter, overwrite=overwrite)


def export_source(source: ModelSource, folder: Path, exporter: Exporter, *, overwrite: bool = False) -> Artifact:
    with new_artifact(folder, overwrite=overwrite) as draft:
        rowless = without_row(
            source.path, table_rows(source)
        )  # finds a tokenizer that cannot be read before long work starts
        report = export_model(source, draft.path, exporter=exporter)
        draft.finish(
            Manifest(
                kind="onnx",
                model=model_info(source, report.parameters),
                exporter=exporter,
                recipe="fp32",
                weight_bytes=report.weight_bytes,
                settings=report.settings | ({"tokens_without_row": rowless} if rowless else {}),
                versions=versions_of("torch", "transformers", "onnx", "onnxruntime"),
            )
        )
    return load_artifact(folder)


def require_model_kept(model: str, folder: Path) -> None:
    """Refuse an output that would replace the model that it is made from.

    Raises:
        InputError: the output would replace the model.
    """
    if not model.strip():  # the current folder, for pathlib; locate_model refuses it
        return
    parent, output = Path(model).resolve(), folder.resolve()
    if parent.is_dir() and (output == parent or output in parent.parents):
        raise InputError(f"{folder}: holds the model itself, which would be lost; choose another output")
    if parent.is_dir() and parent in output.parents:
        raise InputError(f"{folder}: lies in the model's own folder; choose another output")


def model_info(source: ModelSource, parameters: int) -> ModelInfo:
    return ModelInfo(
        name=source.name,
        revision=source.revision,
        weights_sha256=source.weights_sha256,
        architecture=source.model_type,
        parameters=parameters,
    )


def versions_of(*packages: str) -> dict[str, str]:
    return {"qexport": VERSION} | {name: importlib.metadata.version(name) for name in packages}
