"""The tolerance bites: one element of one weight, moved by a twentieth of its spread, is found out."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qexport.errors import ParityError
from qexport.export import parity
from qexport.export.signature import signature_of
from qexport.inputs.models import load_torch_model, locate_model
from tests.architectures import TINY, WINDOW


def with_weight(path, target, name, change):
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, target)


def nudge(array):
    array.flat[0] += 0.05 * array.std()


def poison(array):
    array.flat[0] = np.nan


@pytest.fixture(scope="module")
def checked(exported, tmp_path_factory):
    """``checked(name, weight, change)`` runs the parity check on a fused export with one weight changed."""
    models = {}

    def check(name, weight, change):
        made = exported(name)
        if name not in models:
            torch_model = load_torch_model(locate_model(made.source))
            models[name] = torch_model, signature_of(torch_model)
        target = tmp_path_factory.mktemp("changed") / "model.onnx"
        with_weight(made.onnx_path, target, weight, change)
        return parity.check(target, *models[name])

    return check


def matrices_of(path):
    """Those of the last layer, and of the head where it has its own."""
    model = onnx.load(path, load_external_data=False)
    listed = json.loads(model.metadata_props[0].value)
    gathered = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return [name for name in listed if len(shapes[name]) == 2 and name not in gathered and ".0." not in name]


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


def test_unchanged_weights_pass(checked):
    assert checked("gpt2", "transformer.wte.weight", lambda _: None).keys() >= {"one prompt", "one token"}


def test_nan_is_no_parity(checked):
    with pytest.raises(ParityError, match="nan"):
        checked("gpt2", "transformer.h.0.mlp.c_fc.weight", poison)


def test_message_is_one_line_with_case_difference_and_tolerance(checked):
    with pytest.raises(ParityError) as caught:
        checked("gpt2", "transformer.h.0.mlp.c_fc.weight", nudge)
    assert parity.TOLERANCE == 1e-4
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).startswith("one prompt: a logit of the exported graph differs from torch's by ")


@pytest.mark.parametrize("attribute", ["local_window_size", "softcap", "scale"])
def test_attribute_left_out_of_the_attention_breaks_parity(exported, tmp_path, attribute):
    made = exported("gemma2")
    model = onnx.load(made.onnx_path)
    for node in model.graph.node:
        kept = [entry for entry in node.attribute if entry.name != attribute or node.op_type != "GroupQueryAttention"]
        del node.attribute[:]
        node.attribute.extend(kept)
    onnx.save(model, tmp_path / "model.onnx")
    torch_model = load_torch_model(locate_model(made.source))
    with pytest.raises(ParityError):
        parity.check(tmp_path / "model.onnx", torch_model, signature_of(torch_model))


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
    from qexport.export.signature import Signature

    return Signature(kv_heads=(1,), head_dim=1, vocab=1, position_ids=True)
