"""The command line: parse, call one verb, print its result, choose the exit code. The only module that prints."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from qexport import __version__
from qexport.errors import EXIT_ERROR, QExportError

if TYPE_CHECKING:
    from rich.console import Console

    from qexport.artifact import Artifact
    from qexport.inputs.text import Text
    from qexport.pipeline import Int8Options, Plan, Trust

app = typer.Typer(
    name="qexport",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Export a small language model to ONNX, quantize it, and see what that cost.",
)

EXIT_INTERRUPTED = 130

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Local folder, Hugging Face id, or `reference` for the bundled model.")
]
ArtifactArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="As for export, or the folder of an fp32 artifact made by it.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")]
ExporterOption = Annotated[
    Literal["fused", "optimum"], typer.Option("--exporter", help="fused: GroupQueryAttention. optimum: plain ONNX ops.")
]
RevisionOption = Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of a Hugging Face id.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Accept pickled weights, which can run code.")]
RemoteOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model.")]
NodesOption = Annotated[
    str | None,
    typer.Option("--nodes", metavar="ROLES", help="all, attention, mlp, lm-head, embedding, comma-joined; or @FILE."),
]
IncludeOption = Annotated[
    list[str] | None, typer.Option("--include", metavar="REGEX", help="Also nodes whose whole name or module matches.")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="REGEX", help="But not nodes whose name or module matches.")
]
EngineOption = Annotated[
    Literal["inc", "ort"], typer.Option("--engine", help="inc: neural-compressor. ort: onnxruntime.quantization.")
]
MethodOption = Annotated[
    Literal["minmax", "percentile", "entropy", "mse"] | None,
    typer.Option("--method", help="How static ranges are taken from the calibration text."),
]
SymmetricOption = Annotated[bool, typer.Option("--symmetric", help="Symmetric static activation ranges.")]
WeightsOption = Annotated[
    Literal["auto", "int8", "int8-reduced", "uint8"],
    typer.Option("--weights", help="Weight grid. auto: int8 on CPUs with VNNI, uint8 without."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def main() -> None:
    """Entry point of the console script and of ``python -m qexport``."""
    app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
) -> None:
    if version:
        typer.echo(f"qexport {__version__}")
        raise typer.Exit
    _set_up_stderr(quiet=quiet, verbose=verbose)


@app.command()
def export(
    model: ModelArgument,
    output: OutputOption,
    exporter: ExporterOption = "fused",
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
    allow_pickle: PickleOption = False,
    trust_remote_code: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a model to ONNX, checked against torch."""
    with _errors():
        from qexport import pipeline

        artifact = pipeline.export(
            model,
            output,
            exporter=exporter,
            revision=revision,
            trust=_trust(allow_pickle, trust_remote_code),
            overwrite=overwrite,
        )
        _print_artifact(artifact, as_json=as_json)


@app.command()
def nodes(
    model: ArtifactArgument,
    nodes: NodesOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    exporter: ExporterOption = "fused",
    revision: RevisionOption = None,
    allow_pickle: PickleOption = False,
    trust_remote_code: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which nodes a selection names, and their bytes before and after INT8."""
    with _errors():
        from qexport import pipeline
        from qexport.selection import parse_selector

        plan = pipeline.plan(
            model,
            parse_selector(nodes, include or (), exclude or ()),
            exporter=exporter,
            revision=revision,
            trust=_trust(allow_pickle, trust_remote_code),
        )
        _print_plan(plan, as_json=as_json)


@app.command()
def quantize(
    model: ArtifactArgument,
    output: OutputOption,
    recipe: Annotated[str, typer.Option("--recipe", help="int8-static, int8-dynamic, bnb-int8, bnb-fp4, bnb-nf4.")] = (
        "int8-static"
    ),
    nodes: NodesOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    engine: EngineOption = "inc",
    method: MethodOption = None,
    symmetric: SymmetricOption = False,
    weights: WeightsOption = "auto",
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Calibration text: txt, jsonl or a JSON list.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME:CONFIG:SPLIT", help="Calibration text from `datasets`.")
    ] = None,
    exporter: ExporterOption = "fused",
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
    allow_pickle: PickleOption = False,
    trust_remote_code: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a model, and check that what was asked for is what is in the file."""
    with _errors():
        from qexport import pipeline
        from qexport.selection import parse_selector

        artifact = pipeline.quantize(
            model,
            output,
            recipe_name=recipe,
            selector=parse_selector(nodes, include or (), exclude or ()),
            int8=_int8_options(engine, method, symmetric=symmetric, weights=weights),
            text=_text(text, dataset, "--text", "--dataset"),
            exporter=exporter,
            revision=revision,
            trust=_trust(allow_pickle, trust_remote_code),
            overwrite=overwrite,
        )
        _print_artifact(artifact, as_json=as_json)


@app.command()
def compare(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL|EXPERIMENT.toml]", help="Without it, the bundled reference model."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Report folder; default runs/NAME.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Text to measure on: txt, jsonl or a JSON list.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME:CONFIG:SPLIT", help="Text to measure on, from `datasets`.")
    ] = None,
    calibration_text: Annotated[
        Path | None, typer.Option("--calibration-text", metavar="FILE", help="Text for static activation ranges.")
    ] = None,
    calibration_dataset: Annotated[
        str | None, typer.Option("--calibration-dataset", metavar="NAME:CONFIG:SPLIT", help="The same from `datasets`.")
    ] = None,
    provider: Annotated[
        Literal["cpu", "cuda"], typer.Option("--provider", help="Where it runs; not there is an error.")
    ] = "cpu",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads; default all processors.")] = None,
    engine: EngineOption = "inc",
    exporter: ExporterOption = "fused",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Fresh processes per row that are timed.")] = 3,
    keep_artifacts: Annotated[bool, typer.Option("--keep-artifacts", help="Keep the models in the report.")] = False,
    overwrite: OverwriteOption = False,
    allow_pickle: PickleOption = False,
    trust_remote_code: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a model through all rows of the table, measure each, and write a report."""
    with _errors():
        from qexport import pipeline
        from qexport.report.table import build_table
        from qexport.report.terminal import render

        experiment = pipeline.experiment_for(model)
        folder = output or Path("runs") / experiment.name
        records = pipeline.compare(
            experiment,
            folder,
            evaluation=_text(text, dataset, "--text", "--dataset"),
            calibration=_text(calibration_text, calibration_dataset, "--calibration-text", "--calibration-dataset"),
            options=pipeline.CompareOptions(
                provider=provider,
                threads=threads,
                int8=pipeline.Int8Options(engine=engine),
                exporter=exporter,
                rounds=rounds,
                keep_artifacts=keep_artifacts,
                trust=_trust(allow_pickle, trust_remote_code),
            ),
            overwrite=overwrite,
        )
        if as_json:
            for record in records:
                typer.echo(record.model_dump_json(by_alias=True))
        else:
            console = _console(stderr=False)
            console.print(render(build_table(records), width=console.width))
            console.print(f"\nreport: {folder / 'report.html'}", highlight=False)


def _trust(allow_pickle: bool, remote_code: bool) -> Trust:
    from qexport.pipeline import Trust

    return Trust(allow_pickle=allow_pickle, remote_code=remote_code)


def _int8_options(engine: str, method: str | None, *, symmetric: bool, weights: str) -> Int8Options:
    from qexport.calibration import METHODS
    from qexport.pipeline import Int8Options
    from qexport.schemes.int8 import WeightGrid

    return Int8Options(
        engine=engine,
        method=METHODS[method] if method else None,
        symmetric=symmetric,
        grid=None if weights == "auto" else WeightGrid(weights),
    )


def _text(file: Path | None, dataset: str | None, file_option: str, dataset_option: str) -> Text | None:
    from qexport.errors import InputError
    from qexport.inputs.text import load_dataset_text, load_text

    if file is not None and dataset is not None:
        raise InputError(f"{file_option} and {dataset_option}: give one of the two")
    if file is not None:
        return load_text(file)
    return load_dataset_text(dataset) if dataset is not None else None


def _print_artifact(artifact: Artifact, *, as_json: bool) -> None:
    if as_json:
        typer.echo(artifact.manifest.model_dump_json(by_alias=True))
        return
    manifest = artifact.manifest
    console = _console(stderr=False)
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


def _print_plan(plan: Plan, *, as_json: bool) -> None:
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
    _console(stderr=False).print(table)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    # A pipe has no width: nothing is folded or cut there.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160, soft_wrap=not stream.isatty())


def _set_up_stderr(*, quiet: bool, verbose: bool) -> None:
    """Logs and progress go to stderr, so that stdout holds the result alone."""
    level = logging.DEBUG if verbose else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(name)s: %(message)s")
    logging.getLogger("qexport").setLevel(level)
    if not quiet and sys.stderr.isatty():
        from qexport import progress, progress_bars

        progress.install(progress_bars.Bars(_console(stderr=True)).task)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """One line on stderr for what goes wrong on purpose; Ctrl-C and SIGTERM leave through the same clean-up."""
    with _signals() as seen:
        try:
            yield
        except KeyboardInterrupt:
            _fail_interrupted()
        except Exception as error:
            # An interrupt in the middle of importing a compiled module comes out as an ImportError.
            if seen:
                _fail_interrupted()
            if isinstance(error, QExportError):
                _fail(str(error), error.exit_code)
            if isinstance(error, OSError):
                place = f"{error.filename}: " if error.filename else ""
                _fail(f"{place}{error.strerror or error}", EXIT_ERROR)
            raise


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt, and note that they came; what is ignored stays ignored."""
    seen: list[int] = []

    def interrupt(number: int, _frame: object) -> NoReturn:
        seen.append(number)
        raise KeyboardInterrupt

    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail_interrupted() -> NoReturn:
    _fail("interrupted; nothing was changed", EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"qexport: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)
