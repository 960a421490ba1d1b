"""Adds an input ``num_logits_to_keep``: the number of last positions that get logits. Generation needs only one.

Transformers.js feeds it if a graph has it. At GPT-2's shapes a prompt of 256 tokens is then answered 1.5 times as fast
(docs/deploy).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qexport.core import ContractError

if TYPE_CHECKING:
    import onnx

NAME = "num_logits_to_keep"
_LOGITS = "logits"
_BY_POSITION = frozenset(
    {"Add", "Cast", "DequantizeLinear", "Div", "MatMul", "MatMulBnb4", "MatMulNBits", "Mul", "QuantizeLinear", "Tanh"}
)
"""Operators that compute each position independently if all their other inputs are constant."""
_PROBE = 5
"""The tokens of the prompt that both graphs run on."""
_TOLERANCE = 0.005
"""The tolerance relative to the largest logit. Kernels for one position sum in another order: the difference is 0.0004
in float16, and below 0.000001 in the other recipes."""


def keep_last_logits(path: Path) -> bool:
    """Add the input to a graph, by a Slice before its output head, and check that its logits stay the same.

    Args:
        path: the ONNX file, which is replaced. Weights in a separate file stay there.

    Returns:
        True if the input was added. If ranges are taken over all positions at once (dynamic INT8), the logits would
        change, and the file stays unchanged.

    Raises:
        ContractError: the graph with the input gives other logits.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    head = _head(model)
    if not head:
        return False
    before = path.with_name(f"{path.name}.all")
    path.rename(before)
    _insert(model, head)
    path.write_bytes(model.SerializeToString(deterministic=True))
    _check(before, path)
    before.unlink()
    return True


def _head(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes from the last hidden state to the logits, last first; empty if they are not a plain chain."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for node in model.graph.node if set(node.input) <= constants for name in node.output}
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = [name for node in model.graph.node for name in node.input]
    head: list[onnx.NodeProto] = []
    name, matmul = _LOGITS, 0
    while (node := producers.get(name)) is not None and node.op_type in _BY_POSITION:
        computed = [read for read in node.input if read and read not in constants]
        if len(computed) != 1 or (name != _LOGITS and readers.count(name) > 1):
            break
        head.append(node)
        if node.op_type.startswith("MatMul"):
            matmul = len(head)
        elif matmul and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            head.pop()
            break
        name = computed[0]
    return head if matmul else []


def _insert(model: onnx.ModelProto, head: list[onnx.NodeProto]) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph, first = model.graph, head[-1]
    constants = {tensor.name for tensor in graph.initializer}
    place = next(index for index, name in enumerate(first.input) if name and name not in constants)
    hidden = first.input[place]
    values = {"shape": [1], "end": [np.iinfo(np.int64).max], "axis": [1]}
    for name, value in values.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"{NAME}/{name}"))
    # The slice begins at -n; with 0, at the first position.
    new = [
        helper.make_node("Reshape", [NAME, f"{NAME}/shape"], [f"{NAME}/count"], f"{NAME}/Reshape"),
        helper.make_node("Neg", [f"{NAME}/count"], [f"{NAME}/start"], f"{NAME}/Neg"),
        helper.make_node(
            "Slice", [hidden, f"{NAME}/start", f"{NAME}/end", f"{NAME}/axis"], [f"{NAME}/kept"], f"{NAME}/Slice"
        ),
    ]
    index = list(graph.node).index(first)
    first.input[place] = f"{NAME}/kept"
    for offset, node in enumerate(new):
        graph.node.insert(index + offset, node)
    graph.input.append(helper.make_tensor_value_info(NAME, TensorProto.INT64, []))
    changed = {name for node in head for name in node.output}
    for value in (*graph.output, *graph.value_info):
        if value.name in changed:
            value.type.tensor_type.shape.dim[1].dim_param = NAME


def _check(before: Path, after: Path) -> None:
    """Compare both graphs on a few tokens: all logits, and the last."""
    from qexport.runtime import OrtSession, decoder_feeds

    ids = np.arange(_PROBE, dtype=np.int64)[None]
    old, new = OrtSession(before, threads=1), OrtSession(after, threads=1)
    feeds = decoder_feeds(old.inputs, ids, None)
    wanted = old.run(feeds, [_LOGITS])[_LOGITS]
    for count in (0, 1):
        found = new.run({**feeds, NAME: np.array(count, np.int64)}, [_LOGITS])[_LOGITS]
        expected = wanted[:, -count:]
        # In this form NaN counts as a difference.
        if found.shape != expected.shape or not np.abs(found - expected).max() <= _TOLERANCE * np.abs(wanted).max():
            raise ContractError(f"{after.name}: with {NAME} the graph gives other logits; this is a fault of qexport")
