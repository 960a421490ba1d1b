"""The command line: parse, call one verb, print its result, set the exit code. Only this room prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qexport.cli import artifacts, gates, shipping, tables
from qexport.cli.options import OnceCommand, dashed
from qexport.cli.process import set_up_stderr, signals_raised
from qexport.core import EXIT_INTERRUPTED, VERSION, cpu

app = typer.Typer(
    name="qexport",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Export a small language model to ONNX, quantize it, and see what that cost.",
)


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    cpu.tune_blas()
    try:
        # A signal may arrive while a command is set up, before the command handles signals itself.
        with signals_raised():
            app()
    except KeyboardInterrupt:
        typer.echo("qexport: interrupted; nothing was changed", err=True)
        sys.exit(EXIT_INTERRUPTED)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr.")] = False,
) -> None:
    if version:
        typer.echo(f"qexport {VERSION}")
        raise typer.Exit
    set_up_stderr(quiet=quiet, verbose=verbose)


app.command(cls=OnceCommand)(artifacts.export)
app.command(cls=OnceCommand)(artifacts.recipes)
app.command(cls=OnceCommand)(artifacts.nodes)
app.command(cls=OnceCommand)(artifacts.quantize)
app.command(cls=OnceCommand)(tables.compare)
app.command("eval", cls=OnceCommand, context_settings={"token_normalize_func": dashed})(tables.evaluate)
app.command(cls=OnceCommand)(tables.report)
app.command(cls=OnceCommand)(shipping.deploy)
app.command(cls=OnceCommand)(shipping.serve)
app.command(cls=OnceCommand)(shipping.push)
app.command(cls=OnceCommand)(shipping.verify)
app.command(cls=OnceCommand)(gates.gate)
