"""Export through transformers' attention interface: every attention layer becomes one GroupQueryAttention node."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qexport.export.signature import Signature

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from transformers import PreTrainedModel

_ATTENTION = "qexport_group_query_attention"
