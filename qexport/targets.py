"""Targets: where an artifact is to run, what can run there, and the check that nothing else is in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qexport.errors import UnsupportedHere
from qexport.recipes import Fp32, Recipe, Scheme, TorchSchemes
from qexport.schemes.cast import Cast
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
        "w8a16-gptq": "TensorRT has weight-only kernels for 4 bits only; take w4a16-gptq or int8-static",
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
_BIAS, _PAST_KEY = 10, 3
"""Places among its inputs."""
_NO_KERNEL: Mapping[Target, Mapping[str, str]] = {
    "cpu": {},
    "cuda": {
        "DynamicQuantizeLinear": "there is no CUDA kernel; take w8a16-rtn",
        "MatMulInteger": "the CUDA kernel takes no uint8; take w8a16-rtn",
        "QLinearMatMul": "there is no CUDA kernel; take w8a16-rtn",
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


def check(model: ir.Model, target: Target, what: str, *, parent: bool = False) -> None:
    """Make sure that a graph holds nothing that its target would leave to another, or not load.

    Args:
        model: the graph.
        target: where it is to run.
        what: it is, for the message.
        parent: it is not to run itself but to be made into what is, in 16 bits where that is what the target wants.

    Raises:
        UnsupportedHere: it does.
    """
    found: Counter[tuple[str, str]] = Counter()
    for node in model.graph:
        reason = _NO_KERNEL[target].get(node.op_type, "")
        if target == "tensorrt" and node.domain not in ("", "ai.onnx"):
            reason = "TensorRT knows the operators of ONNX only; export with --exporter optimum"
        if target == "cuda" and node.op_type == _FUSED_ATTENTION:
            reason = _refused_attention(node, parent=parent)
        if reason:
            found[node.op_type, reason] += 1
    if found:
        (op, reason), count = found.most_common(1)[0]
        raise UnsupportedHere(f"--target {target}: {what} has {count} {op}: {reason}")


def _refused_attention(node: ir.Node, *, parent: bool) -> str:
    """Why the CUDA kernel of GroupQueryAttention does not take a node; empty where it does."""
    if len(node.inputs) > _BIAS and node.inputs[_BIAS] is not None:
        return "its CUDA kernel takes no attention bias; export with --exporter fused-cuda or optimum"
    past = node.inputs[_PAST_KEY]
    if not parent and past is not None and past.dtype is not None and past.dtype.name == "FLOAT":
        return "its CUDA kernel computes in 16 bits only; export with --exporter optimum"
    return ""


def exporter_for(scheme: Scheme, target: Target) -> Exporter:
    """The exporter whose graphs a target can run once the scheme is done with them.

    CUDA has fused attention in 16 bits only, which is what these two schemes leave there.
    """
    if target == "cuda" and isinstance(scheme, Cast | WeightOnly):
        return "fused-cuda"
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
