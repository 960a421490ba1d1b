"""Offline and seeded, for every test."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from qexport.core import cpu

cpu.tune_blas()  # as the command line does

import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
NETWORK = os.environ.get("QEXPORT_NETWORK") == "1"

pytest_plugins = ["tests.fixtures", "tests.gated"] if (ROOT / "tests" / "fixtures.py").is_file() else []

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER is not None and hasattr(os, "sched_setaffinity"):
    # A processor for each worker: runtimes that wait by spinning on two would stand in each other's way.
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {usable[int(WORKER.removeprefix("gw")) % len(usable)]})

if not NETWORK:  # both are read when the libraries are imported, so they are set before any test is
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_child: measures in fresh processes and exports anew, as users do")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = None if _gpu_ready() else pytest.mark.skip(reason="no CUDA device with onnxruntime-gpu here")
    no_network = None if NETWORK else pytest.mark.skip(reason="set QEXPORT_NETWORK=1 to use the Hugging Face hub")
    for item in items:
        if no_gpu is not None and "gpu" in item.keywords:
            item.add_marker(no_gpu)
        if no_network is not None and "network" in item.keywords:
            item.add_marker(no_network)


def _gpu_ready() -> bool:
    from qexport.core import cuda

    if not cuda.device_names():
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries still draw from the global generator)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _exports_are_kept() -> Iterator[None]:
    from tests import exports

    with exports.keeping():
        yield


@pytest.fixture(autouse=True)
def _quick_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test marked ``real_child`` goes the ways that users go."""
    with pytest.MonkeyPatch.context() as patch:
        if "real_child" in request.keywords:
            from qexport.exporting import exporter, pipeline

            patch.setattr(pipeline, "export_model", exporter.export_model)
        else:
            from tests import in_process

            in_process.install(patch)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real models and text, which the repository does not hold."""
    folder = Path(os.environ.get("QEXPORT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no data: point QEXPORT_DATA at a folder with models/ and text/")
    return folder
