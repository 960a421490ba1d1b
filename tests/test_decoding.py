from __future__ import annotations

import numpy as np
import pytest

from qexport.artifact import load_artifact
from qexport.decoding import OrtDecoder, aligned, generate, last_real, padded, positions
from qexport.errors import ContractError
from qexport.inputs.models import locate_model
from qexport.recipes import recipe
from qexport.runtime import OrtSession, open_session
from tests import decoders
from tests.architectures import TINY, VOCABULARY

NEW = 7
LENGTHS = (9, 4, 1, 7)
"""With the new tokens past the sliding windows of the tiny models, and short of where phi3 changes its rotary factors
for a whole batch."""


def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCABULARY, length) for length in LENGTHS]


def recomputed(session, prompt, new_tokens=NEW):
    """The greedy continuation without any cache: the whole sequence is run again for each token."""
    ids = np.array(prompt)
    for _ in range(new_tokens):
        ids = np.append(ids, session.logits(ids[np.newaxis])[0, -1].argmax())
    return ids[len(prompt) :].tolist()


def answer(session, ids, mask, new_tokens=NEW, **changes):
    decoder = session.decoder(batch=len(ids), capacity=ids.shape[1] + new_tokens)
    return generate(decoder, ids, mask, new_tokens=new_tokens, **changes)


# Padding


def test_padding_on_either_side():
    ids, mask = padded([np.array([5, 6, 7]), np.array([8])], "left", pad_id=2)
    assert ids.tolist() == [[5, 6, 7], [2, 2, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    ids, mask = padded([np.array([5, 6, 7]), np.array([8])], "right", pad_id=2)
    assert ids.tolist() == [[5, 6, 7], [8, 2, 2]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_positions_count_real_tokens_only():
    mask = np.array([[0, 0, 1, 1], [1, 1, 0, 0]])
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert last_real(mask).tolist() == [3, 1]


# What is generated


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        *((name, "fused") for name in TINY),
        *((name, "fused-cuda") for name in ("gpt2", "llama", "mistral", "gemma2")),
        *((name, "optimum") for name in ("gpt2", "llama", "opt")),
    ],
)
def test_a_batch_gives_each_sequence_what_it_gets_alone_on_either_side(fp32, name, exporter):
    session = open_session(fp32(name, exporter), threads=1)
    expected = [recomputed(session, prompt) for prompt in prompts()]
    for prompt, tokens in zip(prompts(), expected, strict=True):
        assert answer(session, *padded([prompt], "left")).tokens.tolist() == [tokens]
    for side in ("left", "right"):
        assert answer(session, *padded(prompts(), side)).tokens.tolist() == expected, side


def test_a_mask_that_counts_padding_gives_other_tokens(fp32):
    """What the test above would not see if padding did not matter to these models."""
    session = open_session(fp32("llama"), threads=1)
    expected = [recomputed(session, prompt) for prompt in prompts()]
    ids, mask = padded(prompts(), "left")
    assert answer(session, ids, np.ones_like(mask)).tokens.tolist() != expected


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
def test_torch_gives_the_same_tokens(fp32, tiny, tmp_path, name):
    from qexport import pipeline

    source = locate_model(tiny(name))
    made = pipeline.apply_torch(source, recipe("torch-fp32"), tmp_path / "torch")
    ours, theirs = open_session(fp32(name), threads=1), open_session(made, threads=1)
    for side in ("left", "right"):
        ids, mask = padded(prompts(), side)
        assert answer(ours, ids, mask).tokens.tolist() == answer(theirs, ids, mask).tokens.tolist()


def test_a_cache_in_16_bits(fp32, tmp_path):
    from qexport import pipeline

    made = pipeline.quantize(str(fp32("gpt2").path), tmp_path / "out", recipe_name="fp16")
    session = open_session(made, threads=1)
    expected = [recomputed(session, prompt) for prompt in prompts()]
    assert answer(session, *padded(prompts(), "left")).tokens.tolist() == expected


def test_a_decoder_serves_one_prompt_after_another(fp32):
    session = open_session(fp32("llama"), threads=1)
    decoder = session.decoder(batch=1, capacity=max(LENGTHS) + NEW)
    for prompt in [*prompts(), *prompts()]:
        generated = generate(decoder, *padded([prompt], "left"), new_tokens=NEW)
        assert generated.tokens.tolist() == [recomputed(session, prompt)]


@pytest.mark.parametrize("exporter", ["fused", "fused-cuda"])
def test_past_and_present_are_one_buffer_where_attention_is_fused(fp32, exporter):
    session = open_session(fp32("llama", exporter), threads=1)
    decoder = session.decoder(batch=1, capacity=20)
    decoder.begin(*padded(prompts()[:1], "left"))
    held = {name: value.data_ptr() for name, value in decoder._buffers.items()}
    before = decoder._buffers["past_key_values.0.key"].numpy()[:, :, : LENGTHS[0]].copy()
    decoder.step(np.array([3]))
    after = decoder._buffers["past_key_values.0.key"].numpy()
    assert {name: value.data_ptr() for name, value in decoder._buffers.items()} == held
    assert np.array_equal(after[:, :, : LENGTHS[0]], before)
    assert after[:, :, LENGTHS[0]].any()


def test_a_past_that_is_concatenated_is_no_shared_buffer(fp32):
    assert open_session(fp32("llama", "optimum"), threads=1).decoder(batch=1, capacity=9)._buffers == {}


def test_padding_moves_to_the_side_that_a_decoder_wants():
    sequences = [np.array([5, 6, 7]), np.array([8]), np.array([9, 4])]
    for side, other in (("left", "right"), ("right", "left")):
        moved, mask = aligned(*padded(sequences, other), side)
        assert moved.tolist() == padded(sequences, side)[0].tolist()
        assert mask.tolist() == padded(sequences, side)[1].tolist()


def test_it_stops_where_every_row_has_ended(fp32):
    session = open_session(fp32("gpt2"), threads=1)
    ids, mask = padded(prompts()[:1], "left")
    (tokens,) = answer(session, ids, mask).tokens.tolist()
    assert answer(session, ids, mask, stop={tokens[2]}).tokens.tolist() == [tokens[: tokens.index(tokens[2]) + 1]]
    absent = next(token for token in range(VOCABULARY) if token not in tokens)
    assert answer(session, ids, mask, stop={absent}).tokens.tolist() == [tokens]


def test_times_are_those_of_the_parts(fp32):
    generated = answer(open_session(fp32("gpt2"), threads=1), *padded(prompts()[:1], "left"))
    assert 0 < generated.first_token_s < generated.total_s
    rest = generated.total_s - generated.first_token_s
    assert generated.token_latency_s == pytest.approx(rest / (NEW - 1))


def test_a_graph_without_a_cache_cannot_generate(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)))
    with pytest.raises(ContractError, match="no past_key_values"):
        open_session(load_artifact(artifact.path)).decoder(batch=1, capacity=4)
    session = OrtSession(artifact.onnx_path)._session
    with pytest.raises(ContractError, match="no past_key_values"):
        OrtDecoder(session, batch=1, capacity=4, cache="grows")
