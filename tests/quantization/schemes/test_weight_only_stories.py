"""A really trained model: what weight-only quantization costs it on stories that it was not calibrated on."""

from __future__ import annotations

import math

import onnx_ir as ir
import pytest

from qexport.core.selection import parse_selector, weight_nodes
from qexport.measurement.metrics.perplexity import sequence_nll
from qexport.quantization.recipes import recipe
from qexport.runtime.onnx_session import OrtSession
from tests.rewritten import apply

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def windows(data_dir):
    from qexport.inputs.models import load_tokenizer, locate_model
    from qexport.inputs.text import Text, load_text, make_windows

    stories = load_text(data_dir / "text" / "tinystories_500.json").documents
    tokenizer = load_tokenizer(locate_model(data_dir / "models" / "stories260K"))
    return {
        name: make_windows(Text(name, documents), tokenizer, window=512, limit=None)
        for name, documents in {"calibration": stories[:64], "evaluation": stories[-100:]}.items()
    }


@pytest.fixture(scope="module")
def loss(data_dir, windows, tmp_path_factory):
    """``loss("w4a16-gptq")`` is the ratio of perplexity to fp32, less one, of the whole model."""
    from qexport import exporting
    from qexport.inputs.models import locate_model

    work = tmp_path_factory.mktemp("stories")
    parent = exporting.export_source(locate_model(data_dir / "models" / "stories260K"), work / "fp32", "fused")
    selection = parse_selector("all").select(weight_nodes(ir.load(parent.onnx_path)))

    def perplexity(path):
        session = OrtSession(path, threads=1)
        sequences = windows["evaluation"].sequences
        nll = sum(sequence_nll(session.logits(ids[None])[0], ids) for ids in sequences)
        return math.exp(nll / sum(len(ids) - 1 for ids in sequences))

    exact = perplexity(parent.onnx_path)

    def measured(name, **options):
        scheme = recipe(name).configured(options).scheme
        folder = work / "-".join((name, *options.values()))
        folder.mkdir()
        apply(scheme, parent, selection, folder, tokens=windows["calibration"] if scheme.calibration else None)
        return perplexity(folder / "model.onnx") / exact - 1

    return measured


def test_eight_bits_cost_next_to_nothing(loss):
    assert abs(loss("w8a16-rtn", compute="float")) <= 0.001
    assert abs(loss("w8a16-rtn")) <= 0.003  # activations are rounded too


def test_gptq_makes_good_two_fifths_of_what_rounding_loses(loss):
    rounded = loss("w4a16-rtn")
    assert 0.05 < rounded < 0.15
    assert loss("w4a16-gptq") <= 0.6 * rounded
