"""Decoders small enough to work out by hand, as ONNX text, and artifacts made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from qexport.core.artifact import Artifact, Manifest, ModelInfo, QuantizedNode, load_artifact, new_artifact

WIDTH = 32
VOCAB = 24

BIGRAM = """
<ir_version: 10, opset_import: ["" : 21]>
bigram (int64[batch_size, sequence_length] input_ids) => (float[batch_size, sequence_length, vocab] logits) {
  logits = Gather (table, input_ids)
}
"""

WITH_PAST = """
<ir_version: 10, opset_import: ["" : 21]>
decoder (int64[batch_size, sequence_length] input_ids, int64[batch_size, total_sequence_length] attention_mask,
         int64[batch_size, sequence_length] position_ids,
         float[batch_size, 2, past_sequence_length, 3] "past_key_values.0.key",
         float[batch_size, 2, past_sequence_length, 3] "past_key_values.0.value")
    => (float[batch_size, sequence_length, vocab] logits) { logits = Gather (table, input_ids) }
"""

QDQ = """
<ir_version: 10, opset_import: ["" : 21]>
qdq (int64[batch_size, sequence_length] input_ids) => (float[batch_size, sequence_length, vocab] logits) {
  x = Gather (embedding, input_ids)
  xq = QuantizeLinear (x, x_scale, x_zero)
  xd = DequantizeLinear (xq, x_scale, x_zero)
  wd = DequantizeLinear <axis = 1> (weight, w_scale)
  logits = MatMul (xd, wd)
}
"""

# The Relu between DequantizeLinear and MatMul keeps ONNX Runtime from multiplying integers.
UNFUSED = QDQ.replace("MatMul (xd, wd)", "MatMul (xr, wd)").replace("wd =", "xr = Relu (xd)\n  wd =")


def bigram(table: np.ndarray) -> onnx.ModelProto:
    """Logits are rows of ``table`` ``[vocab, vocab]``: the next token depends on the last one alone."""
    return _with(BIGRAM, table=table.astype(np.float32))


def quantized(text: str = QDQ) -> onnx.ModelProto:
    """One INT8 MatMul, 8-bit activations: the next token's logits are ``embedding[token] @ weight``."""
    rng = np.random.default_rng(0)
    return _with(
        text,
        embedding=rng.standard_normal((VOCAB, WIDTH)).astype(np.float32),
        weight=rng.integers(-127, 128, (WIDTH, VOCAB)).astype(np.int8),
        w_scale=np.full(VOCAB, 0.01, np.float32),
        x_scale=np.float32(0.03),
        x_zero=np.uint8(128),
    )


QUANTIZED_NODE = QuantizedNode(
    name="lm_head/MatMul", weight="lm_head.weight", weight_dtype="int8", per_channel=True, activation="static"
)


def save(folder: Path, model: onnx.ModelProto, *nodes: QuantizedNode, kind: str = "onnx") -> Artifact:
    """An artifact that holds ``model`` and names ``nodes`` as quantized."""
    weight_bytes = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    info = ModelInfo(name="hand-made", weights_sha256="0" * 64, architecture="none", parameters=1)
    with new_artifact(folder) as draft:
        onnx.save(model, draft.path / "model.onnx")
        draft.finish(
            Manifest(schema=1, kind=kind, model=info, recipe="fp32", quantized=nodes, weight_bytes=weight_bytes)
        )
    return load_artifact(folder)


def _with(text: str, **values: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    return model
