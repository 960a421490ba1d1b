"""Commands that make artifacts: export, recipes, nodes, quantize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qexport.cli import options
from qexport.cli.printing import print_artifact, print_nodes, print_plan
from qexport.cli.process import console_of, reporting_errors

if TYPE_CHECKING:
    from qexport.core import Artifact
    from qexport.quantization import Recipe


def export(
    model: options.ModelArgument,
    output: options.OutputOption,
    exporter: options.ExporterOption = None,
    revision: options.RevisionOption = None,
    overwrite: options.OverwriteOption = False,
    allow_pickle: options.PickleOption = False,
    trust_remote_code: options.RemoteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Export a model to ONNX, checked against torch."""
    with reporting_errors():
        from qexport import api

        artifact = api.export(
            model,
            output,
            exporter=exporter or "fused",
            revision=revision,
            overwrite=overwrite,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        print_artifact(artifact, as_json=as_json)


def _options(recipe: Recipe) -> list[str]:
    """The options of a recipe, by their names on the command line."""
    return ["weights" if name == "grid" else name for name in recipe.scheme.OPTIONS]


def recipes(as_json: options.JsonOption = False) -> None:
    """List the recipes with their descriptions and options."""
    with reporting_errors():
        from qexport.quantization import RECIPES

        rows = [
            {"name": each.name, "summary": each.summary, "nodes": each.nodes, "options": _options(each)}
            for each in RECIPES.values()
        ]
        if as_json:
            typer.echo(json.dumps(rows, indent=1))
            return
        from rich.table import Table

        table = Table(box=None, header_style="dim", pad_edge=False)
        for heading in ("recipe", "what it is", "options"):
            table.add_column(heading, overflow="fold")
        for each in RECIPES.values():
            table.add_row(each.name, each.summary, ", ".join(_options(each)).replace("_", "-"))
        console_of(stderr=False).print(table)


def nodes(
    context: typer.Context,
    model: options.ArtifactArgument,
    nodes: options.NodesOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    recipe: options.RecipeOption = "int8-static",
    exporter: options.ExporterOption = None,
    revision: options.RevisionOption = None,
    allow_pickle: options.PickleOption = False,
    trust_remote_code: options.RemoteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show the nodes of a selection, and their bytes before and after a recipe.

    An artifact that is quantized shows its own nodes: per tensor or per token, and the channels in float.
    """
    with reporting_errors():
        from qexport import api

        if not _chosen(context) and (made := _quantized(model)) is not None:
            print_nodes(made, as_json=as_json)
            return
        plan = api.nodes(
            model,
            nodes=nodes,
            include=include or (),
            exclude=exclude or (),
            recipe=recipe,
            exporter=exporter,
            revision=revision,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        print_plan(plan, as_json=as_json)


def _chosen(context: typer.Context) -> set[str]:
    """The options that the user gave, beside the form of the output."""
    sources = {name: context.get_parameter_source(name) for name in context.params.keys() - {"model", "as_json"}}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def _quantized(model: str) -> Artifact | None:
    """The artifact in a folder, if nodes of it are quantized; None for a model, and for another artifact."""
    from qexport.core import MANIFEST_NAME, load_verified

    if not (Path(model) / MANIFEST_NAME).is_file():
        return None
    artifact = load_verified(Path(model))
    return artifact if artifact.manifest.quantized else None


def quantize(
    model: options.ArtifactArgument,
    output: options.OutputOption,
    recipe: options.RecipeOption = "int8-static",
    nodes: options.NodesOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    target: options.TargetOption = None,
    engine: options.EngineOption = None,
    method: options.MethodOption = None,
    symmetric: options.SymmetricOption = None,
    weights: options.WeightsOption = None,
    smooth: options.SmoothOption = None,
    outlier_channels: options.OutlierOption = None,
    per_token: options.PerTokenOption = None,
    block_size: options.BlockSizeOption = None,
    compute: options.ComputeOption = None,
    head_bits: options.HeadBitsOption = None,
    activations: options.ActivationsOption = None,
    double_quant: options.DoubleQuantOption = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Calibration text: txt, jsonl or a JSON list.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME:CONFIG:SPLIT", help="Calibration text from `datasets`.")
    ] = None,
    exporter: options.ExporterOption = None,
    revision: options.RevisionOption = None,
    overwrite: options.OverwriteOption = False,
    allow_pickle: options.PickleOption = False,
    trust_remote_code: options.RemoteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Quantize a model, and check that the file has exactly the selected nodes quantized."""
    with reporting_errors():
        from qexport import api

        artifact = api.quantize(
            model,
            output,
            recipe=recipe,
            nodes=nodes,
            include=include or (),
            exclude=exclude or (),
            target=target,
            engine=engine,
            method=method,
            symmetric=symmetric,
            weights=weights,
            smooth=smooth,
            outlier_channels=outlier_channels,
            per_token=per_token,
            block_size=block_size,
            compute=compute,
            head_bits=head_bits,
            activations=activations,
            double_quant=double_quant,
            text=text,
            dataset=dataset,
            exporter=exporter,
            revision=revision,
            overwrite=overwrite,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        print_artifact(artifact, as_json=as_json)
