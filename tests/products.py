"""The INT8 products of an artifact as graphs of their own: an activation goes in, and the product with all parts comes out.

``python -m tests.products ARTIFACT`` prints the products whose bits depend on the tokens beside a token. A test runs this
on emulated CPUs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.utils import Extractor

from qexport.core.artifact import Artifact, QuantizedNode, load_artifact

Product = Callable[[NDArray[np.float32]], NDArray[np.float32]]

ROWS, TOKENS = 4, 40
PREFIXES = (1, 2, 3, 7, 16, 17, 33)
"""Kernels multiply rows in groups of several sizes, and a single row by other code."""


def products(artifact: Artifact) -> Iterator[tuple[QuantizedNode, int, Product]]:
    """Each product whose activation is rounded: its node, the width of its activation, and the function."""
    model = onnx.load(artifact.path / "model.onnx")
    producers = {name: node for node in model.graph.node for name in node.output}
    widths = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 2}
    for node in artifact.manifest.quantized:
        if node.activation == "none":
            continue
        matmul = next(part for part in model.graph.node if part.name == node.name)
        added = [part for part in model.graph.node if part.name.startswith(f"{node.name}/after/")]
        source, result = _source(producers, matmul.input[0]), added[-1].output[0]
        weight = producers[matmul.input[1]].input[0]
        for name in (source, result):
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        graph = Extractor(model).extract_model([source], [result])
        yield node, widths[weight], _function(graph)


def _source(producers: dict[str, onnx.NodeProto], name: str) -> str:
    """The activation before it is rounded, divided and masked."""
    while producers[name].op_type in {"QuantizeLinear", "DequantizeLinear", "Div"}:
        name = producers[name].input[0]
    masked = producers[name].op_type == "Mul" and producers[name].input[1].endswith("/mask")
    return producers[name].input[0] if masked else name


def _function(graph: onnx.ModelProto) -> Product:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (given,) = (value.name for value in session.get_inputs())
    return lambda rows: np.asarray(session.run(None, {given: rows})[0])


def depending(artifact: Artifact) -> list[str]:
    """The products that give a token other bits in a batch than without the tokens beside it and after it."""
    rng = np.random.default_rng(0)
    found = []
    for node, width, product in products(artifact):
        peaks = rng.uniform(0.1, 50.0, (ROWS, TOKENS, 1))
        batch = (peaks * rng.standard_normal((ROWS, TOKENS, width))).astype(np.float32)
        batch[..., list(node.float_channels)] *= 100.0
        together = product(batch)
        alone = all(
            np.array_equal(product(batch[row : row + 1, :length]), together[row : row + 1, :length])
            for row in range(ROWS)
            for length in (*PREFIXES, TOKENS)
        )
        if not alone:
            found.append(node.name)
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(depending(load_artifact(Path(sys.argv[1])))))
