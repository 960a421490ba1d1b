from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qexport.core.graph import array, cut, save, set_initializer
from qexport.core.selection import Role, weight_nodes
from qexport.inputs.text import TokenSet
from qexport.quantization.moments import moments
from qexport.quantization.side_by_side import SideBySide
from qexport.quantization.walk import Walk
from qexport.runtime.onnx_session import OrtSession, decoder_feeds


def tokens():
    rng = np.random.default_rng(5)
    sequences = tuple(rng.integers(1, 380, length) for length in (30, 17, 24))
    return TokenSet(kind="windows", origin="seeded", description="windows of at most 30 tokens", sequences=sequences)


def inputs(model):
    """The activation that each MatMul with a weight reads, with the decoder layer it is in."""
    nodes = {node.name: node for node in weight_nodes(model) if node.role is not Role.EMBEDDING}
    return {node.inputs[0].name: nodes[node.name].layer for node in model.graph if node.name in nodes}


def changed(model):
    """The same graph with every weight of the decoder layers off by a little."""
    rng = np.random.default_rng(0)
    other = model.clone()
    for node in weight_nodes(other):
        if node.layer is not None:
            weight = array(other.graph.initializers[node.weight])
            set_initializer(other.graph, node.weight, weight + rng.normal(0, 0.02, weight.shape).astype(np.float32))
    return other


def values(model, folder, name):
    """An activation over all windows by one run of the whole graph for each, ``[tokens, channels]``."""
    folder.mkdir()
    save(cut(model, inputs=[], outputs=[name]), folder)
    session = OrtSession(folder / "model.onnx", threads=1)
    rows = [session.run(decoder_feeds(session.inputs, window[None], None))[name] for window in tokens().sequences]
    return np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows])


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "phi3"])
def test_parts_give_what_whole_graphs_give(fp32, tmp_path, name):
    exact = ir.load(fp32(name).onnx_path)
    rounded = changed(exact)
    sides = SideBySide(exact.clone(), rounded, tokens())
    for number, tensor in enumerate(inputs(exact)):
        found = sides.moments(tensor)
        x, y = (values(model, tmp_path / f"{number}{side}", tensor) for side, model in enumerate((exact, rounded)))
        scale = np.abs(y.T @ y).max() / len(y)
        np.testing.assert_allclose(found.hessian, y.T @ y / len(y), atol=1e-4 * scale)
        np.testing.assert_allclose(found.drift, (x - y).T @ y / len(y), atol=1e-4 * scale)
    assert np.abs(found.drift).max() > 1e-3 * scale  # behind the last layer, everything has moved


def test_weights_rounded_on_the_way_are_seen(fp32):
    exact = ir.load(fp32("gpt2").onnx_path)
    rounded = exact.clone()
    sides = SideBySide(exact.clone(), rounded, tokens())
    found = []
    for tensor, layer in inputs(exact).items():
        found.append(np.abs(sides.moments(tensor).drift).max())
        for node in weight_nodes(rounded):
            if node.layer == layer and node.layer is not None and "attn.c_attn" in node.name:
                set_initializer(
                    rounded.graph, node.weight, array(exact.graph.initializers[node.weight]) * np.float32(1.1)
                )
    assert found[0] == 0.0
    assert min(found[1:]) > 0.0


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_moments_are_those_of_the_activation(fp32, tmp_path, name):
    model = ir.load(fp32(name).onnx_path)
    names = list(inputs(model))
    walk = Walk(model, tokens())
    for number, tensor in enumerate(names):
        found = moments(walk, tensor)
        x = values(model, tmp_path / str(number), tensor)
        np.testing.assert_allclose(found.hessian, x.T @ x / len(x), atol=1e-4 * np.abs(x.T @ x).max() / len(x))
        np.testing.assert_allclose(found.magnitude, np.abs(x).mean(axis=0), rtol=1e-3)
