"""Closed sets of names that users type, read by the command line and by the rooms alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Provider = Literal["cpu", "cuda"]
"""ONNX Runtime's execution provider, or PyTorch's device."""
Exporter = Literal["fused", "fused-cuda", "optimum"]
"""The form of an exported graph; see :mod:`qexport.exporting.exporter`."""
TargetName = Literal["cpu", "cuda", "tensorrt", "web"]
"""The place where an artifact is to run: onnxruntime on a CPU, its CUDA provider, TensorRT, or onnxruntime-web."""
RuntimeName = Literal["optimum", "genai", "transformersjs", "triton", "kserve"]
"""The runtime whose folder ``qexport deploy`` writes."""


def names_in(given: str | Iterable[str]) -> list[str]:
    """The names that a user gave: a list, or one string joined by commas as on the command line.

    >>> names_in("fp32, nf4"), names_in(["fp32"])
    (['fp32', 'nf4'], ['fp32'])
    """
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
