"""Prints the results of commands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qexport.cli.process import console_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qexport.core import Artifact, Measurement
    from qexport.deployment import Deployment, PushReport, Verification
    from qexport.gating import Baseline, GateReport
    from qexport.quantization import Plan
    from qexport.serving import Served


def print_baseline(path: Path, made: Baseline, before: Baseline | None) -> None:
    rows, old = made.rows, {} if before is None else before.rows
    counts = {
        "new": [name for name in rows if name not in old],
        "changed": [name for name in rows if name in old and rows[name] != old[name]],
        "dropped": [name for name in old if name not in rows],
    }
    changes = [
        f"{len(names)} {what} ({', '.join(names)})" for what, names in counts.items() if names and before is not None
    ]
    typer.echo(f"{path}: {', '.join([f'{len(rows)} rows', *changes])}; commit it, so that it is reviewed")


def print_gate(found: GateReport, folder: Path | None, *, as_json: bool) -> None:
    """Print the result, and the output for the CI service that runs the command."""
    from qexport.gating import gate_json, gate_summary, render_gate, workflow_commands, write_gate_pages

    if folder is not None:
        write_gate_pages(found, folder)
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(place).open("a", encoding="utf-8") as handle:
            handle.write(gate_summary(found))
    if as_json:
        typer.echo(gate_json(found), nl=False)
        return
    console_of(stderr=False).print(render_gate(found))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(found):
            typer.echo(line)


def print_report(records: Sequence[Measurement], folder: Path, *, as_json: bool) -> None:
    if as_json:
        for record in records:
            typer.echo(record.model_dump_json(by_alias=True))
        return
    from qexport.report import build_table, render_table

    console = console_of(stderr=False)
    console.print(render_table(build_table(records), width=console.width))
    console.print(f"\nreport: {folder / 'report.html'}", highlight=False)


def print_artifact(artifact: Artifact, *, as_json: bool) -> None:
    if as_json:
        typer.echo(artifact.manifest.model_dump_json(by_alias=True))
        return
    manifest = artifact.manifest
    console = console_of(stderr=False)
    console.print(f"{artifact.path}", style="bold", highlight=False)
    how = f"{manifest.recipe}" + (f", engine {manifest.engine}" if manifest.engine else "")
    console.print(f"  {manifest.model.name} ({manifest.model.architecture}), {how}", highlight=False)
    if manifest.selection is not None:
        roles = [node.role for node in manifest.selection.nodes]
        counts = ", ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(roles))
        console.print(
            f"  asked {len(roles)} nodes ({counts}), found quantized {len(manifest.quantized)}", highlight=False
        )
    elif manifest.quantized:
        console.print(f"  {len(manifest.quantized)} modules found quantized", highlight=False)
    for name, value in manifest.settings.items():
        console.print(f"  {name.replace('_', ' ')}: {value}", highlight=False)
    console.print(
        f"  {artifact.disk_bytes / 1e6:.2f} MB on disk, {manifest.weight_bytes / 1e6:.2f} MB of weights",
        highlight=False,
    )


def print_deployment(made: Deployment, folder: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(made.model_dump_json(by_alias=True))
        return
    from qexport.deployment import LAYOUTS

    console = console_of(stderr=False)
    console.print(f"{folder}", style="bold", highlight=False)
    proved = ", ".join(f"{name} {version}" for name, version in LAYOUTS[made.target].proved.items())
    console.print(f"  for {LAYOUTS[made.target].runtime}, proved with {proved}", highlight=False)
    for info in made.files:
        detail = info.change or f"{info.of}, byte for byte"
        console.print(f"  {info.path}  {info.size_bytes:,} bytes, {detail}", highlight=False)


def print_served(served: Served, url: str) -> None:
    manifest, session = served.artifact.manifest, served.session
    where = f"{session.device or session.provider}, {session.threads} threads"
    typer.echo(f"serving {served.model} ({manifest.recipe}, {session.runtime}, {where}) at {url}", err=True)
    if rowless := served.rowless:
        typer.echo(f"tokens without row: {rowless}; a prompt with one of these is refused", err=True)


def print_push(found: PushReport, folder: Path | None) -> None:
    console = console_of(stderr=False)
    size = sum(info.size_bytes for info in found.files) / 1e6
    what = "pushed, and found on the hub as sent" if found.changed else "on the hub already, exactly as here"
    if folder is not None:
        what = "would be pushed"
    console.print(found.repo_id, style="bold", highlight=False)
    console.print(f"  {len(found.files)} files, {size:,.2f} MB, {what}; licence {found.licence}", highlight=False)
    if found.evidence is None:
        console.print("  the card has no measured figures; add them with --records", highlight=False)
    if found.removed:
        console.print(f"  removed files of an earlier push: {', '.join(found.removed)}", highlight=False)
    if found.others:
        console.print(f"  other files in the repository: {', '.join(found.others)}", highlight=False)
    console.print(f"  {folder / 'README.md' if folder is not None else found.url}", highlight=False)


def print_verification(found: Verification, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"what": found.what, "findings": [vars(each) for each in found.findings]}, indent=1))
        return
    console = console_of(stderr=False)
    console.print(f"{found.folder}: {found.what}", style="bold", highlight=False)
    for each in found.findings:
        origin = f"was {each.of}, byte for byte" if each.of else each.change
        console.print(f"  {each.state}: {each.path}" + (f"  {origin}" if origin else ""), highlight=False)


def print_nodes(artifact: Artifact, *, as_json: bool) -> None:
    """Print the nodes of a quantized artifact, with the form of each node's activation."""
    manifest = artifact.manifest
    roles = {node.name: node.role for node in manifest.selection.nodes} if manifest.selection is not None else {}
    if as_json:
        rows = [node.model_dump(mode="json") | {"role": roles.get(node.name, "")} for node in manifest.quantized]
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.table import Table

    # LLM.int8 of bitsandbytes has a range for each token too, except for its outliers, which it finds in each batch.
    tensor = "per tensor, " if manifest.kind == "onnx" else ""
    words = {"none": "float", "per-token": "per token"}
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("node", overflow="fold")
    for heading in ("role", "weight", "activation"):
        table.add_column(heading)
    table.add_column("channels in float", justify="right")
    for node in manifest.quantized:
        activation = words.get(node.activation, f"{tensor}{node.activation}")
        weight = f"{node.weight_dtype} {node.grain}"
        table.add_row(node.name, roles.get(node.name, ""), weight, activation, f"{len(node.float_channels)}")
    table.add_section()
    channels = sum(len(node.float_channels) for node in manifest.quantized)
    table.add_row(f"{len(manifest.quantized)} nodes", "", "", "", f"{channels}")
    console_of(stderr=False).print(table)


def print_plan(plan: Plan, *, as_json: bool) -> None:
    rows = [
        {
            "name": node.name,
            "role": node.role.value,
            "weight": node.weight,
            "shape": list(node.shape),
            "parameters": node.parameters,
            "bytes_before": plan.bytes_before(node),
            "bytes_after": plan.bytes_after(node),
        }
        for node in plan.selection.nodes
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("node", overflow="fold")
    table.add_column("role")
    for heading in ("shape", "parameters", "MB before", "after"):
        table.add_column(heading, justify="right")
    for row, node in zip(rows, plan.selection.nodes, strict=True):
        shape = " x ".join(str(size) for size in node.shape)
        sizes = (f"{plan.bytes_before(node) / 1e6:.3f}", f"{plan.bytes_after(node) / 1e6:.3f}")
        table.add_row(node.name, node.role.value, shape, f"{row['parameters']:,}", *sizes)
    before, after = plan.total_bytes
    table.add_section()
    table.add_row(
        f"{len(rows)} of {len(plan.nodes)} nodes",
        "",
        "",
        f"{plan.parameters:,}",
        f"{before / 1e6:.3f}",
        f"{after / 1e6:.3f}",
    )
    console_of(stderr=False).print(table)
