from __future__ import annotations

import subprocess
import sys

import pytest

from qexport.core import cpu
from qexport.runtime import kernels
from tests import kernel_graph


def test_the_graph_in_the_package_is_the_one_that_the_script_writes():
    assert kernel_graph.FILE.read_bytes() == kernel_graph.graph()


def test_every_kernel_of_artifacts_is_in_the_graph():
    from qexport.runtime.session import INTEGER_MATMULS, QUANTIZED_KERNELS

    there = {op for op, _, _ in kernel_graph.nodes()}
    assert there & INTEGER_MATMULS
    assert {"MatMulNBits", "MatMulBnb4"} <= there
    assert QUANTIZED_KERNELS.keys() == {"integer_matmuls", "block_matmuls", "block_lookups", "bnb4_matmuls"}


def _class_of(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", ["onnx_class", "torch_class"])
def test_a_class_is_the_same_in_another_process(name):
    code = f"from qexport.runtime import kernels; print(kernels.{name}())"
    assert _class_of(code) == getattr(kernels, name)()


def test_a_class_follows_what_a_kernel_computes(monkeypatch):
    before = kernels.onnx_class()
    outputs = dict(kernels._outputs())
    name = next(name for name in outputs if name.startswith("Softmax"))
    outputs[name] = outputs[name] * 1.0000001
    monkeypatch.setattr(kernels, "_outputs", lambda: outputs)
    assert kernels.onnx_class.__wrapped__() != before


def test_kernels_saturate_where_their_product_is_not_the_exact_one():
    if not cpu.has_vnni():
        pytest.skip("the flags of this CPU do not say what its kernels do")
    assert not kernels.saturates()  # an emulated CPU shows the flags of its host: tests/cpus has it


def test_the_probe_needs_no_onnx():
    code = "import sys; from qexport.runtime import kernels; kernels.onnx_class(); print('onnx' in sys.modules)"
    assert _class_of(code) == "False"
