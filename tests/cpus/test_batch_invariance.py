"""Products with a range for each token have the same bits in any batch, on emulated CPUs too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cpus.emulator import CPUS, QEMU, ROOT, missing

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cpu", CPUS.values(), ids=CPUS)
def test_products_have_the_same_bits_alone_in_a_batch_and_in_a_prefix(per_token_twin, cpu):
    if reason := missing():
        pytest.skip(reason)
    artifact = per_token_twin(channels=True).path
    done = subprocess.run(
        [QEMU, "-cpu", cpu.model, sys.executable, "-m", "tests.products", artifact],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_CORETYPE": cpu.blas, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
