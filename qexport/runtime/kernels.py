"""The class of a machine's kernels, by their results.

Two CPUs are of one class if the kernels that run artifacts give the same bits for the same inputs. CPU flags do not
show that: kernels also depend on the size of caches, and an emulator shows the flags of its host. So a small graph with
every operator of qexport's artifacts runs, and the class is a digest of its outputs. The graph is kernels.onnx beside
this file, which tests/kernel_graph.py writes: a process that measures an artifact does not import onnx.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = (1, 7)
"""Rows of a product's left factor: one token and several tokens have different kernels."""
INNER, OUTER = 160, 16
"""Inner length and number of outputs of a product. The inner length is a multiple of 32 and longer than the 128 that
kernels add at a time."""
TOKENS, HEADS, HEAD_DIM = 520, 2, 16
"""Sizes of attention: enough keys for a kernel that cuts them into blocks by cache size."""
SATURATING = "saturating"
"""Name of the output whose every factor is 255 times 127."""
_GRAPH = Path(__file__).with_name("kernels.onnx")
_DIGITS = 12
"""Number of hexadecimal digits in a class's name."""


@functools.cache
def onnx_class() -> str:
    """The class of ONNX Runtime's CPU kernels on this machine, on one thread."""
    digest = hashlib.sha256()
    for name, output in sorted(_outputs().items()):
        digest.update(name.encode() + np.ascontiguousarray(output).tobytes())
    return digest.hexdigest()[:_DIGITS]


@functools.cache
def saturates() -> bool:
    """True if the u8 x s8 kernels add pairs of products in 16 bits here, as AVX2 without VNNI does."""
    return not bool(np.all(_outputs()[SATURATING] == 255 * 127 * INNER))


@functools.cache
def torch_class() -> str:
    """The class of PyTorch's CPU kernels on this machine, on as many threads as torch has."""
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        weight = torch.from_numpy(numbers(OUTER, INNER))
        several = torch.from_numpy(numbers(ROWS[1], INNER, seed=1))
        outputs = [torch.from_numpy(numbers(rows, INNER, seed=2)) @ weight.T for rows in ROWS]
        outputs += [several.half() @ weight.half().T, several.bfloat16() @ weight.bfloat16().T]
        outputs += [functional.softmax(several, -1), functional.gelu(several), functional.silu(several)]
        outputs += [torch.tanh(several), functional.layer_norm(several, (INNER,)), several.square().mean(-1)]
        query, key = (torch.from_numpy(numbers(1, HEADS, TOKENS, HEAD_DIM, seed=seed)) for seed in (3, 4))
        outputs.append(functional.scaled_dot_product_attention(query, key, key, is_causal=True))
        digest = hashlib.sha256()
        for output in outputs:
            digest.update(output.float().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Fixed numbers between -1 and 1 by a linear congruential generator, the same with every version of numpy."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 1_000_003)
    mixed = (index * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> np.uint64(40)
    return (mixed.astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def integers(*shape: int, low: int, high: int, seed: int = 0) -> NDArray[np.int64]:
    """Fixed whole numbers from ``low`` to ``high``, made in the same way."""
    spread: NDArray[np.float32] = (numbers(*shape, seed=seed) + 1) / 2 * (high - low) + low
    return np.rint(spread).astype(np.int64)


def feeds() -> dict[str, NDArray[np.generic]]:
    """The inputs of the graph."""
    found: dict[str, NDArray[np.generic]] = {}
    for rows in ROWS:
        found[f"float{rows}"] = numbers(rows, INNER, seed=8)
        found[f"byte{rows}"] = integers(rows, INNER, low=0, high=255, seed=9).astype(np.uint8)
    found["largest"] = np.full((ROWS[1], INNER), 255, np.uint8)
    found["query"] = numbers(1, TOKENS, HEADS * HEAD_DIM, seed=7)
    found["past"] = np.zeros((1, HEADS, 0, HEAD_DIM), np.float32)
    found["last"], found["total"] = np.array([TOKENS - 1], np.int32), np.array(TOKENS, np.int32)
    return found


@functools.cache
def _outputs() -> dict[str, NDArray[np.generic]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds()), strict=True))
