from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from qexport.quantization import decomposition
from qexport.quantization.forms import Form
from tests.quantization.engines.graphs import NODES, asked, products

FORMS = {
    "channels": Form(channels=(1, 9)),
    "tokens": Form(per_token=True),
    "both": Form(per_token=True, channels=(0,)),
}


def decomposed(form):
    model = ir.from_proto(products())
    among = decomposition.activations(model, list(asked(*NODES).values()))
    plan = decomposition.Plan(among=among, forms={each.tensor: form for each in among})
    plan.edit().make(model)
    return model


def run(model, x):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_graph_computes_the_same(form):
    x = np.random.default_rng(1).standard_normal((2, 5, 16)).astype(np.float32)
    x[:, :, 1] *= 100.0
    x[1, 2] = 0.0
    for one, other in zip(run(decomposed(form), x), run(ir.from_proto(products()), x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_is_read_back_as_it_was_written(form):
    model, before = decomposed(form), ir.from_proto(products())
    for weight, name in NODES.items():
        node = model.graph.node(name)
        found = decomposition.read_form(node.inputs[0], node.outputs[0])
        assert (found.per_token, found.channels) == (form.per_token, form.channels)
        if form.channels:
            whole = before.graph.initializers[weight].const_value.numpy()
            np.testing.assert_array_equal(found.rows, whole[list(form.channels)])
            assert not model.graph.initializers[weight].const_value.numpy()[list(form.channels)].any()


def test_a_plain_form_changes_nothing():
    model = ir.from_proto(products())
    among = decomposition.activations(model, list(asked(*NODES).values()))
    plan = decomposition.Plan(among=among, forms={each.tensor: Form() for each in among})
    assert not plan.changes
    plan.edit().make(model)
    assert [node.op_type for node in model.graph] == [node.op_type for node in ir.from_proto(products()).graph]
