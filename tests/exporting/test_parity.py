"""A weight that is wrong by 1 % is found in every architecture and by both exporters, one element moved by a twentieth of its
spread too; a model that is noisy in float32 passes where the graph is right.
"""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qexport.core.errors import ParityError
from qexport.exporting import parity
from qexport.exporting.float64 import float64
from qexport.exporting.operators import attention_set
from qexport.exporting.signature import signature_of
from qexport.inputs.models import load_torch_model, locate_model
from tests.architectures import TINY, WINDOW, tiny_model
from tests.exporting.test_export import RIGHT


def with_weight(path, target, name, change):
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, target)


def nudge(array):
    array.flat[0] += 0.05 * array.std()


def scale_columns(array):
    """Every other column by 1 %: all of a matrix by 1 % changes nothing where a norm reads its result."""
    array[:, ::2] *= 1.01


def poison(array):
    array.flat[0] = np.nan


@pytest.fixture(scope="module")
def checked(exported, tmp_path_factory):
    """``checked(name, weight, change)`` runs the parity check on an export with one weight changed."""
    models = {}

    def check(name, weight, change, exporter="fused"):
        made = exported(name, exporter)
        if name not in models:
            torch_model = load_torch_model(locate_model(made.source))
            models[name] = torch_model, signature_of(torch_model)
        target = tmp_path_factory.mktemp("changed") / "model.onnx"
        with_weight(made.onnx_path, target, weight, change)
        return parity.check(target, *models[name], exporter=exporter)

    return check


def matrices_of(path):
    """Those of the last layer, and of the head where it has its own."""
    model = onnx.load(path, load_external_data=False)
    listed = json.loads(model.metadata_props[0].value)
    gathered = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return [name for name in listed if len(shapes[name]) == 2 and name not in gathered and ".0." not in name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exporter"), RIGHT)
def test_weight_that_is_wrong_by_a_hundredth_breaks_parity(exported, checked, name, exporter):
    model = onnx.load(exported(name, exporter).onnx_path)
    matrices = [tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2]
    weights = [weight for weight in matrices if weight in json.loads(model.metadata_props[0].value)]
    assert len(weights) >= 10
    for weight in weights:
        with pytest.raises(ParityError):
            checked(name, weight, scale_columns, exporter)


@pytest.mark.parametrize("name", TINY)
def test_one_element_of_a_matrix_breaks_parity(exported, checked, name):
    matrices = matrices_of(exported(name).onnx_path)
    assert len(matrices) >= 4
    for weight in matrices:
        with pytest.raises(ParityError):
            checked(name, weight, nudge)


@pytest.mark.parametrize("name", TINY)
def test_one_element_of_the_last_norm_breaks_parity(exported, checked, name):
    model = onnx.load(exported(name).onnx_path)
    norm = [name for name in json.loads(model.metadata_props[0].value) if "norm" in name or "ln_f.weight" in name][-1]
    with pytest.raises(ParityError):
        checked(name, norm, nudge)


def test_unchanged_weights_pass_and_both_figures_are_given(checked):
    found = checked("gpt2", "transformer.wte.weight", lambda _: None)
    assert found.keys() >= {"one prompt", "one token"}
    assert {case.reference for name, case in found.items() if name != "one prompt"} == {"float32"}
    assert found["one prompt"].reference == "float64"
    for case in found.values():
        assert 0 < case.graph <= case.allowed
        assert 0 < case.noise < parity.FLOOR * case.deviation


def test_nan_is_no_parity(checked):
    with pytest.raises(ParityError, match="nan"):
        checked("gpt2", "transformer.h.0.mlp.c_fc.weight", poison)


@pytest.mark.parametrize(("exporter", "other"), [("fused", "optimum"), ("optimum", "fused")])
def test_message_is_one_line_with_case_both_figures_bound_and_the_other_exporter(checked, exporter, other):
    with pytest.raises(ParityError) as caught:
        checked("gpt2", "transformer.h.0.mlp.c_fc.weight", nudge, exporter)
    number = r"[\d.e-]+"
    assert re.fullmatch(
        rf"one prompt: a logit of the exported graph differs from torch's in float64 by {number} \({number} standard "
        rf"deviations\), torch's own float32 from float64 by {number} \({number}\), allowed are {number}; take --exporter {other}, "
        r"or where that is refused too, a recipe that stays in PyTorch: --recipe bnb-int8 or --recipe bnb-nf4",
        str(caught.value),
    )


def outlier(model, size):
    """Let the first layer add ``size`` to one channel of the residual and the next take it away again.

    Float32 keeps seven digits of the largest number, so what stands in the channel loses the others: massive activations
    do the same to trained models.
    """
    import torch

    first, second = (block.mlp.c_proj for block in model.transformer.h)
    with torch.no_grad():
        first.bias[0] += size
        second.bias[0] -= size
    return model


@pytest.fixture
def noisy(tmp_path):
    """``noisy(size)`` is a gpt2 with such an outlier, exported: model, signature and path of the graph."""
    import onnx_ir as ir

    from qexport.exporting.fused import export_fused
    from qexport.exporting.prepare import prepare

    def make(size):
        model = outlier(tiny_model("gpt2"), size)
        signature = signature_of(model)
        graph = export_fused(model, signature)
        prepare(graph, model, signature)
        ir.save(graph, tmp_path / "model.onnx")
        return tmp_path / "model.onnx", model, signature

    return make


def test_right_graph_of_a_noisy_model_passes_and_a_hundredth_of_a_weight_is_found(noisy, tmp_path):
    """The fixed tolerance of 1e-4 standard deviations refused it."""
    path, model, signature = noisy(3e3)
    found = parity.check(path, model, signature)
    assert max(case.noise_deviations for case in found.values()) > 1e-4
    assert max(case.graph_deviations for case in found.values()) > 1e-4
    with_weight(path, tmp_path / "changed.onnx", "transformer.h.1.mlp.c_fc.weight", scale_columns)
    with pytest.raises(ParityError, match="take --exporter optimum"):
        parity.check(tmp_path / "changed.onnx", model, signature)


def test_model_too_noisy_for_any_exporter_is_refused_with_a_recipe_that_leads_on(noisy):
    with pytest.raises(
        ParityError, match=r"too noisy in float32 for any exporter, take a recipe .*: --recipe bnb-int8"
    ):
        parity.check(*noisy(1e6))


def test_bound_follows_the_noise_between_floor_and_ceiling():
    def allowed(noise):
        return parity.Difference(graph=0.0, noise=noise, deviation=2.0).allowed

    assert allowed(1e-9) == parity.FLOOR * 2
    assert allowed(1e-4) == parity.NOISE_FACTOR * 1e-4
    assert allowed(1.0) == parity.CEILING * 2


@pytest.mark.parametrize("name", TINY)
def test_reference_is_what_a_model_of_float64_weights_computes(tiny, name):
    """Up to what transformers does in float32 by name, where the model's own weights are in float64."""
    import torch

    model = load_torch_model(locate_model(tiny(name)))
    ids = torch.arange(20)[None]
    with attention_set(model, "eager"), torch.no_grad():
        single = model(input_ids=ids).logits
        with float64():
            double = model(input_ids=ids).logits
        weights = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
        copied = model.double()(input_ids=ids).logits
    assert (single.dtype, double.dtype, weights) == (torch.float32, torch.float64, {torch.float32})
    assert 0 < (single - double).abs().max() < 1e-5 * double.std()
    assert (copied - double).abs().max() < 1e-5 * double.std()


def test_masks_pad_on_the_side_asked_for():
    left = parity.Case(name="", lengths=(3, 1), steps=(2,), side="left")
    right = parity.Case(name="", lengths=(3, 1), steps=(1,), side="right")
    assert [(mask.tolist(), new) for mask, new in parity._masks(left)] == [
        ([[1, 1, 1], [0, 0, 1]], 3),
        ([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], 2),
    ]
    assert [mask.tolist() for mask, _ in parity._masks(right)] == [
        [[1, 1, 1], [1, 0, 0]],
        [[1, 1, 1, 1], [1, 0, 0, 1]],
    ]


def test_switches_beyond_the_context_or_too_long_to_check_are_left_out():
    config = TINY["mistral"]()
    signature = signature_of_nothing()
    assert "prompt beyond the sliding window" in {case.name for case in parity.cases_for(config, signature)}
    config.max_position_embeddings = WINDOW + 1
    assert "prompt beyond the sliding window" not in {case.name for case in parity.cases_for(config, signature)}


def test_long_rotary_factors_are_checked_at_any_length():
    """Where the prompt would be too long to run, positions alone reach beyond the switch."""
    config = TINY["phi3"]()
    config.original_max_position_embeddings = 4096
    config.max_position_embeddings = 131072
    cases = {case.name: case for case in parity.cases_for(config, signature_of_nothing())}
    assert cases["positions beyond the switch of the rotary factors"].first == 4096
    assert "prompt beyond the switch of the rotary factors" not in cases


def signature_of_nothing():
    from qexport.exporting.signature import Signature

    return Signature(kv_heads=(1,), head_dim=1, vocab=1, position_ids=True)
