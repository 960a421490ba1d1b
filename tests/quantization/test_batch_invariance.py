"""INT8 with a range for each token: the tokens of a batch do not disturb each other.

A product gives a token the same bits alone, in a batch and in a prefix, with its channels in float too. So do the logits of
sentences of one length. Sentences of other lengths differ in the last bits: the attention kernels of ONNX Runtime sum over a
sentence in steps, and the steps depend on the sentence's length. A difference in the last bit may now and then round an activation to
its neighbouring step.
"""

from __future__ import annotations

import numpy as np
import pytest

from qexport import quantization
from qexport.runtime.decoding import padded
from qexport.runtime.onnx_session import OrtSession
from tests import products
from tests.architectures import CONTEXT, VOCABULARY

STEP = 0.02
"""The most by which rounding to the neighbouring step moves a logit. Seen on three CPUs: 7e-7, without such a step."""
LENGTHS = (23, 40, 9, 31, 1, 2)


@pytest.fixture(scope="module")
def session(per_token_twin):
    return OrtSession(per_token_twin(channels=True).onnx_path, threads=1)


@pytest.fixture(scope="module")
def per_tensor(outlier_twin, tmp_path_factory):
    """The same model with ranges that a batch shares."""
    options = {"engine": "ort", "smooth": False, "outlier_channels": False}
    folder = tmp_path_factory.mktemp("per-tensor") / "int8"
    made = quantization.quantize(str(outlier_twin.path), folder, recipe_name="int8-dynamic", options=options)
    return OrtSession(made.onnx_path, threads=1)


def sentences(*lengths):
    rng = np.random.default_rng(3)
    return [rng.integers(1, VOCABULARY, length) for length in lengths]


def moved_by_padding(session):
    """The most that a logit changes in a batch of longer and shorter sentences."""
    several = sentences(*LENGTHS)
    ids, _ = padded(several, "right")
    together = session.logits(ids)
    return max(
        np.abs(session.logits(one[None])[0] - logits[: len(one)]).max()
        for one, logits in zip(several, together, strict=True)
    )


def moved_by_what_follows(session):
    """The most that a logit changes with the tokens after it."""
    (whole,) = sentences(CONTEXT - 1)
    logits = session.logits(whole[None])
    return max(np.abs(session.logits(whole[None, :length]) - logits[:, :length]).max() for length in products.PREFIXES)


@pytest.mark.parametrize("channels", [True, False], ids=["channels", "no channels"])
def test_products_have_the_same_bits_alone_in_a_batch_and_in_a_prefix(per_token_twin, *, channels):
    artifact = per_token_twin(channels=channels)
    assert {node.activation for node, _, _ in products.products(artifact)} == {"per-token"}
    assert any(node.float_channels for node in artifact.manifest.quantized) == channels
    assert products.depending(artifact) == []


def test_sentences_of_one_length_have_the_same_bits_alone_and_in_a_batch(session):
    several = sentences(*[19] * 5)
    together = session.logits(np.stack(several))
    for one, logits in zip(several, together, strict=True):
        np.testing.assert_array_equal(session.logits(one[None])[0], logits)


@pytest.mark.parametrize("moved", [moved_by_padding, moved_by_what_follows])
def test_other_lengths_move_logits_by_less_than_a_step_and_shared_ranges_by_more(session, per_tensor, moved):
    assert moved(session) < STEP < moved(per_tensor)
