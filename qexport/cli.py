"""The command line: parse, call one verb, print its result, choose the exit code. The only module that prints."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand, TyperOption

from qexport import __version__, cpu
from qexport.errors import (
    EXIT_ERROR,
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    QExportError,
    first_words,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from rich.console import Console

    from qexport.artifact import Artifact
    from qexport.baseline import Baseline
    from qexport.deployment import Deployment, Verification
    from qexport.hub import PushReport
    from qexport.inputs.text import Text
    from qexport.pipeline import Plan, Trust
    from qexport.recipes import Recipe
    from qexport.record import Measurement
    from qexport.selection import Selector
    from qexport.serving.app import Served
    from qexport.verdict import GateReport

app = typer.Typer(
    name="qexport",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Export a small language model to ONNX, quantize it, and see what that cost.",
)

logger = logging.getLogger(__name__)


class _Once(TyperCommand):
    """A command that takes no option twice: click keeps the last value and drops the first in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in order:
            if order.count(parameter) > 1 and isinstance(parameter, TyperOption) and not parameter.multiple:
                raise typer.BadParameter(f"{parameter.opts[0]} is there twice; give it once", ctx=ctx)
        return super().parse_args(ctx, args)


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Local folder, Hugging Face id, or `reference` for the bundled model.")
]
ArtifactArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="As for export, or the folder of an fp32 artifact made by it.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")]
ExporterOption = Annotated[
    Literal["fused", "fused-cuda", "optimum"] | None,
    typer.Option(
        "--exporter",
        help="fused: GroupQueryAttention. fused-cuda: as its CUDA kernel takes it. optimum: plain ONNX ops. "
        "Default: what the target runs.",
    ),
]
RevisionOption = Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of a Hugging Face id.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Accept pickled weights, which can run code.")]
RemoteOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model.")]
NodesOption = Annotated[
    str | None,
    typer.Option(
        "--nodes", metavar="ROLES", help="all, body, attention, mlp, lm-head, embedding, comma-joined; or @FILE."
    ),
]
IncludeOption = Annotated[
    list[str] | None, typer.Option("--include", metavar="REGEX", help="Also nodes whose whole name or module matches.")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="REGEX", help="But not nodes whose name or module matches.")
]
RecipeOption = Annotated[str, typer.Option("--recipe", help="A name that `qexport recipes` lists.")]
EngineOption = Annotated[
    Literal["inc", "ort"] | None,
    typer.Option("--engine", help="INT8: inc (neural-compressor, the default) or ort (onnxruntime.quantization)."),
]
MethodOption = Annotated[
    Literal["minmax", "percentile", "entropy", "mse"] | None,
    typer.Option("--method", help="INT8: how static ranges are taken from the calibration text."),
]
SymmetricOption = Annotated[
    bool | None,
    typer.Option("--symmetric/--asymmetric", help="INT8: static activation ranges. 4 and 8 bit: the weights' blocks."),
]
WeightsOption = Annotated[
    Literal["int8-paired", "int8", "int8-reduced", "uint8", "native"] | None,
    typer.Option(
        "--weights",
        help="INT8: the weight grid. int8-paired, the default, is right and fast on every CPU; native is the finest that "
        "this CPU multiplies rightly.",
    ),
]
SmoothOption = Annotated[
    bool | None, typer.Option("--smooth/--no-smooth", help="INT8: SmoothQuant, alpha searched on the calibration text.")
]
PerTokenOption = Annotated[
    bool | None, typer.Option("--per-token/--per-tensor", help="INT8, dynamic: a range for each token.")
]
BlockSizeOption = Annotated[
    int | None, typer.Option("--block-size", help="4 and 8 bit: weights that share a scale: 16, 32, 64, 128.")
]
ComputeOption = Annotated[
    Literal["float", "int8"] | None,
    typer.Option("--compute", help="4 and 8 bit: whether the CPU kernel rounds activations to int8."),
]
HeadBitsOption = Annotated[
    int | None, typer.Option("--head-bits", help="4 bit: other bits for the output head and a table tied to it.")
]
DoubleQuantOption = Annotated[
    bool | None,
    typer.Option("--double-quant/--no-double-quant", help="bnb-nf4, bnb-fp4: whether the scales are quantized too."),
]
ActivationsOption = Annotated[
    Literal["static", "none"] | None,
    typer.Option("--activations", help="fp8: whether activations are rounded too, or weights only."),
]
TargetOption = Annotated[
    Literal["cpu", "cuda", "tensorrt", "web"] | None,
    typer.Option("--target", help="Where it is to run; what would fall back there is refused."),
]
ProviderOption = Annotated[
    Literal["cpu", "cuda"], typer.Option("--provider", help="Where it runs; not there is an error.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads; default all processors.")
]
TaskDataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder with the tasks' questions; default the hub.")
]
FewshotOption = Annotated[
    int | None, typer.Option("--num-fewshot", min=0, help="Examples ahead of each question; default each task's own.")
]


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is no number of questions; give one above 0")
    return value


LimitOption = Annotated[
    float | None,
    typer.Option("--limit", callback=_positive, help="Questions of each task, or below one the part of them."),
]
ChatOption = Annotated[
    bool, typer.Option("--apply-chat-template", help="Put questions into the tokenizer's chat template.")
]
RecordsOption = Annotated[
    Path | None,
    typer.Option("--records", metavar="RUN", help="Report folder of a comparison: what it measured is told beside."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _dashed(name: str) -> str:
    """A parameter's name as its option is written, and lm-eval's ``--num_fewshot`` as ``--num-fewshot``."""
    return name.replace("_", "-")


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    cpu.tune_blas()
    try:
        # A signal that comes while a command is set up, before the command itself takes care of signals.
        with _signals():
            app()
    except KeyboardInterrupt:
        typer.echo("qexport: interrupted; nothing was changed", err=True)
        sys.exit(EXIT_INTERRUPTED)


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


@app.command(cls=_Once)
def export(
    model: ModelArgument,
    output: OutputOption,
    exporter: ExporterOption = None,
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
            exporter=exporter or "fused",
            revision=revision,
            trust=_trust(allow_pickle, trust_remote_code),
            overwrite=overwrite,
        )
        _print_artifact(artifact, as_json=as_json)


def _options(recipe: Recipe) -> list[str]:
    """The options of a recipe, as the command line calls them."""
    return ["weights" if name == "grid" else name for name in recipe.scheme.OPTIONS]


@app.command(cls=_Once)
def recipes(as_json: JsonOption = False) -> None:
    """List the recipes, what each is, and its options."""
    with _errors():
        from qexport.recipes import RECIPES

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
        _console(stderr=False).print(table)


@app.command(cls=_Once)
def nodes(
    model: ArtifactArgument,
    nodes: NodesOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    recipe: RecipeOption = "int8-static",
    exporter: ExporterOption = None,
    revision: RevisionOption = None,
    allow_pickle: PickleOption = False,
    trust_remote_code: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which nodes a selection names, and their bytes before and after a recipe."""
    with _errors():
        from qexport import pipeline

        plan = pipeline.plan(
            model,
            _selector(nodes, include, exclude),
            recipe_name=recipe,
            exporter=exporter,
            revision=revision,
            trust=_trust(allow_pickle, trust_remote_code),
        )
        _print_plan(plan, as_json=as_json)


@app.command(cls=_Once)
def quantize(
    model: ArtifactArgument,
    output: OutputOption,
    recipe: RecipeOption = "int8-static",
    nodes: NodesOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    target: TargetOption = None,
    engine: EngineOption = None,
    method: MethodOption = None,
    symmetric: SymmetricOption = None,
    weights: WeightsOption = None,
    smooth: SmoothOption = None,
    per_token: PerTokenOption = None,
    block_size: BlockSizeOption = None,
    compute: ComputeOption = None,
    head_bits: HeadBitsOption = None,
    activations: ActivationsOption = None,
    double_quant: DoubleQuantOption = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="Calibration text: txt, jsonl or a JSON list.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME:CONFIG:SPLIT", help="Calibration text from `datasets`.")
    ] = None,
    exporter: ExporterOption = None,
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
    allow_pickle: PickleOption = False,
    trust_remote_code: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a model, and check that what was asked for is what is in the file."""
    with _errors():
        from qexport import pipeline

        artifact = pipeline.quantize(
            model,
            output,
            recipe_name=recipe,
            selector=_selector(nodes, include, exclude),
            options=_given(
                target=target,
                engine=engine,
                method=method,
                symmetric=symmetric,
                grid=weights,
                smooth=smooth,
                per_token=per_token,
                block_size=block_size,
                compute=compute,
                head_bits=head_bits,
                activations=activations,
                double_quant=double_quant,
            ),
            text=_text(text, dataset, "--text", "--dataset"),
            exporter=exporter,
            revision=revision,
            trust=_trust(allow_pickle, trust_remote_code),
            overwrite=overwrite,
        )
        _print_artifact(artifact, as_json=as_json)


@app.command(cls=_Once)
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
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Prompts to generate after: txt, jsonl or a JSON list."),
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option("--new-tokens", min=2, help="Tokens to generate after each prompt; default 32.")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option("--recipes", metavar="NAMES", help="Only the rows of these recipes, comma-joined.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="NAMES", help="Only these figures, comma-joined: perplexity,disk_bytes."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="NAMES", help="Tasks of lm-eval besides, as for eval.")
    ] = None,
    data: TaskDataOption = None,
    num_fewshot: FewshotOption = None,
    limit: LimitOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    engine: EngineOption = None,
    exporter: ExporterOption = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="A fresh process for every figure, and three in turn for what is timed: slow."),
    ] = False,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="As --full, with so many fresh processes for what is timed.")
    ] = None,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Random weights of the experiment's architecture instead of the model.")
    ] = False,
    stand_in_size: Annotated[
        Literal["tiny", "medium", "full"] | None,
        typer.Option("--stand-in-size", help="Of --stand-in; default tiny; full: the model's real shapes."),
    ] = None,
    keep_artifacts: Annotated[bool, typer.Option("--keep-artifacts", help="Keep the models in the report.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the records of a comparison that was cut short.")
    ] = False,
    overwrite: OverwriteOption = False,
    allow_pickle: PickleOption = False,
    trust_remote_code: RemoteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a model through all rows of the table, measure each, and write a report."""
    with _errors(interrupted="interrupted; `--resume` goes on from the records that are there"):
        from qexport import comparison
        from qexport.errors import InputError

        if stand_in_size and not stand_in:
            raise InputError("--stand-in-size: is of a stand-in; add --stand-in, or leave it out")
        if full and rounds:
            raise InputError(
                f"--full and --rounds: --full is --rounds {comparison.LATENCY_ROUNDS}; give one of the two"
            )
        asked = () if tasks is None else _names(tasks)
        typed = _given(
            text=text,
            dataset=dataset,
            calibration_text=calibration_text,
            calibration_dataset=calibration_dataset,
            prompts=prompts,
            new_tokens=new_tokens,
            data=data,
            num_fewshot=num_fewshot,
            limit=limit,
            engine=engine,
            exporter=exporter,
            rounds=rounds,
        )
        experiment = comparison.experiment_for(model, asked)
        if recipes is not None:
            experiment = comparison.only(experiment, _names(recipes))
        if metrics is not None:
            experiment = comparison.measuring(experiment, _names(metrics))
        generation = _given(prompts=prompts, new_tokens=new_tokens)
        experiment = experiment.model_copy(update={"generation": experiment.generation.model_copy(update=generation)})
        plan = experiment.tasks.model_copy(update=_given(data=data, num_fewshot=num_fewshot, limit=limit))
        experiment = experiment.model_copy(update={"tasks": plan})
        folder = output or Path("runs") / (experiment.name + ("-stand-in" if stand_in else ""))
        records = comparison.compare(
            experiment,
            folder,
            evaluation=_text(text, dataset, "--text", "--dataset"),
            calibration=_text(calibration_text, calibration_dataset, "--calibration-text", "--calibration-dataset"),
            tasks=asked,
            options=comparison.CompareOptions(
                provider=provider,
                threads=threads,
                engine=engine or "inc",
                exporter=exporter,
                rounds=rounds or (comparison.LATENCY_ROUNDS if full else None),
                keep_artifacts=keep_artifacts,
                trust=_trust(allow_pickle, trust_remote_code),
                stand_in=(stand_in_size or "tiny") if stand_in else None,
                resume=resume,
                choices=tuple(f"--{_dashed(name)}" for name in typed),
            ),
            overwrite=overwrite,
        )
        _print_report(records, folder, as_json=as_json)
        if all(record.skipped is not None for record in records):
            _fail(f"{folder}: nothing was measured; the report has the reasons", EXIT_ERROR)


@app.command(name="eval", cls=_Once, context_settings={"token_normalize_func": _dashed})
def evaluate(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARTIFACT...", help="Folders of artifacts; the fp32 one among them is what others meet."
        ),
    ],
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="NAMES", help="arc_easy, arc_challenge, hellaswag, piqa, gsm8k, mmlu.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Report folder; default runs/MODEL-eval.")
    ] = None,
    data: TaskDataOption = None,
    num_fewshot: FewshotOption = None,
    limit: LimitOption = None,
    apply_chat_template: ChatOption = False,
    fewshot_as_multiturn: Annotated[
        bool,
        typer.Option("--fewshot-as-multiturn/--fewshot-as-one-turn", help="With a template: a turn for each example."),
    ] = True,
    system_instruction: Annotated[
        str | None, typer.Option("--system-instruction", metavar="TEXT", help="Ahead of every question.")
    ] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option("--gen-kwargs", metavar="KEY=VALUE,...", help="For gsm8k: max_gen_toks=128, until=...")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of examples.")] = 1234,
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N", help="Most requests at once; auto is qexport's choice.")
    ] = "auto",
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on at the next request of an evaluation that was cut short.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let artifacts answer lm-eval's benchmarks; its options, with - or _ in their names."""
    with _errors(interrupted="interrupted; `--resume` goes on at the next request"):
        from qexport import evaluation

        plan = evaluation.plan_of(
            data=data,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=fewshot_as_multiturn,
            system_instruction=system_instruction,
            gen_kwargs=gen_kwargs,
            seed=seed,
        )
        folder = output or Path("runs") / f"{artifacts[0].resolve().name}-eval"
        records = evaluation.evaluate_artifacts(
            artifacts,
            _names(tasks),
            folder,
            plan=plan,
            options=evaluation.EvalOptions(
                provider=provider, threads=threads, rows=evaluation.rows_of(batch_size), resume=resume
            ),
            overwrite=overwrite,
        )
        _print_report(records, folder, as_json=as_json)


@app.command(cls=_Once)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Report folders, or files of records.")],
    output: OutputOption,
    title: Annotated[str | None, typer.Option("--title", help="Of the report.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put the records of several runs, or of several machines, into one report."""
    with _errors():
        from qexport import comparison

        _print_report(comparison.report(runs, output, title=title, overwrite=overwrite), output, as_json=as_json)


@app.command(cls=_Once)
def deploy(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARTIFACT...", help="Folder of an artifact; for transformersjs also several of one model."
        ),
    ],
    to: Annotated[
        Literal["optimum", "genai", "transformersjs", "triton", "kserve"],
        typer.Option("--to", help="The runtime that is to load it."),
    ],
    output: OutputOption,
    records: RecordsOption = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Prompts are chats: the tokenizer must have a template, the demo uses it.")
    ] = False,
    demo: Annotated[bool, typer.Option("--demo", help="transformersjs: a web page beside the model.")] = False,
    storage_uri: Annotated[
        str,
        typer.Option(
            "--storage-uri",
            metavar="URI",
            help="kserve: where the cluster finds the folder: s3://, gs://, pvc://, hf://.",
        ),
    ] = "",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Lay an artifact out for the runtime that is to load it."""
    with _errors():
        from qexport import deploy as verb

        made = verb.deploy(
            artifacts,
            to,
            output,
            records=records,
            chat=chat,
            demo=demo,
            storage_uri=storage_uri,
            overwrite=overwrite,
        )
        _print_deployment(made, output, as_json=as_json)


@app.command(cls=_Once)
def serve(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder made by export or quantize.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
) -> None:
    """Serve an artifact by OpenAI's HTTP interface: greedy text, on ONNX Runtime alone."""
    with _errors("interrupted"):
        from qexport.serving.server import serve as run

        run(artifact, host=host, port=port, provider=provider, threads=threads, ready=_print_served)


@app.command(cls=_Once)
def push(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder of an artifact.")],
    repo: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Repository on the Hugging Face hub, made if need be.")
    ],
    records: RecordsOption = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="NAME", help="The base model's; default what its card on the hub says."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Visible to the repository's owners only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the card and the list of files into a folder, and send nothing.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Of --dry-run; default NAME-card.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an artifact on the Hugging Face hub, with a model card written from its manifest and records."""
    with _errors(interrupted="interrupted; a commit is whole or not there, so look at the repository"):
        from qexport import hub
        from qexport.errors import InputError

        if output is not None and not dry_run:
            raise InputError("-o: is where --dry-run writes to; without it everything goes to the hub")
        folder = (output or Path(f"{repo.rpartition('/')[2]}-card")) if dry_run else None
        found = hub.push(artifact, repo, records=records, licence=licence, private=private, dry_run=folder)
        if as_json:
            typer.echo(found.model_dump_json())
            return
        _print_push(found, folder)


@app.command(cls=_Once)
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact, or what `qexport deploy` made of one.")],
    as_json: JsonOption = False,
) -> None:
    """Hash every file again and say what was changed since the manifest was written."""
    with _errors():
        from qexport.deployment import verify as verb
        from qexport.errors import ContractError

        found = verb(folder)
        _print_verification(found, as_json=as_json)
        if found.damage:
            names = ", ".join(f"{finding.path} ({finding.state})" for finding in found.damage)
            raise ContractError(f"{folder}: is not as it was written: {names}; make it again")


@app.command(cls=_Once)
def gate(
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT...", help="Folders of artifacts; their names are the baseline's rows."),
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="The rows as they were, in JSON.")
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
        typer.Option("--config", metavar="FILE", help="Budgets: [tool.qexport.gate] there, or a TOML file of them."),
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
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold artifacts to their budgets: exit code 0 passes, 1 fails, 4 is inconclusive."""
    if baseline is None and not against:
        raise typer.BadParameter("give --baseline FILE, or --against DIR with the artifacts of the base commit")
    with _errors():
        from qexport import gate as verb
        from qexport.errors import InputError
        from qexport.gating.bench import GateOptions
        from qexport.inputs.budgets import load_gate_plan

        plan = load_gate_plan(config)
        options = GateOptions(provider=provider, threads=threads, add_windows=add_windows)
        if against:
            if baseline is not None or update or add_cpu:
                raise InputError(
                    "--against: the artifacts there are the baseline; leave --baseline, --update and --add-cpu out"
                )
            found = verb.gate_against(artifacts, against, config, plan, options)
            _print_gate(found, output, as_json=as_json)
            raise typer.Exit(found.exit_code)
        assert baseline is not None
        if update or add_cpu:
            word = "--update" if update else "--add-cpu"
            if add_windows or output is not None or (update and add_cpu):
                raise InputError(f"{word}: takes all of the text and writes the baseline; leave other options out")
            if update:
                _print_baseline(baseline, *verb.update(artifacts, baseline, plan, options))
            else:
                made = verb.add_cpu(artifacts, baseline, plan, options)
                typer.echo(f"{baseline}: now of {len(made.cpus)} classes of kernels; commit it, so that it is reviewed")
            return
        found = verb.gate(artifacts, baseline, plan, options)
        _print_gate(found, output, as_json=as_json)
    raise typer.Exit(found.exit_code)


def _print_baseline(path: Path, made: Baseline, before: Baseline | None) -> None:
    rows, old = made.rows, {} if before is None else before.rows
    counts = {
        "new": [name for name in rows if name not in old],
        "changed": [name for name in rows if name in old and rows[name] != old[name]],
        "dropped": [name for name in old if name not in rows],
    }
    told = [
        f"{len(names)} {what} ({', '.join(names)})" for what, names in counts.items() if names and before is not None
    ]
    typer.echo(f"{path}: {', '.join([f'{len(rows)} rows', *told])}; commit it, so that it is reviewed")


def _print_gate(found: GateReport, folder: Path | None, *, as_json: bool) -> None:
    """The result, and what the service that runs this asks for."""
    from qexport.report.gate import summary, write
    from qexport.report.gate.data import data
    from qexport.report.gate.github import workflow_commands
    from qexport.report.gate.terminal import render

    if folder is not None:
        write(found, folder)
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(place).open("a", encoding="utf-8") as handle:
            handle.write(summary(found))
    if as_json:
        typer.echo(data(found), nl=False)
        return
    _console(stderr=False).print(render(found))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(found):
            typer.echo(line)


def _print_report(records: list[Measurement], folder: Path, *, as_json: bool) -> None:
    if as_json:
        for record in records:
            typer.echo(record.model_dump_json(by_alias=True))
        return
    from qexport.report.table import build_table
    from qexport.report.terminal import render

    console = _console(stderr=False)
    console.print(render(build_table(records), width=console.width))
    console.print(f"\nreport: {folder / 'report.html'}", highlight=False)


def _trust(allow_pickle: bool, remote_code: bool) -> Trust:
    from qexport.pipeline import Trust

    return Trust(allow_pickle=allow_pickle, remote_code=remote_code)


def _names(typed: str) -> list[str]:
    """The names in a list that is joined by commas."""
    return [name.strip() for name in typed.split(",")]


def _given(**options: object) -> dict[str, object]:
    """The options that were typed."""
    return {name: value for name, value in options.items() if value is not None}


def _selector(nodes: str | None, include: list[str] | None, exclude: list[str] | None) -> Selector | None:
    """What was typed of a selection; None where nothing was."""
    from qexport.selection import parse_selector

    if nodes is None and not include and not exclude:
        return None
    return parse_selector(nodes, include or (), exclude or ())


def _text(file: Path | None, dataset: str | None, file_option: str, dataset_option: str) -> Text | None:
    from qexport.errors import InputError
    from qexport.inputs.text import load_dataset_text, load_text

    if file is not None and dataset is not None:
        raise InputError(f"{file_option} and {dataset_option}: both name a text; give one of the two")
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


def _print_deployment(made: Deployment, folder: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(made.model_dump_json(by_alias=True))
        return
    from qexport.deploy import LAYOUTS

    console = _console(stderr=False)
    console.print(f"{folder}", style="bold", highlight=False)
    proved = ", ".join(f"{name} {version}" for name, version in LAYOUTS[made.target].proved.items())
    console.print(f"  for {LAYOUTS[made.target].runtime}, proved with {proved}", highlight=False)
    for info in made.files:
        told = info.change or f"{info.of}, byte for byte"
        console.print(f"  {info.path}  {info.size_bytes:,} bytes, {told}", highlight=False)


def _print_served(served: Served, url: str) -> None:
    from qexport.inputs.rows import without_row

    manifest, session = served.artifact.manifest, served.session
    where = f"{session.device or session.provider}, {session.threads} threads"
    typer.echo(f"serving {served.model} ({manifest.recipe}, {session.runtime}, {where}) at {url}", err=True)
    if rowless := without_row(served.artifact.path, served.limits.vocabulary):
        typer.echo(f"tokens without row: {rowless}; a prompt with one of these is refused", err=True)


def _print_push(found: PushReport, folder: Path | None) -> None:
    console = _console(stderr=False)
    size = sum(info.size_bytes for info in found.files) / 1e6
    what = "pushed, and found on the hub as sent" if found.changed else "on the hub already, exactly as here"
    if folder is not None:
        what = "would be pushed"
    console.print(found.repo_id, style="bold", highlight=False)
    console.print(f"  {len(found.files)} files, {size:,.2f} MB, {what}; licence {found.licence}", highlight=False)
    if found.evidence is None:
        console.print("  the card says that nothing was measured; --records gives it figures", highlight=False)
    if found.removed:
        console.print(f"  removed, of an earlier push: {', '.join(found.removed)}", highlight=False)
    if found.others:
        console.print(f"  also there, and not of this artifact: {', '.join(found.others)}", highlight=False)
    console.print(f"  {folder / 'README.md' if folder is not None else found.url}", highlight=False)


def _print_verification(found: Verification, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"what": found.what, "findings": [vars(each) for each in found.findings]}, indent=1))
        return
    console = _console(stderr=False)
    console.print(f"{found.folder}: {found.what}", style="bold", highlight=False)
    for each in found.findings:
        origin = f"was {each.of}, byte for byte" if each.of else each.change
        console.print(f"  {each.state}: {each.path}" + (f"  {origin}" if origin else ""), highlight=False)


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

    # Names of files may look like rich's markup.
    # A pipe has no width: nothing is folded or cut there.
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, markup=False, width=None if stream.isatty() else 160, soft_wrap=not stream.isatty())


def _set_up_stderr(*, quiet: bool, verbose: bool) -> None:
    """Logs and progress go to stderr, so that stdout holds the result alone."""
    level = logging.DEBUG if verbose else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(name)s: %(message)s")
    logging.getLogger("qexport").setLevel(level)
    if not quiet:
        from qexport import progress, progress_bars

        if sys.stderr.isatty():
            bars = progress_bars.Bars(_console(stderr=True))
            progress.install(bars.task, bars.stage)
        else:
            lines = progress_bars.Lines(_console(stderr=True))
            progress.install(lines.task, lines.stage)


@contextlib.contextmanager
def _errors(interrupted: str = "interrupted; nothing was changed") -> Iterator[None]:
    """One line on stderr for what goes wrong on purpose; Ctrl-C and SIGTERM leave through the same clean-up."""
    with _signals() as seen:
        try:
            yield
        except KeyboardInterrupt:
            _fail(interrupted, EXIT_INTERRUPTED)
        except Exception as error:
            # An interrupt in the middle of importing a compiled module comes out as an ImportError.
            if seen:
                _fail(interrupted, EXIT_INTERRUPTED)
            if isinstance(error, QExportError):
                _fail(str(error), error.exit_code)
            if isinstance(error, (typer.Exit, typer.BadParameter)):
                raise
            logger.debug("the traceback of what follows", exc_info=error)
            if is_out_of_memory(error):
                _fail(
                    f"memory ran out ({first_words(error)}); free some, or take smaller batches or windows, a smaller model or "
                    "a machine with more",
                    EXIT_ERROR,
                )
            if isinstance(error, OSError):
                place = f"{error.filename}: " if error.filename else ""
                _fail(f"{place}{error.strerror or error}", EXIT_ERROR)
            _fail(_fault(error), EXIT_FAULT)


def _fault(error: Exception) -> str:
    """One line on an error that nobody foresaw, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(__file__).parent)]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return (
        f"a fault of qexport itself, {type(error).__name__}: {first_words(error)}{place}; run `qexport --verbose ...` for the "
        "traceback, and report both"
    )


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


_LONGEST_WORD = 400
"""Characters. A name of two megabytes would hide the message."""


def _fail(message: str, code: int) -> NoReturn:
    from qexport.inputs.shown import shown

    words = (word if len(word) <= _LONGEST_WORD else f"{word[:100]}..." for word in message.split())
    typer.echo(f"qexport: {shown(' '.join(words))}", err=True)
    raise typer.Exit(code)
