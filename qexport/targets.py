"""Targets: where an artifact is to run, what can run there, and the check that nothing else is in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qexport.errors import UnsupportedHere
from qexport.recipes import Fp32, Recipe, TorchSchemes
from qexport.schemes.fp8 import Fp8
from qexport.schemes.int8 import Int8
from qexport.schemes.weight_only import WeightOnly
from qexport.selection import BODY, Role, Selector

if TYPE_CHECKING:
    import onnx_ir as ir

    from qexport.export import Exporter
    from qexport.schemes import Target

REFUSED: Mapping[Target, Mapping[str, str]] = {
    "cpu": {},
    "cuda": {
        "int8-dynamic": "the CUDA provider has no kernel for DynamicQuantizeLinear, nor for MatMulInteger on uint8: both "
        "would run on the CPU, with copies either way; take w8a16-rtn",
    },
    "tensorrt": {
        "int8-dynamic": "TensorRT has no ranges computed at run time; take int8-static",
        "w8a16-rtn": "TensorRT has weight-only kernels for 4 bits only; take w4a16-rtn or int8-static",
        "nf4": "TensorRT has no MatMulBnb4; take w4a16-rtn",
        "fp4": "TensorRT has no MatMulBnb4; take w4a16-rtn",
    },
    "web": {
        "bf16": "the /webgpu build of onnxruntime-web 1.30.0 has no Cast of bfloat16 and does not load it; take fp16",
        "fp8": "the /webgpu build of onnxruntime-web 1.30.0 does not load it (error 9, not implemented); take int8-static",
    },
}
"""Why a recipe has no form that runs on a target: what would fall back in silence, or not load."""

_FUSED_ATTENTION = "GroupQueryAttention"
_NO_KERNEL: Mapping[Target, Mapping[str, str]] = {
    "cpu": {},
    "cuda": {
        _FUSED_ATTENTION: "its CUDA kernel takes no attention bias; export with --exporter optimum",
        "DynamicQuantizeLinear": "there is no CUDA kernel",
        "MatMulInteger": "the CUDA kernel takes no uint8",
        "QLinearMatMul": "there is no CUDA kernel",
    },
    "tensorrt": {},
    "web": {"GatherBlockQuantized": "the /webgpu build has no kernel; leave embeddings out of the selection"},
}
"""Operators that must not be in a graph for a target."""


def require(recipe: Recipe) -> None:
    """Make sure, before any work, that a recipe has a form for its target.

    Raises:
        UnsupportedHere: it has none.
    """
    if isinstance(recipe.scheme, Fp32 | TorchSchemes):
        return
    reason = REFUSED[recipe.scheme.target].get(recipe.name)
    if reason is not None:
        raise UnsupportedHere(f"{recipe.name} --target {recipe.scheme.target}: {reason}")


def check(model: ir.Model, target: Target, what: str) -> None:
    """Make sure that a graph holds nothing that its target would leave to another, or not load.

    Raises:
        UnsupportedHere: it does.
    """
    found: Counter[str] = Counter()
    for node in model.graph:
        if node.op_type in _NO_KERNEL[target] or (target == "tensorrt" and node.domain not in ("", "ai.onnx")):
            found[node.op_type] += 1
    if not found:
        return
    op, count = found.most_common(1)[0]
    reason = _NO_KERNEL[target].get(op, "TensorRT knows the operators of ONNX only; export with --exporter optimum")
    raise UnsupportedHere(f"--target {target}: {what} has {count} {op}: {reason}")


def exporter_for(target: Target) -> Exporter:
    """The exporter whose graphs a target can run."""
    return "optimum" if target in ("cuda", "tensorrt") else "fused"


def default_selector(recipe: Recipe) -> Selector:
    """The nodes that a recipe is for where none are named: on TensorRT and the web without those it cannot look up in."""
    match recipe.scheme:
        case WeightOnly(target="web"):
            return Selector(nodes=(BODY, Role.LM_HEAD.value))
        case WeightOnly(target="tensorrt") | Int8(target="tensorrt") | Fp8(target="tensorrt"):
            return Selector(nodes=(BODY,))
        case _:
            return Selector(nodes=(recipe.nodes,))
