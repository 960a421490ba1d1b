"""A server that answers for days must not grow: onnxruntime keeps statistics for each run of a session that was profiled."""

from __future__ import annotations

import subprocess
import sys

import pytest

ANSWERS = """
import sys
from pathlib import Path
from qexport.core import ram
from qexport.serving.server import load

served = load(Path(sys.argv[1]), provider="cpu", threads=2)

def answer(times):
    for _ in range(times):
        list(served.worker._writer.write([(5, 6, 7, 8)], new_tokens=16))

answer(200)
before = ram.rss_bytes()
answer(400)
print((ram.rss_bytes() - before) / 400)
"""


@pytest.mark.slow
def test_answers_leave_nothing_in_memory(fp32):
    """1,400 to 4,900 bytes an answer stayed before."""
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(fp32("llama").path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 500
