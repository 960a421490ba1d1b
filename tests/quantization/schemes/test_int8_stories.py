"""A really trained model: what INT8 costs it on stories that it was not calibrated on."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import onnx_ir as ir
import pytest

from qexport.core.selection import parse_selector, weight_nodes
from qexport.quantization.schemes.int8 import Dynamic, Int8, Static
from qexport.runtime.onnx_session import OrtSession
from tests.rewritten import apply

WINDOW = 512
WAYS = {"static": Static(), "dynamic": Dynamic()}
INC_HERE = importlib.util.find_spec("neural_compressor") is not None
ENGINES = [
    "ort",
    pytest.param("inc", marks=pytest.mark.skipif(not INC_HERE, reason="neural-compressor is not installed")),
]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-stories"))


def perplexity(score, windows):
    """exp(sum NLL / sum tokens), a plain second implementation."""
    nll, count = 0.0, 0
    for ids in windows.sequences:
        rows = score(ids[None])[0, :-1].astype(np.float64)
        top = rows.max(axis=1)
        total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
        nll += float((total - rows[np.arange(len(rows)), ids[1:]]).sum())
        count += len(rows)
    return math.exp(nll / count)


@pytest.fixture(scope="module")
def source(data_dir):
    from qexport.inputs.models import locate_model

    return locate_model(data_dir / "models" / "stories260K")


@pytest.fixture(scope="module")
def windows(data_dir, source):
    from qexport.inputs.models import load_tokenizer
    from qexport.inputs.text import Text, load_text, make_windows

    stories = load_text(data_dir / "text" / "tinystories_500.json").documents
    tokenizer = load_tokenizer(source)

    def cut(documents, origin):
        return make_windows(Text(origin, documents), tokenizer, window=WINDOW, limit=None)

    return {"calibration": cut(stories[:64], "first"), "evaluation": cut(stories[-100:], "last")}


@pytest.fixture(scope="module")
def parent(source, tmp_path_factory):
    from qexport import exporting

    return exporting.export_source(source, tmp_path_factory.mktemp("stories") / "fp32", "fused")


@pytest.fixture(scope="module")
def exact(parent, windows):
    session = OrtSession(parent.onnx_path, threads=1)
    return perplexity(session.logits, windows["evaluation"])


def test_the_export_scores_as_torch_does(source, windows, exact):
    import torch

    from qexport.inputs.models import load_torch_model

    model = load_torch_model(source)

    def score(ids):
        with torch.no_grad():
            return model(torch.from_numpy(ids)).logits.numpy()

    assert exact == pytest.approx(perplexity(score, windows["evaluation"]), rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("way", "nodes", "most"),
    [
        ("dynamic", "all", 1.009),
        ("static", "all", 1.01),
        ("dynamic", "attention", 1.004),
        ("static", "attention", 1.004),
    ],
)
def test_ratio_to_fp32(parent, windows, exact, tmp_path, *, engine, way, nodes, most):
    selection = parse_selector(nodes).select(weight_nodes(ir.load(parent.onnx_path)))
    scheme = Int8(activations=WAYS[way], engine=engine)
    apply(scheme, parent, selection, tmp_path, tokens=windows["calibration"])
    ratio = perplexity(OrtSession(tmp_path / "model.onnx", threads=1).logits, windows["evaluation"]) / exact
    assert 0.99 < ratio <= most
