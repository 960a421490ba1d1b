"""Commands that publish artifacts and run them elsewhere: deploy, serve, push, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qexport.cli import options
from qexport.cli.printing import print_deployment, print_push, print_served, print_verification
from qexport.cli.process import reporting_errors
from qexport.core import RuntimeName


def deploy(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARTIFACT...", help="Folder of an artifact; for transformersjs also several of one model."
        ),
    ],
    to: Annotated[
        RuntimeName,
        typer.Option("--to", help="The runtime that will load it."),
    ],
    output: options.OutputOption,
    records: options.RecordsOption = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Prompts are chats: the tokenizer must have a template, the demo uses it.")
    ] = False,
    demo: Annotated[bool, typer.Option("--demo", help="transformersjs: add a web page.")] = False,
    storage_uri: Annotated[
        str,
        typer.Option(
            "--storage-uri",
            metavar="URI",
            help="kserve: the address of the folder for the cluster: s3://, gs://, pvc://, hf://.",
        ),
    ] = "",
    overwrite: options.OverwriteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Lay an artifact out for another runtime."""
    with reporting_errors():
        from qexport import api

        made = api.deploy(
            *artifacts,
            to=to,
            output=output,
            records=records,
            chat=chat,
            demo=demo,
            storage_uri=storage_uri,
            overwrite=overwrite,
        )
        print_deployment(made, output, as_json=as_json)


def serve(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder made by export or quantize.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes any free one.")] = 8000,
    provider: options.ProviderOption = "cpu",
    threads: options.ThreadsOption = None,
) -> None:
    """Serve an artifact with an OpenAI-compatible HTTP interface: greedy text, with ONNX Runtime alone."""
    with reporting_errors("interrupted"):
        from qexport.serving import serve as run

        run(artifact, host=host, port=port, provider=provider, threads=threads, ready=print_served)


def push(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder of an artifact.")],
    repo: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Repository on the Hugging Face hub, made if it is missing.")
    ],
    records: options.RecordsOption = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="NAME", help="The base model's licence; default: the one in its card on the hub."
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Visible to the repository's owners only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the card and the list of files into a folder, and send nothing.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder of --dry-run; default: NAME-card.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Publish an artifact on the Hugging Face hub, with a model card written from its manifest and records."""
    with reporting_errors(interrupted="interrupted; a commit is complete or absent, so check the repository"):
        from qexport import deployment
        from qexport.core import InputError

        if output is not None and not dry_run:
            raise InputError("-o: is where --dry-run writes to; without it everything goes to the hub")
        folder = (output or Path(f"{repo.rpartition('/')[2]}-card")) if dry_run else None
        found = deployment.push(artifact, repo, records=records, licence=licence, private=private, dry_run=folder)
        if as_json:
            typer.echo(found.model_dump_json())
            return
        print_push(found, folder)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact, or what `qexport deploy` made of one.")],
    as_json: options.JsonOption = False,
) -> None:
    """Hash every file again and list the changes since the manifest was written."""
    with reporting_errors():
        from qexport.core import ContractError
        from qexport.deployment import verify as find_changes

        found = find_changes(folder)
        print_verification(found, as_json=as_json)
        if found.damage:
            names = ", ".join(f"{finding.path} ({finding.state})" for finding in found.damage)
            raise ContractError(f"{folder}: is not as it was written: {names}; make it again")
