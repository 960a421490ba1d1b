from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from qexport.core.artifact import Manifest, ModelInfo, QuantizedNode
from qexport.core.errors import ContractError
from qexport.inputs.models import locate_model
from qexport.quantization.recipes import recipe
from qexport.runtime import scoring
from qexport.runtime.decoding import generate, padded
from qexport.runtime.opening import open_session
from qexport.runtime.scoring import (
    Batching,
    Likelihood,
    Passage,
    Prompt,
    depends_on_batch,
    generate_until,
    loglikelihoods,
)
from tests.architectures import CONTEXT, LONGROPE_SWITCH, VOCABULARY

CLOSE = 2e-5
"""Between a log-likelihood in a batch and alone, in nats. Seen: 4e-6; another token or another factor is tenths."""

WAYS = [
    *((name, "fused") for name in ("gpt2", "llama", "mistral", "gemma2", "phi3")),
    *((name, "fused-cuda") for name in ("gpt2", "mistral", "gemma2")),
    *((name, "optimum") for name in ("gpt2", "llama")),
    *((name, "torch") for name in ("gpt2", "mistral", "phi3")),
]
every_way = pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name}-{way}" for name, way in WAYS])


class Noted:
    """A session that notes what is run."""

    def __init__(self, session, *, forks=True, change=lambda logits: logits):
        self.session, self.forks, self.change = session, forks, change
        self.starts: list[tuple[int, int]] = []
        """Rows and tokens of each batch that was run from its start."""
        self.fed: list[np.ndarray] = []
        """The batches themselves."""
        self.steps: list[int] = []
        """Rows of each step."""
        self.copies: list[int] = []
        """Rows of each copy."""

    def logits(self, ids):
        return self.session.logits(ids)

    def decoder(self, **given):
        return NotedDecoder(self, self.session.decoder(**given))


class NotedDecoder:
    def __init__(self, notes, decoder):
        self.notes, self.decoder, self.side, self.forks = notes, decoder, decoder.side, notes.forks

    def prefill(self, ids, mask):
        self.notes.starts.append(ids.shape)
        self.notes.fed.append(ids)
        return self.notes.change(self.decoder.prefill(ids, mask))

    def begin(self, ids, mask):
        self.notes.starts.append(ids.shape)
        return self.decoder.begin(ids, mask)

    def advance(self, tokens):
        self.notes.steps.append(len(tokens))
        return self.notes.change(self.decoder.advance(tokens))

    def step(self, tokens):
        self.notes.steps.append(len(tokens))
        return self.decoder.step(tokens)

    def fork(self, rows, *, steps):
        assert self.forks
        self.notes.copies.append(len(rows))
        return NotedDecoder(self.notes, self.decoder.fork(rows, steps=steps))


@pytest.fixture(scope="module")
def in_torch(tiny, tmp_path_factory):
    from qexport import quantization

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp("torch") / name
        return quantization.apply_torch(locate_model(tiny(name)), recipe("torch-fp32"), folder)

    return made


@pytest.fixture(scope="module")
def opened(fp32, in_torch):
    """``opened("gpt2", "fused")`` is a session of that tiny model, and what may be run together."""

    @cache
    def session(name, way="fused"):
        artifact = in_torch(name) if way == "torch" else fp32(name, way)
        return open_session(artifact, threads=1), batching(artifact)

    return session


@pytest.fixture(scope="module")
def int8(fp32, tmp_path_factory):
    """``int8(per_token=False)`` is tiny GPT-2 with 8-bit activations, whose ranges come from each input."""
    from qexport import quantization

    @cache
    def made(*, per_token):
        options = {"smooth": False, "outlier_channels": False, "engine": "ort", "per_token": per_token}
        folder = tmp_path_factory.mktemp("int8") / "a"
        return quantization.quantize(str(fp32("gpt2").path), folder, recipe_name="int8-dynamic", options=options)

    return made


def batching(artifact, **changes) -> Batching:
    return Batching.of(artifact.manifest, json.loads((artifact.path / "config.json").read_text()), **changes)


def changed(batching, **changes) -> Batching:
    return Batching(
        **{name: getattr(batching, name) for name in ("vocabulary", "context", "rows", "alone", "switch")} | changes
    )


def tokens(length, seed) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(1, VOCABULARY, length).tolist())


def choices(context, *lengths, seed=0) -> list[Passage]:
    """Continuations of these lengths, of one context."""
    return [Passage(context, tokens(length, (seed, *context, place))) for place, length in enumerate(lengths)]


def alone(session, passage) -> Likelihood:
    """From the logits of the whole sequence, run by itself and without a cache."""
    whole = np.array(passage.context + passage.continuation)
    logits = session.logits(whole[np.newaxis, :-1])[0, len(passage.context) - 1 :].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chosen = log_p[np.arange(len(passage.continuation)), passage.continuation]
    return Likelihood(float(chosen.sum()), logits.argmax(axis=1).tolist() == list(passage.continuation))


def scored(session, passages, batching) -> list[Likelihood]:
    """All likelihoods, each of which was told once."""
    told: dict[int, Likelihood] = {}

    def done(batch):
        assert batch
        assert not told.keys() & batch.keys()
        told.update(batch)

    loglikelihoods(session, passages, batching=batching, done=done)
    assert sorted(told) == list(range(len(passages)))
    return [told[index] for index in range(len(passages))]


def check(session, passages, batching, *, expected=None):
    expected = expected or [alone(session, passage) for passage in passages]
    found = scored(session, passages, batching)
    np.testing.assert_allclose(*([one.log_likelihood for one in each] for each in (found, expected)), 0, CLOSE)
    assert [one.greedy for one in found] == [one.greedy for one in expected]


def recomputed(session, prompt, new_tokens) -> tuple[int, ...]:
    """The greedy continuation without any cache: the whole sequence is run again for each token."""
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(session.logits(np.array([ids]))[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def another(token) -> int:
    return token % (VOCABULARY - 1) + 1


def recovered(session, context) -> tuple[int, ...]:
    """A continuation that begins with another token than the model would write, and goes on as it would then."""
    first = another(*recomputed(session, context, 1))
    return (first, *recomputed(session, (*context, first), 2))


# Likelihoods


def questions(session) -> list[Passage]:
    """Of every kind: long contexts with choices of unlike lengths, one token among them, and others that are not shared.

    The lengths go past sliding windows, and for phi3 past the switch of its rotary factors, but for one question whose
    choices are all within.
    """
    long, middle, single = tokens(30, 1), tokens(12, 2), tokens(11, 7)
    said = recomputed(session, middle, 4)
    return [
        *choices(long, 1, 3, 5, 2, 1),
        *choices(long[:-1], 4, 4),
        *choices(middle, 2, 2),
        Passage(middle, said),
        Passage(middle, said[:2]),
        Passage(middle, said[:1]),
        Passage(middle + said[:1], said[1:3]),
        Passage(middle, (*said[:2], another(said[2]))),
        # Greedy from the second token on, in steps and at once.
        Passage(middle, recovered(session, middle)),
        Passage(single, recovered(session, single)),
        *choices(tokens(20, 3), 1, 1, 1),
        *choices(tokens(3, 4), 6, 7, 1),
        *choices(tokens(1, 5), 1),
        *choices(tokens(2, 6), 38),
    ]


@every_way
def test_each_choice_gets_what_it_gets_alone(opened, name, way):
    session, batching = opened(name, way)
    passages = questions(session)
    expected = [alone(session, passage) for passage in passages]
    assert sum(one.greedy for one in expected) >= 4
    check(session, passages, batching, expected=expected)
    check(session, passages[::-1], changed(batching, rows=3), expected=expected[::-1])


@pytest.mark.parametrize("way", ["fused", "torch"])
def test_phi3_without_its_switch_gets_something_else(opened, way):
    """What the test above would not see if the switch did not matter to the model."""
    session, batching = opened("phi3", way)
    assert batching.switch == LONGROPE_SWITCH
    passages = [*choices(tokens(LONGROPE_SWITCH + 3, 1), 2), *choices(tokens(LONGROPE_SWITCH - 2, 2), 2)]
    check(session, passages, batching)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(session, passages, changed(batching, switch=None))


@st.composite
def groups(draw):
    """Contexts, and for each choice how many tokens of it are those the model would write."""
    few = st.integers(1, 3)
    contexts = draw(st.lists(st.lists(few, min_size=1, max_size=24).map(tuple), min_size=1, max_size=4))
    choice = st.tuples(st.integers(1, 3), st.lists(few, max_size=6).map(tuple))
    choice |= st.tuples(st.just(0), st.lists(few, min_size=1, max_size=6).map(tuple))
    return draw(st.lists(st.tuples(st.sampled_from(contexts), choice), min_size=1, max_size=20, unique=True))


@st.composite
def bounds(draw):
    """How much may be held at once, down to a single sequence."""
    return {
        "_CACHED_TOKENS": draw(st.sampled_from([1, 45, scoring._CACHED_TOKENS])),
        "_LOGITS": draw(st.sampled_from([1, VOCABULARY * 45, scoring._LOGITS])),
    }


@given(groups(), st.sampled_from([1, 2, 32]), st.booleans(), bounds(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_questions_in_any_batches(opened, drawn, rows, forks, bounds, order):  # noqa: PLR0917  # hypothesis'
    plain, batching = opened("gpt2")
    session = Noted(plain, forks=forks)
    passages = sorted({Passage(context, recomputed(plain, context, said) + rest) for context, (said, rest) in drawn})
    order.shuffle(passages)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bounds.items():
            patch.setattr(scoring, name, value)
        check(session, passages, changed(batching, rows=rows))
    assert max(count for count, _ in session.starts) <= rows
    assert max(session.copies, default=0) <= rows
    # Never more sequences than choices, and the longest first.
    assert sum(count for count, _ in session.starts) <= len(passages)
    lengths = [length for _, length in session.starts]
    assert lengths == sorted(lengths, reverse=True)


def test_nothing_is_asked(opened):
    session, batching = opened("gpt2")
    assert scored(session, [], batching) == []


def test_likelihoods_are_plain_numbers(opened):
    session, batching = opened("gpt2")
    (found,) = scored(session, choices(tokens(3, 1), 2), batching)
    assert isinstance(found, Likelihood)
    assert (type(found.log_likelihood), type(found.greedy)) == (float, bool)


# What is run


def test_a_context_is_run_once_and_its_choices_from_copies(opened):
    session = Noted(opened("gpt2")[0])
    scored(session, choices(tokens(30, 1), 5, 3, 2, 1), Batching(vocabulary=VOCABULARY))
    assert session.starts == [(1, 30)]
    assert session.copies == [3, 1]
    assert session.steps == [3, 3, 1, 1]


def test_a_choice_of_one_token_costs_no_step(opened):
    session = Noted(opened("gpt2")[0])
    scored(session, [*choices(tokens(30, 1), 1, 1, 1, 1), *choices(tokens(28, 2), 1)], Batching(vocabulary=VOCABULARY))
    assert session.starts == [(2, 30)]
    assert session.copies == session.steps == []


def test_a_short_context_is_not_worth_a_copy(opened):
    session = Noted(opened("gpt2")[0])
    scored(session, choices(tokens(3, 1), 6, 7, 1), Batching(vocabulary=VOCABULARY))
    assert session.starts == [(2, 9)]
    assert session.copies == session.steps == []
    scored(session, choices(tokens(20, 1), 11, 11), Batching(vocabulary=VOCABULARY))
    assert (session.starts[1:], session.copies) == ([(1, 20)], [2])


def test_one_choice_of_a_context_is_run_with_it(opened):
    session = Noted(opened("gpt2")[0])
    scored(session, choices(tokens(30, 1), 5), Batching(vocabulary=VOCABULARY))
    assert (session.starts, session.copies, session.steps) == ([(1, 34)], [], [])


def test_a_cache_that_cannot_be_copied_is_not(opened):
    plain, batching = opened("gpt2")
    session = Noted(plain, forks=False)
    check(session, questions(plain), batching)
    scored(session, passages := choices(tokens(30, 1), 5, 3, 2, 1), batching)
    assert session.starts[-1] == (3, 34)
    assert len(passages) == 4
    assert session.copies == session.steps == []


def test_copies_of_several_contexts_are_fed_together(opened):
    plain, batching = opened("gpt2")
    session = Noted(plain)
    passages = [passage for seed in range(5) for passage in choices(tokens(20 + seed, seed), 3, 3)]
    check(session, passages, changed(batching, rows=4))
    assert session.starts == [(4, 24), (1, 20)]
    assert session.copies == [4, 4, 2]
    assert session.steps == [4, 4] * 2 + [2, 2]


def test_a_batch_has_sequences_of_like_lengths(opened):
    session = Noted(opened("gpt2")[0])
    lengths = (40, 33, 32, 31, 24, 23, 15, 14)
    passages = [passage for length in lengths for passage in choices(tokens(length, length), 1)]
    scored(session, passages, Batching(vocabulary=VOCABULARY))
    assert session.starts == [(3, 40), (3, 31), (2, 15)]


def test_logits_and_caches_held_at_once_are_bounded(opened, monkeypatch):
    plain, batching = opened("gpt2")
    monkeypatch.setattr(scoring, "_LOGITS", 70 * VOCABULARY)
    monkeypatch.setattr(scoring, "_CACHED_TOKENS", 120)
    session = Noted(plain)
    wide = [passage for seed in range(7) for passage in choices(tokens(20 + seed, seed), 4, 4)]
    check(session, [*wide, *choices(tokens(CONTEXT, 9), 1)], batching)
    assert session.starts == [(1, CONTEXT), *[(2, 26), (2, 24), (3, 22)]]
    assert session.copies == [4, 4, 4, 2]
    scored(session, choices(tokens(CONTEXT - 4, 1), *[4] * 5), batching)
    assert session.copies[4:] == [1] * 5
    # One sequence is run whatever it takes.
    monkeypatch.setattr(scoring, "_LOGITS", 1)
    check(session, wide, batching)
    assert {rows for rows, _ in session.starts[4:]} == {1}


# Rows that have ended


def test_a_choice_that_ended_is_not_fed_past_the_models_context(opened):
    """Beside three choices that go on it stays in the batch, up to a position that the model has not."""
    session, batching = opened("gpt2")
    passages = [*choices(tokens(CONTEXT - 3, 1), 2, 2), *choices(tokens(CONTEXT - 11, 2), 11, 11, 11)]
    check(session, passages, batching)


@pytest.mark.parametrize("way", ["fused", "torch"])
def test_a_choice_that_ended_does_not_turn_the_others(opened, way):
    """Past the switch it would change the rotary factors of all that are in its batch."""
    session, batching = opened("phi3", way)
    passages = [*choices(tokens(LONGROPE_SWITCH - 3, 1), 2, 2), *choices(tokens(6, 2), 9, 9, 9, 9)]
    check(session, passages, batching)


# Alone


def test_activations_with_one_range_are_scored_one_sequence_at_a_time(int8):
    plain = open_session(int8(per_token=False), threads=1)
    given = batching(int8(per_token=False), rows=7)
    assert (given.rows, given.alone) == (7, True)
    passages = [*choices(tokens(30, 1), 4, 3, 2), *choices(tokens(20, 2), 1, 1), *choices(tokens(20, 3), 1)]
    computed = []
    session = Noted(plain, change=lambda logits: computed.append(logits.copy()) or logits)
    found = scored(session, passages, given)
    assert session.starts == [(1, 33), (1, 32), (1, 31), (1, 20), (1, 20)]
    assert session.copies == session.steps == []
    for ids, logits in zip(session.fed, computed, strict=True):
        np.testing.assert_array_equal(logits, plain.logits(ids))
    expected = [alone(plain, passage) for passage in passages]
    assert [one.greedy for one in found] == [one.greedy for one in expected]
    np.testing.assert_allclose(*([one.log_likelihood for one in each] for each in (found, expected)), 0, 2e-6)


def test_a_choice_of_one_token_does_not_see_another_choice(int8):
    """The range over all tokens would hold those of the choice that it is read beside."""
    session = open_session(int8(per_token=False), threads=1)
    check(session, choices(tokens(20, 2), 6, 1), batching(int8(per_token=False)))


@pytest.mark.parametrize("way", ["fused", "torch"])
def test_a_choice_of_one_token_before_the_switch(opened, way):
    """Its context is within the short factors, and the choice that it is read beside is not."""
    session, batching = opened("phi3", way)
    check(session, choices(tokens(LONGROPE_SWITCH - 2, 2), 6, 1), batching)


def test_a_batch_moves_scores_where_it_shares_a_range_and_only_there(int8):
    passages = [*choices(tokens(30, 1), 4, 3, 2), *choices(tokens(24, 3), 3, 3)]
    off = {}
    for per_token in (False, True):
        session = open_session(int8(per_token=per_token), threads=1)
        together = scored(session, passages, Batching(vocabulary=VOCABULARY))
        differences = [
            one.log_likelihood - alone(session, passage).log_likelihood
            for one, passage in zip(together, passages, strict=True)
        ]
        off[per_token] = np.abs(differences).max()
    assert off[True] < CLOSE
    assert off[False] > 100 * CLOSE


def manifest(kind="onnx", *nodes) -> Manifest:
    info = ModelInfo(name="", weights_sha256="", architecture="", parameters=1)
    quantized = [
        QuantizedNode(name=f"{place}", weight="", per_channel=True, weight_dtype=dtype, activation=activation)
        for place, (dtype, activation) in enumerate(nodes)
    ]
    return Manifest(kind=kind, model=info, recipe="", quantized=tuple(quantized), weight_bytes=1)


@pytest.mark.parametrize(
    ("kind", "nodes", "depends"),
    [
        ("onnx", [], False),
        ("onnx", [("int8", "static"), ("int8", "none")], False),
        ("onnx", [("uint8", "per-token")], False),
        ("onnx", [("int8", "none"), ("uint8", "dynamic")], True),
        ("onnx", [("uint4", "none")], False),
        ("onnx", [("float8e4m3fn", "static")], False),
        ("torch", [], False),
        ("torch", [("nf4", "none")], False),
        ("torch", [("fp4", "none")], False),
        ("torch", [("int8", "none")], True),
        ("torch", [("int8", "dynamic")], True),
    ],
)
def test_what_depends_on_its_batch(kind, nodes, depends):
    assert depends_on_batch(manifest(kind, *nodes)) is depends


def test_recipes_that_depend_on_their_batch(int8):
    assert depends_on_batch(int8(per_token=False).manifest)
    assert not depends_on_batch(int8(per_token=True).manifest)


@pytest.mark.parametrize(
    ("config", "switch"),
    [
        ({}, None),
        ({"rope_scaling": None}, None),
        ({"rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 8}}, None),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "original_max_position_embeddings": 8}, None),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 8}, 8),
        ({"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 8}, 8),
        # As transformers: where the model was pretrained no shorter.
        ({"rope_scaling": {"rope_type": "longrope"}}, 64),
        # Older names of the same, which transformers rewrites as it reads them.
        ({"model_type": "phi3", "rope_scaling": {"type": "su"}, "original_max_position_embeddings": 8}, 8),
        ({"model_type": "phi3", "rope_scaling": {"type": "yarn"}, "original_max_position_embeddings": 8}, 8),
        ({"model_type": "qwen2", "rope_scaling": {"type": "yarn"}, "original_max_position_embeddings": 8}, None),
    ],
)
def test_where_a_model_turns_otherwise(config, switch):
    given = Batching.of(manifest(), {"vocab_size": 9, "max_position_embeddings": 64} | config)
    assert given == Batching(vocabulary=9, context=64, switch=switch)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lengths", [(1,), (3,), (3, 3)], ids=["first", "whole", "in a step"])
def test_a_model_that_computes_no_numbers(opened, value, lengths):
    """Of one token alone, of one choice among others."""
    plain, batching = opened("gpt2")
    passages = [*choices(tokens(36, 2), 1), *choices(tokens(30, 1), *lengths)]
    check(plain, passages, batching)

    def spoilt(logits):
        if len(lengths) == 1 or logits.ndim == 2:
            logits[-1, ..., passages[-1].continuation[-1]] = value
        return logits

    with pytest.raises(ContractError, match="not finite"):
        scored(Noted(plain, change=spoilt), passages, batching)


def test_numbers_behind_padding_do_not_count(opened):
    """What is computed for padding may be anything."""
    plain, batching = opened("gpt2", "fused-cuda")

    def spoilt(logits):
        logits[1, 28:] = np.nan
        return logits

    passages = [*choices(tokens(30, 1), 1), *choices(tokens(28, 2), 1)]
    check(Noted(plain, change=spoilt), passages, batching)


# Texts


def prompt(length, seed, new_tokens, *, until=(), stop=()) -> Prompt:
    return Prompt(tokens(length, seed), until, stop, new_tokens)


def words(tokens) -> str:
    return "".join(f"<{token}>" for token in tokens)


def unread(_tokens) -> str:
    raise AssertionError("no stop words, no text")


def written(session, prompts, batching, *, read=unread) -> list[tuple[int, ...]]:
    """All answers, each of which was told once."""
    told: dict[int, tuple[int, ...]] = {}

    def done(batch):
        assert not told.keys() & batch.keys()
        told.update(batch)

    generate_until(session, prompts, batching=batching, read=read, done=done)
    assert sorted(told) == list(range(len(prompts)))
    return [told[index] for index in range(len(prompts))]


@every_way
def test_each_prompt_is_continued_as_it_is_alone(opened, name, way):
    """Past the sliding windows, and short of where phi3 changes its factors."""
    session, batching = opened(name, way)
    prompts = [prompt(9, 1, 7), prompt(4, 2, 3), prompt(1, 3, 7), prompt(7, 4, 1), prompt(8, 5, 2), prompt(1, 6, 12)]
    expected = [recomputed(session, each.tokens, each.new_tokens) for each in prompts]
    for rows in (1, 3, 32):
        found = written(session, prompts, changed(batching, rows=rows))
        assert found == expected, rows
    assert {type(token) for answer in found for token in answer} == {int}


def test_an_answer_ends_at_its_own_stop_token(opened):
    session, batching = opened("mistral")
    plain = [prompt(9, 18, 7), prompt(7, 2, 7), prompt(5, 3, 7)]
    first, second, third = (recomputed(session, each.tokens, 7) for each in plain)
    assert first.index(first[3]) == 3
    absent = next(token for token in range(VOCABULARY) if token not in second)
    stops = [(absent, first[3]), (absent,), (third[0],)]
    prompts = [Prompt(each.tokens, (), stop, 7) for each, stop in zip(plain, stops, strict=True)]
    assert written(session, prompts, batching) == [first[:4], second, third[:1]]


def test_an_answer_ends_at_a_word_that_no_token_holds(opened):
    session, batching = opened("mistral")
    plain = [prompt(9, 18, 7), prompt(7, 2, 7), prompt(5, 3, 7)]
    first, second, third = (recomputed(session, each.tokens, 7) for each in plain)
    assert len(set(first)) == 7
    across = f"<{first[2]}><{first[3]}>"[2:-2]
    assert across not in words(second)
    untils = [("not there", across), (across,), ()]
    prompts = [Prompt(each.tokens, until, (), 7) for each, until in zip(plain, untils, strict=True)]
    assert written(session, prompts, batching, read=words) == [first[:4], second, third]


def test_an_answer_has_no_more_tokens_than_it_may(opened):
    session, batching = opened("mistral")
    said = recomputed(session, tokens(9, 18), 3)
    assert len(set(said)) == 3
    for word in (f"<{said[2]}>", "never"):
        asked = Prompt(tokens(9, 18), (word,), (), 2)
        assert written(session, [asked], batching, read=words) == [said[:2]]


def test_rows_that_have_ended_are_dropped_once_they_are_the_half(opened):
    plain, batching = opened("mistral")
    prompts, expected = [], []
    for seed, length in ((18, 8), (21, 2), (22, 3), (26, 3), (27, 6)):
        said = recomputed(plain, tokens(9, seed), 8)
        assert len(set(said)) == 8
        prompts.append(prompt(9, seed, 8, stop=() if length == 8 else (said[length - 1],)))
        expected.append(said[:length])
    session = Noted(plain)
    assert written(session, prompts, batching) == expected
    assert session.starts == [(5, 9)]
    assert session.copies == [2, 1]
    assert session.steps == [5, 5, 2, 2, 2, 1, 1]
    session = Noted(plain, forks=False)
    assert written(session, prompts, batching) == expected
    assert (session.copies, session.steps) == ([], [5] * 7)


def test_prompts_held_at_once_are_bounded(opened, monkeypatch):
    plain, batching = opened("mistral")
    prompts = [prompt(length, length, 4) for length in (20, 19, 18, 17, 16, 3)]
    expected = [recomputed(plain, each.tokens, 4) for each in prompts]
    monkeypatch.setattr(scoring, "_CACHED_TOKENS", 3 * 24)
    session = Noted(plain)
    assert written(session, prompts, batching) == expected
    assert session.starts == [(3, 20), (2, 17), (1, 3)]
    monkeypatch.setattr(scoring, "_LOGITS", 2 * 20 * VOCABULARY)
    session = Noted(plain)
    assert written(session, prompts, changed(batching, rows=2)) == expected
    assert session.starts == [(2, 20), (2, 18), (1, 16), (1, 3)]
    # A prompt that asks for more has room for it.
    monkeypatch.setattr(scoring, "_CACHED_TOKENS", 2 * 24)
    session = Noted(plain)
    more = [prompt(20, 20, 5), prompt(19, 19, 2), prompt(18, 18, 4), prompt(17, 17, 4)]
    found = written(session, more, batching)
    assert found == [recomputed(plain, each.tokens, each.new_tokens) for each in more]
    assert sum(rows for rows, _ in session.starts) == 4
    assert all(rows == 1 or rows * (length + 5) <= 2 * 24 for rows, length in session.starts)


@pytest.mark.parametrize("forks", [True, False])
def test_an_answer_that_ended_is_not_continued_past_the_models_context(opened, forks):
    plain, batching = opened("gpt2")
    session = Noted(plain, forks=forks)
    prompts = [prompt(CONTEXT - 2, 1, 2), prompt(CONTEXT - 10, 2, 10), prompt(CONTEXT - 10, 3, 10)]
    expected = [recomputed(session, each.tokens, each.new_tokens) for each in prompts]
    assert written(session, prompts, batching) == expected


@pytest.mark.parametrize("way", ["fused", "torch"])
def test_prompts_that_may_pass_the_switch_are_continued_one_by_one(opened, way):
    plain, batching = opened("phi3", way)
    prompts = [prompt(length, length, 3) for length in (20, 14, 13, 12, 11)]
    assert batching.switch == 13 + 3
    session = Noted(plain)
    found = written(session, prompts, batching)
    assert session.starts == [(1, 20), (1, 14), (3, 13)]
    for each, answer in zip(prompts, found, strict=True):
        decoder = plain.decoder(batch=1, capacity=len(each.tokens) + each.new_tokens)
        given = padded([np.array(each.tokens)], "left")
        assert answer == tuple(generate(decoder, *given, new_tokens=each.new_tokens).tokens[0].tolist())


def test_activations_with_one_range_are_continued_one_by_one(int8):
    plain, given = open_session(int8(per_token=False), threads=1), batching(int8(per_token=False))
    prompts = [prompt(9, seed, 4) for seed in range(3)]
    session = Noted(plain)
    found = written(session, prompts, given)
    assert session.starts == [(1, 9)] * 3
    for each, answer in zip(prompts, found, strict=True):
        decoder = plain.decoder(batch=1, capacity=13)
        alone = generate(decoder, *padded([np.array(each.tokens)], "left"), new_tokens=4)
        assert answer == tuple(alone.tokens[0].tolist())
