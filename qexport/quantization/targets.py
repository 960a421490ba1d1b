"""The one table of targets: what each place can run, and the check that nothing else is in a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from qexport.core import BODY, Exporter, Role, TargetName, UnsupportedHere

if TYPE_CHECKING:
    import onnx_ir as ir

Need = Literal["dynamic ranges", "8-bit blocks", "MatMulBnb4", "bfloat16", "float8", "lookups", "block lookups"]
"""A feature that a scheme's graphs need from a runtime, beyond operators of floating point."""

_FUSED_ATTENTION = "GroupQueryAttention"
_BIAS, _PAST_KEY = 10, 3
"""Places among its inputs."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One place to run. A fact of a target stands here and nowhere else; schemes ask for it."""

    exporter: Exporter
    """The exporter whose graphs the target runs."""
    half_exporter: Exporter
    """The same for schemes that leave attention in 16 bits."""
    lacks: Mapping[Need, str] = field(default_factory=dict)
    """Reason and way out, by what the target cannot run or would leave to another provider."""
    nodes: tuple[str, ...] | None = None
    """The default selection of a scheme that would need a lookup that the target lacks."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Reason and way out, by operator that must not be in a graph."""
    onnx_only: str = ""
    """Reason and way out where operators of other domains than ONNX's own are refused."""
    half_attention_only: bool = False
    """Fused attention has kernels of 16 bits only, and none with an attention bias."""
    symmetric_only: bool = False
    """Zero points are not taken, and 8-bit weights must be signed."""
    fused_blocks: bool = False
    """Fused kernels take blocks of 32 without zero points, in 16-bit graphs."""
    computes_bf16: bool = True
    """The runtime has kernels of bfloat16."""
    fuses_integers: bool = False
    """onnxruntime 1.31 takes a MatMul between two DequantizeLinear for one of integers, of FP8 too, and then refuses the
    graph that it made. There an FP8 input passes through Cast and Mul, which compute the same."""


_WEB = "the /webgpu build of onnxruntime-web 1.30.0"
_NO_TRT_LOOKUP = "TensorRT has no lookups in quantized tables; leave embeddings out of the selection"

TARGETS: Mapping[TargetName, Target] = {
    "cpu": Target(exporter="fused", half_exporter="fused", computes_bf16=False, fuses_integers=True),
    "cuda": Target(
        exporter="optimum",
        half_exporter="fused-cuda",
        lacks={
            "dynamic ranges": "the CUDA provider has no kernel for DynamicQuantizeLinear, nor for MatMulInteger on uint8: "
            "both would run on the CPU, with copies either way; take w8a16-rtn",
        },
        refused={
            "DynamicQuantizeLinear": "there is no CUDA kernel; take w8a16-rtn",
            "MatMulInteger": "the CUDA kernel takes no uint8; take w8a16-rtn",
            "QLinearMatMul": "there is no CUDA kernel; take w8a16-rtn",
        },
        half_attention_only=True,
        fused_blocks=True,
    ),
    "tensorrt": Target(
        exporter="optimum",
        half_exporter="optimum",
        lacks={
            "dynamic ranges": "TensorRT has no ranges computed at run time; take int8-static",
            "8-bit blocks": "TensorRT has weight-only kernels for 4 bits only; take a w4a16 recipe or int8-static",
            "MatMulBnb4": "TensorRT has no MatMulBnb4; take w4a16-rtn",
            "lookups": _NO_TRT_LOOKUP,
            "block lookups": _NO_TRT_LOOKUP,
        },
        nodes=(BODY,),
        onnx_only="TensorRT knows the operators of ONNX only; export with --exporter optimum",
        symmetric_only=True,
    ),
    "web": Target(
        exporter="fused",
        half_exporter="fused",
        lacks={
            "bfloat16": f"{_WEB} has no Cast of bfloat16 and does not load it; take fp16",
            "float8": f"{_WEB} does not load it (error 9, not implemented); take int8-static",
            "block lookups": f"{_WEB} has no GatherBlockQuantized; leave embeddings out of the selection",
        },
        nodes=(BODY, Role.LM_HEAD.value),
        refused={"GatherBlockQuantized": "the /webgpu build has no kernel; leave embeddings out of the selection"},
        computes_bf16=False,
        fuses_integers=True,
    ),
}


def refusal(needs: Collection[Need], target: TargetName) -> str:
    """The reason why a target has no form of a scheme with some needs; empty where it has one."""
    return next((reason for need, reason in TARGETS[target].lacks.items() if need in needs), "")


def check_target(model: ir.Model, target: TargetName, what: str, *, parent: bool = False) -> None:
    """Make sure that a graph holds nothing that its target would leave to another, or not load.

    Args:
        model: the graph.
        target: the place where it is to run.
        what: name of the graph, for the message.
        parent: True for the fp32 graph to be quantized: checks on element types are skipped.

    Raises:
        UnsupportedHere: the graph holds an operator that the target refuses.
    """
    row = TARGETS[target]
    found: Counter[tuple[str, str]] = Counter()
    for node in model.graph:
        reason = row.refused.get(node.op_type, "")
        if node.domain not in ("", "ai.onnx"):
            reason = row.onnx_only or reason
        if row.half_attention_only and node.op_type == _FUSED_ATTENTION:
            reason = _refused_attention(node, parent=parent)
        if reason:
            found[node.op_type, reason] += 1
    if found:
        (op, reason), count = found.most_common(1)[0]
        raise UnsupportedHere(f"--target {target}: {what} has {count} {op}: {reason}")


def _refused_attention(node: ir.Node, *, parent: bool) -> str:
    """The reason why the CUDA kernel of GroupQueryAttention refuses a node; empty where it takes the node."""
    if len(node.inputs) > _BIAS and node.inputs[_BIAS] is not None:
        return "its CUDA kernel takes no attention bias; export with --exporter fused-cuda or optimum"
    past = node.inputs[_PAST_KEY]
    if not parent and past is not None and past.dtype is not None and past.dtype.name == "FLOAT":
        return "its CUDA kernel computes in 16 bits only; export with --exporter optimum"
    return ""
