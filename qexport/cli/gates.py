"""The command that checks artifacts against budgets: gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qexport.cli import options
from qexport.cli.printing import print_baseline, print_gate
from qexport.cli.process import reporting_errors


def gate(
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT...", help="Folders of artifacts; their names are the baseline's rows."),
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="The approved rows, in JSON.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="DIR",
            help="Instead of --baseline: artifacts of the base commit, or a folder of them. Both sides run here, so the "
            "verdict is the same on every CPU.",
        ),
    ] = None,
    config: Annotated[
        Path,
        typer.Option(
            "--config", metavar="FILE", help="Budgets: a file with [tool.qexport.gate], or a TOML file of them."
        ),
    ] = Path("pyproject.toml"),
    update: Annotated[bool, typer.Option("--update", help="Write the baseline instead, of this CPU alone.")] = False,
    add_cpu: Annotated[
        bool, typer.Option("--add-cpu", help="Add this CPU's figures to the baseline, if nothing else has changed.")
    ] = False,
    add_windows: Annotated[
        bool, typer.Option("--add-windows", help="While a verdict is inconclusive, go on with more of the text.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write gate.md, gate.json, junit.xml, code-quality.json there."
        ),
    ] = None,
    provider: options.ProviderOption = "cpu",
    threads: options.ThreadsOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check artifacts against their budgets: exit code 0 passes, 1 fails, 4 is inconclusive."""
    if baseline is None and not against:
        raise typer.BadParameter("give --baseline FILE, or --against DIR with the artifacts of the base commit")
    with reporting_errors():
        from qexport import gating
        from qexport.core import InputError
        from qexport.gating import GateOptions, load_gate_plan

        plan = load_gate_plan(config)
        options = GateOptions(provider=provider, threads=threads, add_windows=add_windows)
        if against:
            if baseline is not None or update or add_cpu:
                raise InputError(
                    "--against: the artifacts there are the baseline; leave --baseline, --update and --add-cpu out"
                )
            found = gating.gate_against(artifacts, against, config, plan, options)
            print_gate(found, output, as_json=as_json)
            raise typer.Exit(found.exit_code)
        assert baseline is not None
        if update or add_cpu:
            word = "--update" if update else "--add-cpu"
            if add_windows or output is not None or (update and add_cpu):
                raise InputError(f"{word}: takes all of the text and writes the baseline; leave other options out")
            if update:
                print_baseline(baseline, *gating.update(artifacts, baseline, plan, options))
            else:
                made = gating.add_cpu(artifacts, baseline, plan, options)
                typer.echo(f"{baseline}: now of {len(made.cpus)} classes of kernels; commit it, so that it is reviewed")
            return
        found = gating.gate(artifacts, baseline, plan, options)
        print_gate(found, output, as_json=as_json)
    raise typer.Exit(found.exit_code)
