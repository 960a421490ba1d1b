from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from qexport.core.artifact import load_artifact
from qexport.core.errors import ContractError
from qexport.inputs.models import locate_model
from qexport.quantization.recipes import recipe
from qexport.runtime.decoding import OrtDecoder, aligned, generate, last_real, padded, positions
from qexport.runtime.onnx_session import OrtSession
from qexport.runtime.opening import open_session
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


@pytest.fixture(scope="session")
def in_torch(tiny, tmp_path_factory):
    """``in_torch("gpt2")`` is a session of that tiny model in torch."""
    from qexport import quantization

    @cache
    def opened(name):
        folder = tmp_path_factory.mktemp("torch") / name
        return open_session(quantization.apply_torch(locate_model(tiny(name)), recipe("torch-fp32"), folder), threads=1)

    return opened


@pytest.fixture
def opened(fp32, in_torch):
    """``opened("gpt2", "torch")`` is a session of that tiny model, from an exporter or in torch."""

    def session(name, way):
        return in_torch(name) if way == "torch" else open_session(fp32(name, way), threads=1)

    return session


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
def test_torch_gives_the_same_tokens(fp32, in_torch, name):
    ours, theirs = open_session(fp32(name), threads=1), in_torch(name)
    for side in ("left", "right"):
        ids, mask = padded(prompts(), side)
        assert answer(ours, ids, mask).tokens.tolist() == answer(theirs, ids, mask).tokens.tolist()


def test_a_cache_in_16_bits(fp32, tmp_path):
    from qexport import quantization

    made = quantization.quantize(str(fp32("gpt2").path), tmp_path / "out", recipe_name="fp16")
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


# Logits, and copies of the cache

WAYS = [
    *((name, "fused") for name in ("gpt2", "llama", "mistral", "gemma2", "phi3")),
    *((name, "fused-cuda") for name in ("gpt2", "mistral")),
    *((name, "optimum") for name in ("gpt2", "llama")),
    *((name, "torch") for name in ("gpt2", "mistral", "phi3")),
]
every_way = pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name}-{way}" for name, way in WAYS])
CLOSE = {"rtol": 0, "atol": 2e-5}
"""Seen: 7e-6 at most, of logits up to 4. One token that is another moves them by tenths."""


class Rows:
    """A decoder whose rows are fed given tokens, and logits that those sequences get alone and without a cache."""

    def __init__(self, session, sequences, *, steps, seed=1):
        self.session, self.sequences, self.draw = session, list(sequences), np.random.default_rng(seed)
        self.decoder = session.decoder(batch=len(self.sequences), capacity=max(map(len, self.sequences)) + steps)

    def prefill(self):
        ids, mask = padded(self.sequences, self.decoder.side)
        logits = self.decoder.prefill(ids, mask)
        assert logits.dtype == np.float32
        for row, sequence in enumerate(self.sequences):
            np.testing.assert_allclose(logits[row, mask[row] == 1], self.alone(sequence), **CLOSE)
        return self

    def advance(self, times=1):
        for _ in range(times):
            tokens = self.draw.integers(1, VOCABULARY, len(self.sequences))
            self.sequences = [np.append(*one) for one in zip(self.sequences, tokens, strict=True)]
            logits = self.decoder.advance(tokens)
            assert logits.shape == (len(tokens), VOCABULARY)
            for row, sequence in enumerate(self.sequences):
                np.testing.assert_allclose(logits[row], self.alone(sequence)[-1], **CLOSE)
        return self

    def fork(self, rows, *, steps, seed):
        other = Rows.__new__(Rows)
        other.session, other.sequences = self.session, [self.sequences[row] for row in rows]
        other.draw, other.decoder = np.random.default_rng(seed), self.decoder.fork(np.array(rows), steps=steps)
        return other

    def alone(self, sequence):
        return self.session.logits(sequence[np.newaxis])[0]


@every_way
def test_each_row_of_a_batch_has_the_logits_it_has_alone(opened, name, way):
    session = opened(name, way)
    rows = Rows(session, prompts(), steps=6)
    assert rows.decoder.side == ("right" if way == "fused-cuda" else "left")
    rows.prefill().advance(6)
    # A decoder begins anew, and nothing of the batch before is left.
    rows.sequences = prompts()[::-1]
    rows.prefill().advance(2)


@every_way
def test_a_copy_goes_on_as_its_rows_would_and_leaves_them_alone(opened, name, way):
    """Some repeated, some dropped, in another order; copies of copies; each as long as it is used."""
    rows = Rows(opened(name, way), prompts(), steps=5).prefill()
    assert rows.decoder.forks
    early = rows.fork([3, 1, 1, 2, 3], steps=4, seed=2)
    rows.advance()
    late = rows.fork([2, 0], steps=4, seed=3)
    assert late.decoder.side == rows.decoder.side
    for each in (early, rows, late) * 2:
        each.advance()
    early.fork([4], steps=2, seed=4).advance(2)
    late.fork([1, 1, 0], steps=2, seed=5).advance(2)
    for each in (late, early, rows):
        each.advance(2)


@pytest.mark.parametrize("way", ["fused", "fused-cuda"])
def test_a_copy_has_room_for_its_steps_and_no_more(opened, way):
    rows = Rows(opened("gpt2", way), prompts(), steps=30).prefill().advance()
    copied = rows.fork([0, 0], steps=3, seed=2)
    shapes = {tuple(value.shape()) for value in copied.decoder._buffers.values()}
    assert shapes == {(2, 4, max(LENGTHS) + 1 + 3, 8)}
    copied.advance(3)


@pytest.mark.parametrize("way", ["fused", "fused-cuda", "optimum", "torch"])
def test_a_copy_of_another_row_has_other_logits(opened, way):
    """What the tests above would not see if all rows went on alike."""
    rows = Rows(opened("gpt2", way), prompts(), steps=2).prefill()
    wrong = rows.fork([1, 0], steps=2, seed=2)
    wrong.sequences.reverse()
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        wrong.advance()


def test_a_cache_that_numpy_cannot_hold_is_not_copied(tmp_path):
    table = {"table": np.eye(3)}
    for type_, forks in (("float", True), ("float16", True), ("bfloat16", False)):
        text = decoders.WITH_PAST.replace("float[batch_size, 2, past", f"{type_}[batch_size, 2, past")
        artifact = decoders.save(tmp_path / type_, decoders._with(text, table=table["table"].astype(np.float32)))
        session = OrtSession(artifact.onnx_path)._session
        assert OrtDecoder(session, batch=1, capacity=4, cache="grows").forks is forks, type_


def test_a_graph_without_a_cache_cannot_generate(tmp_path):
    artifact = decoders.save(tmp_path / "a", decoders.bigram(np.eye(3)))
    with pytest.raises(ContractError, match="no past_key_values"):
        open_session(load_artifact(artifact.path)).decoder(batch=1, capacity=4)
    session = OrtSession(artifact.onnx_path)._session
    with pytest.raises(ContractError, match="no past_key_values"):
        OrtDecoder(session, batch=1, capacity=4, cache="grows")
