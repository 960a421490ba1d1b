"""The arguments and options that commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperOption

from qexport.core import Exporter, Provider, TargetName


class OnceCommand(TyperCommand):
    """A command that accepts no option twice: click silently keeps only the last value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in order:
            if order.count(parameter) > 1 and isinstance(parameter, TyperOption) and not parameter.multiple:
                raise typer.BadParameter(f"{parameter.opts[0]} is there twice; give it once", ctx=ctx)
        return super().parse_args(ctx, args)


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Local folder, GGUF file, Hugging Face id, or `reference` for the bundled model."
    ),
]


ArtifactArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="As for export, or the folder of an fp32 artifact from export.")
]


OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")]


OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it is there.")]


ExporterOption = Annotated[
    Exporter | None,
    typer.Option(
        "--exporter",
        help="fused: GroupQueryAttention. fused-cuda: the form for its CUDA kernel. optimum: plain ONNX ops. "
        "Default: the one that the target runs.",
    ),
]


RevisionOption = Annotated[str | None, typer.Option("--revision", help="Commit, tag or branch of a Hugging Face id.")]


PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Accept pickled weights, which can run code.")]


RemoteOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model.")]


NodesOption = Annotated[
    str | None,
    typer.Option(
        "--nodes", metavar="ROLES", help="all, body, attention, mlp, lm-head, embedding, comma-separated; or @FILE."
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
    typer.Option("--method", help="INT8: the way to find static ranges on the calibration text."),
]


SymmetricOption = Annotated[
    bool | None,
    typer.Option("--symmetric/--asymmetric", help="INT8: static activation ranges. 4 and 8 bit: the weights' blocks."),
]


WeightsOption = Annotated[
    Literal["int8-paired", "int8", "int8-reduced", "uint8", "native"] | None,
    typer.Option(
        "--weights",
        help="INT8: the weight grid. int8-paired, the default, is correct and fast on every CPU; native is the finest that "
        "this CPU multiplies correctly.",
    ),
]


SmoothOption = Annotated[
    bool | None, typer.Option("--smooth/--no-smooth", help="INT8: SmoothQuant after norms, as calibration text shows.")
]


OutlierOption = Annotated[
    bool | None,
    typer.Option(
        "--outlier-channels/--no-outlier-channels",
        help="INT8: channels in float and ranges per token, where calibration text shows the need.",
    ),
]
PerTokenOption = Annotated[
    bool | None, typer.Option("--per-token/--per-tensor", help="INT8, dynamic: a range for each token.")
]


BlockSizeOption = Annotated[
    int | None,
    typer.Option("--block-size", help="4 and 8 bit: the number of weights that share a scale: 16, 32, 64, 128."),
]


ComputeOption = Annotated[
    Literal["float", "int8"] | None,
    typer.Option("--compute", help="4 and 8 bit: the activation type in the CPU kernel."),
]


HeadBitsOption = Annotated[
    int | None, typer.Option("--head-bits", help="4 bit: the bits of the output head and of a table tied to it.")
]


DoubleQuantOption = Annotated[
    bool | None,
    typer.Option("--double-quant/--no-double-quant", help="bnb-nf4, bnb-fp4: quantize the scales too, or not."),
]


ActivationsOption = Annotated[
    Literal["static", "none"] | None,
    typer.Option("--activations", help="fp8: round activations too, or only weights."),
]


TargetOption = Annotated[
    TargetName | None,
    typer.Option("--target", help="The deployment target; nodes that would fall back there are refused."),
]


ProviderOption = Annotated[
    Provider, typer.Option("--provider", help="The execution provider; an error if it is missing.")
]


ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads; default: all processors.")
]


TaskDataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder with the tasks' questions; default: the hub.")
]


FewshotOption = Annotated[
    int | None, typer.Option("--num-fewshot", min=0, help="Examples before each question; default: each task's own.")
]


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a number of questions; give one above 0")
    return value


LimitOption = Annotated[
    float | None,
    typer.Option("--limit", callback=_positive, help="Questions of each task; below one, a share of them."),
]


ChatOption = Annotated[
    bool, typer.Option("--apply-chat-template", help="Put questions into the tokenizer's chat template.")
]


RecordsOption = Annotated[
    Path | None,
    typer.Option("--records", metavar="RUN", help="Report folder of a comparison, to include its figures."),
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def dashed(name: str) -> str:
    """The option for a parameter's name, such as ``--num-fewshot`` for lm-eval's ``--num_fewshot``."""
    return name.replace("_", "-")
