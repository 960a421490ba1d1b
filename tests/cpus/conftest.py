from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qexport import exporting, quantization
from qexport.gating.budgets import GatePlan
from qexport.inputs.text import load_text
from qexport.measurement import probing
from qexport.quantization.recipes import RECIPES
from tests.cpus.emulator import CPUS, Emulated, missing

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = ROOT / "models" / "reference" / "held_out_calibration.jsonl"
ROWS = {
    "int8-dynamic": ("int8-dynamic", {}),
    "int8-static": ("int8-static", {}),
    "w8a16-rtn": ("w8a16-rtn", {}),
    "w8a16-rtn-float": ("w8a16-rtn", {"compute": "float"}),
    "w4a16-rtn": ("w4a16-rtn", {}),
    "w4a16-gptq": ("w4a16-gptq", {}),
    "nf4": ("nf4", {}),
    "fp8": ("fp8", {}),
}
"""Recipe and options of each row but fp32."""


WINDOWS, LENGTH = 12, 20
"""Few tokens, since an emulated AVX2 takes a tenth of a second for each."""
BUDGETS = {
    "drift": {"at_most": 0.0002, "of": "baseline"},
    "perplexity": {"at_most": 1.0005, "of": "baseline"},
    "disk_bytes": {"at_most": 1.01, "of": "baseline"},
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """All tests of an emulated CPU run in one worker, which remembers what was measured there."""
    for item in items:
        if "emulated" in getattr(getattr(item, "callspec", None), "params", {}):
            item.add_marker(pytest.mark.xdist_group(item.callspec.params["emulated"]))


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> dict[str, Path]:
    """The bundled model in every arithmetic, made on this CPU."""
    folder = tmp_path_factory.mktemp("rows")
    made = {"fp32": exporting.export("reference", folder / "fp32").path}
    for name, (recipe, options) in ROWS.items():
        text = load_text(CALIBRATION) if RECIPES[recipe].scheme.calibration else None
        made[name] = quantization.quantize(
            str(made["fp32"]), folder / name, recipe_name=recipe, options=options, text=text
        ).path
    return made


@pytest.fixture(scope="session", params=list(CPUS))
def emulated(request) -> Iterator[Emulated]:
    """A process on an emulated CPU."""
    if reason := missing():
        pytest.skip(reason)
    process = Emulated(CPUS[request.param])
    yield process
    process.close()


@contextmanager
def measured_on(emulated: Emulated) -> Iterator[None]:
    """Measurements come from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "_ask_child", emulated.ask)
        yield


@pytest.fixture(scope="session")
def short_plan(tmp_path_factory) -> GatePlan:
    """A text of so many windows."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    documents = load_text(ROOT / "models" / "reference" / "held_out_evaluation.jsonl").documents
    text.write_text("\n<|endoftext|>\n".join(" ".join(each.split()[:10]) for each in documents[:WINDOWS]))
    return GatePlan.model_validate({"budgets": BUDGETS, "text": text, "window": LENGTH})
