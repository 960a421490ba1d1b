"""The graph of :mod:`qexport.runtime.kernels`; run as a script, it writes the file anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qexport.runtime import kernels
from qexport.runtime.kernels import HEAD_DIM, HEADS, INNER, OUTER, ROWS, SATURATING, integers, numbers

FILE = Path(kernels.__file__).with_name("kernels.onnx")
MICROSOFT = {"domain": "com.microsoft"}
TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


def constants() -> dict[str, np.ndarray]:
    blocks = INNER // 32
    return {
        "weight": numbers(INNER, OUTER),
        "signed": integers(INNER, OUTER, low=-60, high=60).astype(np.int8),
        "unsigned": integers(INNER, OUTER, low=1, high=255).astype(np.uint8),
        "full": np.full((INNER, OUTER), 127, np.int8),
        "scales": np.abs(numbers(OUTER, seed=3)) + np.float32(0.1),
        "signed_zero": np.zeros(OUTER, np.int8),
        "unsigned_zero": np.full(OUTER, 128, np.uint8),
        "step": np.array(0.011, np.float32),
        "middle": np.array(121, np.uint8),
        "gain": numbers(INNER, seed=4),
        "packed4": integers(OUTER, blocks, 16, low=0, high=255).astype(np.uint8),
        "packed8": integers(OUTER, blocks, 32, low=0, high=255).astype(np.uint8),
        "block_scales": np.abs(numbers(OUTER, blocks, seed=5)) + np.float32(0.01),
        "codes": integers(INNER * OUTER // 2, low=0, high=255).astype(np.uint8),
        "peaks": np.abs(numbers(INNER * OUTER // 64, seed=6)) + np.float32(0.01),
    }


def nodes() -> list[tuple[str, list[str], dict[str, Any]]]:
    """Every operator that artifacts are made of: its type, inputs and attributes."""
    sizes = MICROSOFT | {"K": INNER, "N": OUTER}
    made: list[tuple[str, list[str], dict[str, Any]]] = []
    for rows in ROWS:
        x, byte = f"float{rows}", f"byte{rows}"
        made += [
            ("MatMul", [x, "weight"], {}),
            ("DynamicQuantizeMatMul", [x, "signed", "scales", "signed_zero"], MICROSOFT),
            ("DynamicQuantizeMatMul", [x, "unsigned", "scales", "unsigned_zero"], MICROSOFT),
            ("QLinearMatMul", [byte, "step", "middle", "signed", "scales", "signed_zero", "step", "middle"], {}),
            ("MatMulBnb4", [x, "codes", "peaks"], sizes | {"block_size": 64, "quant_type": 1}),
        ]
        made += [
            (
                "MatMulNBits",
                [x, f"packed{bits}", "block_scales"],
                sizes | {"bits": bits, "block_size": 32, "accuracy_level": level},
            )
            for bits in (4, 8)
            for level in (1, 4)
        ]
    several = f"float{ROWS[1]}"
    made += [(op, [several], {}) for op in ("Softmax", "Gelu", "Sigmoid", "Tanh", "Erf", "Exp")]
    made += [("LayerNormalization", [several, "gain"], {}), ("SimplifiedLayerNormalization", [several, "gain"], {})]
    heads = MICROSOFT | {"num_heads": HEADS, "kv_num_heads": HEADS, "scale": HEAD_DIM**-0.5}
    made.append(("GroupQueryAttention", ["query", "query", "query", "past", "past", "last", "total"], heads))
    return [*made, ("MatMulInteger", ["largest", "full"], {})]


def graph() -> bytes:
    proto = []
    for number, (op, inputs, attributes) in enumerate(nodes()):
        first = SATURATING if op == "MatMulInteger" else f"{op}_{number}"
        cache = [f"{first}_key", f"{first}_value"] if op == "GroupQueryAttention" else []
        proto.append(helper.make_node(op, inputs, [first, *cache], **attributes))
    given = [
        helper.make_tensor_value_info(name, TYPES[str(value.dtype)], value.shape)
        for name, value in kernels.feeds().items()
    ]
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in proto]
    weights = [numpy_helper.from_array(value, name) for name, value in constants().items()]
    whole = helper.make_graph(proto, "kernels", given, outputs, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=10).SerializeToString(deterministic=True)


if __name__ == "__main__":
    FILE.write_bytes(graph())
