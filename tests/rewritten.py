"""A scheme applied to an artifact, as the pipeline applies it."""

from __future__ import annotations

from qexport.core.float_graph import FloatGraph
from qexport.quantization.rewriting import rewrite


def apply(scheme, parent, selection, folder, *, tokens):
    return rewrite(scheme, FloatGraph.read(parent), selection, folder, tokens=tokens)
