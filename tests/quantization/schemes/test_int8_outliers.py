"""Really trained models with activation outliers injected: naive INT8 collapses on them, INT8 with forms does not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qexport.core.selection import parse_selector, weight_nodes
from qexport.quantization.schemes.int8 import Dynamic, Int8, Static
from qexport.runtime.onnx_session import OrtSession
from tests.outliers import save_outlier_twin
from tests.rewritten import apply

REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"
WAYS = {"static": Static(), "dynamic": Dynamic(), "per-token": Dynamic(per_token=True)}
MODELS = ("stories", "reference")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-outliers"))


def perplexity(path, windows):
    """exp(sum NLL / sum tokens), a plain second implementation."""
    session = OrtSession(path, threads=1)
    nll, count = 0.0, 0
    for ids in windows.sequences:
        rows = session.logits(ids[None])[0, :-1].astype(np.float64)
        top = rows.max(axis=1)
        total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
        nll += float((total - rows[np.arange(len(rows)), ids[1:]]).sum())
        count += len(rows)
    return math.exp(nll / count)


@pytest.fixture(scope="module", params=MODELS)
def twin(request, tmp_path_factory):
    """A model with outliers as an fp32 artifact, its calibration and evaluation windows, and its perplexity."""
    from qexport import exporting
    from qexport.inputs.models import load_tokenizer, locate_model
    from qexport.inputs.text import Text, load_text, make_windows

    if request.param == "stories":
        data = request.getfixturevalue("data_dir")
        source = data / "models" / "stories260K"
        stories = load_text(data / "text" / "tinystories_500.json").documents
        texts = stories[:64], stories[-50:]
    else:
        source = REFERENCE
        texts = tuple(load_text(source / f"held_out_{name}.jsonl").documents for name in ("calibration", "evaluation"))
    folder = tmp_path_factory.mktemp(request.param)
    parent = exporting.export_source(
        locate_model(save_outlier_twin(source, folder / "source")), folder / "fp32", "fused"
    )
    tokenizer = load_tokenizer(locate_model(source))
    calibration, evaluation = (
        make_windows(Text("a test", tuple(text)), tokenizer, window=384, limit=None) for text in texts
    )
    return parent, calibration, evaluation, perplexity(parent.onnx_path, evaluation)


def ratio(twin, folder, scheme):
    parent, calibration, evaluation, exact = twin
    selection = parse_selector("all").select(weight_nodes(ir.load(parent.onnx_path)))
    folder.mkdir()
    apply(scheme, parent, selection, folder, tokens=calibration)
    return perplexity(folder / "model.onnx", evaluation) / exact


@pytest.mark.parametrize(("way", "most"), [("static", 1.015), ("dynamic", 1.01), ("per-token", 1.006)])
def test_forms_hold_where_naive_rounding_collapses(twin, tmp_path, way, most):
    chosen, naive = (
        ratio(twin, tmp_path / str(on), Int8(activations=WAYS[way], smooth=on, outlier_channels=on, engine="ort"))
        for on in (True, False)
    )
    assert 0.98 < chosen <= most
    assert naive > 1.1
