"""Commands that measure: compare, eval, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from qexport.cli import options
from qexport.cli.printing import print_report
from qexport.cli.process import fail, reporting_errors
from qexport.core import EXIT_ERROR, names_in


def compare(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|EXPERIMENT.toml]", help="A model or an experiment; default: the bundled reference model."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Report folder; default: runs/NAME.")
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
        str | None,
        typer.Option(
            "--calibration-dataset", metavar="NAME:CONFIG:SPLIT", help="Text for static ranges, from `datasets`."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Prompts for generation: txt, jsonl or a JSON list."),
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option("--new-tokens", min=2, help="Tokens to generate after each prompt; default: 32.")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option("--recipes", metavar="NAMES", help="Only the rows of these recipes, comma-separated.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="NAMES", help="Only these metrics, comma-separated: perplexity,disk_bytes."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="NAMES", help="Also these tasks of lm-eval, as for eval.")
    ] = None,
    data: options.TaskDataOption = None,
    num_fewshot: options.FewshotOption = None,
    limit: options.LimitOption = None,
    provider: options.ProviderOption = "cpu",
    threads: options.ThreadsOption = None,
    engine: options.EngineOption = None,
    exporter: options.ExporterOption = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="A fresh process for every figure, and three in turn for timed ones: slow."),
    ] = False,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="As --full, with this many fresh processes for timed figures.")
    ] = None,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Random weights of the experiment's architecture instead of the model.")
    ] = False,
    stand_in_size: Annotated[
        Literal["tiny", "medium", "full"] | None,
        typer.Option("--stand-in-size", help="The size of --stand-in; default: tiny; full: the model's real shapes."),
    ] = None,
    keep_artifacts: Annotated[bool, typer.Option("--keep-artifacts", help="Keep the models in the report.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the records of an interrupted comparison.")
    ] = False,
    overwrite: options.OverwriteOption = False,
    allow_pickle: options.PickleOption = False,
    trust_remote_code: options.RemoteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Make all rows of a model's table, measure each, and write a report."""
    with reporting_errors(interrupted="interrupted; `--resume` goes on from the existing records"):
        from qexport import api

        table = api.compare(
            model,
            output,
            text=text,
            dataset=dataset,
            calibration_text=calibration_text,
            calibration_dataset=calibration_dataset,
            prompts=prompts,
            new_tokens=new_tokens,
            recipes=recipes,
            metrics=metrics,
            tasks=() if tasks is None else tasks,
            data=data,
            num_fewshot=num_fewshot,
            limit=limit,
            provider=provider,
            threads=threads,
            engine=engine,
            exporter=exporter,
            full=full,
            rounds=rounds,
            stand_in=stand_in,
            stand_in_size=stand_in_size,
            keep_artifacts=keep_artifacts,
            resume=resume,
            overwrite=overwrite,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        assert table.folder is not None, "a comparison writes its report"
        print_report(table.records, table.folder, as_json=as_json)
        if all(record.skipped is not None for record in table.records):
            fail(f"{table.folder}: nothing was measured; the report has the reasons", EXIT_ERROR)


def evaluate(
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT...", help="Folders of artifacts; fp32 is the baseline of the others."),
    ],
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="NAMES", help="arc_easy, arc_challenge, hellaswag, piqa, gsm8k, mmlu.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Report folder; default: runs/MODEL-eval.")
    ] = None,
    data: options.TaskDataOption = None,
    num_fewshot: options.FewshotOption = None,
    limit: options.LimitOption = None,
    apply_chat_template: options.ChatOption = False,
    fewshot_as_multiturn: Annotated[
        bool,
        typer.Option(
            "--fewshot-as-multiturn/--fewshot-as-one-turn", help="With a template: one turn for each example."
        ),
    ] = True,
    system_instruction: Annotated[
        str | None, typer.Option("--system-instruction", metavar="TEXT", help="Text before every question.")
    ] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option("--gen-kwargs", metavar="KEY=VALUE,...", help="For gsm8k: max_gen_toks=128, until=...")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed for the choice of examples.")] = 1234,
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N", help="Most requests at once; auto is qexport's choice.")
    ] = "auto",
    provider: options.ProviderOption = "cpu",
    threads: options.ThreadsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted evaluation at the next request.")
    ] = False,
    overwrite: options.OverwriteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Let artifacts answer lm-eval's benchmarks; its options are spelled with - or _."""
    with reporting_errors(interrupted="interrupted; `--resume` goes on at the next request"):
        from qexport import comparison

        plan = comparison.plan_of(
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
        records = comparison.evaluate_artifacts(
            artifacts,
            names_in(tasks),
            folder,
            plan=plan,
            options=comparison.EvalOptions(
                provider=provider, threads=threads, rows=comparison.rows_of(batch_size), resume=resume
            ),
            overwrite=overwrite,
        )
        print_report(records, folder, as_json=as_json)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Report folders, or files of records.")],
    output: options.OutputOption,
    title: Annotated[str | None, typer.Option("--title", help="The title of the report.")] = None,
    overwrite: options.OverwriteOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Merge the records of several runs, or of several machines, into one report."""
    with reporting_errors():
        from qexport import comparison

        print_report(comparison.report(runs, output, title=title, overwrite=overwrite), output, as_json=as_json)
