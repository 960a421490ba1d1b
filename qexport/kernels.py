"""The class of a machine's kernels, by what they compute.

Two CPUs are of one class where the kernels that run artifacts give the same bits for the same inputs. Flags do not say
that: kernels follow the size of caches as well, and an emulator shows the flags of its host. So a small graph with every
operator of qexport's artifacts runs, and the class is a digest of its outputs.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_ROWS = (1, 7)
"""Rows of the left factor: kernels for one token and for several differ."""
_INNER, _OUTER = 352, 48
"""A product's inner length, longer than the 128 that kernels add at a time and a multiple of 32, and its outputs."""
_TOKENS, _HEADS, _HEAD_DIM = 520, 2, 16
"""Of attention: enough keys for a kernel that cuts them into blocks by the cache."""
_DIGITS = 12
"""Hexadecimal digits of a class's name."""


@functools.cache
def onnx_class() -> str:
    """The class of ONNX Runtime's CPU kernels on this machine, on one thread."""
    digest = hashlib.sha256()
    for name, output in sorted(_run(_everything()).items()):
        digest.update(name.encode() + np.ascontiguousarray(output).tobytes())
    return digest.hexdigest()[:_DIGITS]


@functools.cache
def torch_class() -> str:
    """The class of PyTorch's CPU kernels on this machine, on as many threads as torch has."""
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        weight = torch.from_numpy(_numbers(_OUTER, _INNER))
        several = torch.from_numpy(_numbers(_ROWS[1], _INNER))
        outputs = [torch.from_numpy(_numbers(rows, _INNER)) @ weight.T for rows in _ROWS]
        outputs += [several.half() @ weight.half().T, several.bfloat16() @ weight.bfloat16().T]
        outputs += [functional.softmax(several, -1), functional.gelu(several), functional.silu(several)]
        outputs += [torch.tanh(several), functional.layer_norm(several, (_INNER,)), several.square().mean(-1)]
        query, key = (torch.from_numpy(_numbers(1, _HEADS, _TOKENS, _HEAD_DIM, seed=seed)) for seed in (1, 2))
        outputs.append(functional.scaled_dot_product_attention(query, key, key, is_causal=True))
        digest = hashlib.sha256()
        for output in outputs:
            digest.update(output.float().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


@functools.cache
def saturates() -> bool:
    """Say whether the kernels of u8 x s8 add pairs of products in 16 bits here, as AVX2 without VNNI does."""
    left = np.full((_ROWS[1], _INNER), 255, np.uint8)
    right = np.full((_INNER, _OUTER), 127, np.int8)
    (product,) = _run(_graph([("MatMulInteger", ["left", "right"], {})], {"right": right}), left=left).values()
    return not bool(np.all(product == 255 * 127 * _INNER))


def _numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Fixed numbers between -1 and 1 by a linear congruential generator, the same with every version of numpy."""
    count = int(np.prod(shape))
    index = np.arange(count, dtype=np.uint64) + np.uint64(seed * 1_000_003)
    mixed = (index * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> np.uint64(40)
    return (mixed.astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def _integers(*shape: int, low: int, high: int, seed: int = 0) -> NDArray[np.int64]:
    spread: NDArray[np.float32] = (_numbers(*shape, seed=seed) + 1) / 2 * (high - low) + low
    return np.rint(spread).astype(np.int64)


def _everything() -> onnx.ModelProto:
    """A graph without inputs, in which every operator that artifacts are made of computes one output."""
    microsoft = {"domain": "com.microsoft"}
    constants: dict[str, NDArray[Any]] = {
        "weight": _numbers(_INNER, _OUTER),
        "signed": _integers(_INNER, _OUTER, low=-60, high=60).astype(np.int8),
        "unsigned": _integers(_INNER, _OUTER, low=1, high=255).astype(np.uint8),
        "scales": np.abs(_numbers(_OUTER, seed=3)) + np.float32(0.1),
        "signed_zero": np.zeros(_OUTER, np.int8),
        "unsigned_zero": np.full(_OUTER, 128, np.uint8),
        "step": np.array(0.011, np.float32),
        "middle": np.array(121, np.uint8),
        "gain": _numbers(_INNER, seed=4),
        "packed4": _integers(_OUTER, _INNER // 32, 16, low=0, high=255).astype(np.uint8),
        "packed8": _integers(_OUTER, _INNER // 32, 32, low=0, high=255).astype(np.uint8),
        "block_scales": np.abs(_numbers(_OUTER, _INNER // 32, seed=5)) + np.float32(0.01),
        "codes": _integers(_INNER * _OUTER // 2, low=0, high=255).astype(np.uint8),
        "peaks": np.abs(_numbers(_INNER * _OUTER // 64, seed=6)) + np.float32(0.01),
        "query": _numbers(1, _TOKENS, _HEADS * _HEAD_DIM, seed=7),
        "past": np.zeros((1, _HEADS, 0, _HEAD_DIM), np.float32),
        "last": np.array([_TOKENS - 1], np.int32),
        "total": np.array(_TOKENS, np.int32),
    }
    nodes: list[tuple[str, list[str], dict[str, Any]]] = []
    for rows in _ROWS:
        name = f"rows{rows}"
        constants[name] = _numbers(rows, _INNER, seed=8)
        constants[f"{name}_u8"] = _integers(rows, _INNER, low=0, high=255, seed=9).astype(np.uint8)
        nodes += [
            ("MatMul", [name, "weight"], {}),
            ("DynamicQuantizeMatMul", [name, "signed", "scales", "signed_zero"], microsoft),
            ("DynamicQuantizeMatMul", [name, "unsigned", "scales", "unsigned_zero"], microsoft),
            (
                "QLinearMatMul",
                [f"{name}_u8", "step", "middle", "signed", "scales", "signed_zero", "step", "middle"],
                {},
            ),
            ("MatMulBnb4", [name, "codes", "peaks"], {**microsoft, **_SIZES, "block_size": 64, "quant_type": 1}),
        ]
        nodes += [
            (
                "MatMulNBits",
                [name, f"packed{bits}", "block_scales"],
                {**microsoft, **_SIZES, "bits": bits, "block_size": 32, "accuracy_level": level},
            )
            for bits in (4, 8)
            for level in (1, 4)
        ]
    several = f"rows{_ROWS[1]}"
    nodes += [(op, [several], {}) for op in ("Softmax", "Gelu", "Sigmoid", "Tanh", "Erf", "Exp")]
    nodes += [("LayerNormalization", [several, "gain"], {}), ("SimplifiedLayerNormalization", [several, "gain"], {})]
    attention = ["query", "query", "query", "past", "past", "last", "total"]
    heads = {"num_heads": _HEADS, "kv_num_heads": _HEADS, "scale": 0.25}
    nodes.append(("GroupQueryAttention", attention, {**microsoft, **heads}))
    return _graph(nodes, constants)


_SIZES = {"K": _INNER, "N": _OUTER}


def _graph(nodes: list[tuple[str, list[str], dict[str, Any]]], constants: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """A model with one output for each node; names that are no constants are its inputs."""
    from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

    made = []
    for number, (op, inputs, attributes) in enumerate(nodes):
        outputs = [f"{op}_{number}"] + (
            [f"{op}_{number}_{part}" for part in ("key", "value")] if "past" in inputs else []
        )
        made.append(helper.make_node(op, inputs, outputs, **attributes))
    given = sorted({name for _, inputs, _ in nodes for name in inputs} - constants.keys())
    graph = helper.make_graph(
        made,
        "kernels",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, [None, None]) for name in given],
        [ValueInfoProto(name=node.output[0]) for node in made],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _run(model: onnx.ModelProto, **feeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Or ONNX Runtime computes a graph of constants while it loads it, by other kernels.
    options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
