"""Rows of a request get the tokens that each gets alone, and the model stops when nobody wants them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time

import numpy as np
import pytest

from qexport import quantization
from qexport.core.artifact import load_artifact
from qexport.core.errors import InputError
from qexport.runtime.decoding import generate
from qexport.runtime.opening import open_session
from qexport.serving.worker import WAITING, Busy, Worker
from qexport.serving.writing import Limits, Token, Writer, read_limits
from tests.architectures import CONTEXT, LONGROPE_SWITCH, VOCABULARY

PROMPTS = [(5, 9, 200, 31, 77, 12, 4), (8,), (100, 101, 102)]


def write(artifact, prompts, *, new_tokens=20, stop=frozenset()):
    limits = Limits(context=CONTEXT, vocabulary=VOCABULARY, stop=stop)
    tokens = [[] for _ in prompts]
    ends = {}
    for step in Writer(artifact, open_session(artifact), limits).write(prompts, new_tokens=new_tokens):
        for token in step:
            assert token.row not in ends
            tokens[token.row].append(token.id)
            if token.finish:
                ends[token.row] = token.finish
    return tokens, [ends[row] for row in range(len(prompts))]


def by_torch(folder, prompt, new_tokens):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("name", "exporter"),
    [("gpt2", "fused"), ("gpt2", "optimum"), ("llama", "fused"), ("llama", "fused-cuda"), ("phi3", "fused")],
)
def test_a_batch_of_unlike_lengths_gets_the_tokens_of_torch(fp32, tiny, name, exporter):
    tokens, ends = write(fp32(name, exporter), PROMPTS)
    assert tokens == [by_torch(tiny(name), prompt, 20) for prompt in PROMPTS]
    assert ends == ["length"] * 3


def test_rows_that_a_common_range_ties_together_are_run_alone(fp32, tmp_path):
    made = quantization.quantize(
        str(fp32("gpt2").path), tmp_path / "out", recipe_name="int8-dynamic", options={"engine": "ort"}
    )
    session = open_session(made)
    alone = []
    for prompt in PROMPTS:
        ids = np.array([prompt])
        decoder = session.decoder(batch=1, capacity=CONTEXT)
        alone.append(generate(decoder, ids, np.ones_like(ids), new_tokens=20).tokens[0].tolist())
    assert write(made, PROMPTS)[0] == alone


def test_rows_that_reach_over_the_switch_of_longrope_are_run_alone(fp32):
    writer = Writer(fp32("phi3"), open_session(fp32("phi3")), Limits(context=64, vocabulary=384, stop=frozenset()))
    assert list(writer._groups(PROMPTS, LONGROPE_SWITCH - 7)) == [[0, 1, 2]]
    assert list(writer._groups(PROMPTS, LONGROPE_SWITCH - 6)) == [[0], [1], [2]]


def test_many_rows_are_run_in_parts_that_memory_bounds(fp32):
    large = Limits(context=64, vocabulary=2**24, stop=frozenset())
    writer = Writer(fp32("gpt2"), open_session(fp32("gpt2")), large)
    assert list(writer._groups([(1, 2), (3, 4), (5, 6), (7, 8), (9, 1)], 5)) == [[0, 1, 2, 3], [4]]


def test_a_row_ends_at_a_stop_token_and_the_others_go_on(fp32):
    free, _ = write(fp32("llama"), PROMPTS)
    stop = free[1][4]
    tokens, ends = write(fp32("llama"), PROMPTS, stop=frozenset({stop}))
    for row in range(3):
        cut = free[row].index(stop) + 1 if stop in free[row] else 20
        assert tokens[row] == free[row][:cut]
        assert ends[row] == ("stop" if stop in free[row] else "length")
    assert "length" in ends


def test_the_whole_context_can_be_filled(fp32, tiny):
    prompt = tuple(range(1, 31))
    tokens, _ = write(fp32("gpt2"), [prompt, (5,)], new_tokens=CONTEXT - 30)
    assert tokens[0] == by_torch(tiny("gpt2"), prompt, CONTEXT - 30)


@pytest.fixture
def artifact(fp32, tmp_path):
    """A copy, and a hand that changes its side files."""
    shutil.copytree(fp32("llama").path, tmp_path / "copy")
    loaded = load_artifact(tmp_path / "copy")

    def change(name, **values):
        (loaded.path / name).write_text(json.dumps(values))
        return loaded

    return change


@pytest.mark.parametrize(
    ("generation", "config", "stop"),
    [
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 3}, {7, 8}),
        ({"eos_token_id": 7}, {}, {7}),
        ({}, {"eos_token_id": 3}, {3}),
        ({}, {"eos_token_id": 0}, {0}),
        ({}, {}, {99}),
    ],
)
def test_what_ends_an_answer(artifact, generation, config, stop):
    artifact("generation_config.json", **generation)
    loaded = artifact("config.json", vocab_size=384, max_position_embeddings=64, **config)
    assert read_limits(loaded, 99) == Limits(context=64, vocabulary=384, stop=frozenset(stop))


def test_without_a_context_the_limits_are_an_error(artifact):
    with pytest.raises(InputError, match="names no vocabulary or context"):
        read_limits(artifact("config.json", vocab_size=384), None)
    with pytest.raises(InputError, match="names no vocabulary or context"):
        read_limits(artifact("config.json"), None)


class Endless:
    """A writer whose answer never ends, and that counts its steps; the third prompt is one that it cannot run."""

    def __init__(self):
        self.steps = 0

    def write(self, prompts, **_):
        while True:
            if prompts[0] == (3,):
                raise RuntimeError("the device\nis gone")
            self.steps += 1
            time.sleep(0.001)
            yield [Token(0, self.steps, None)]


@pytest.fixture
def worker():
    made = Worker(Endless())
    yield made
    made.close()


def test_the_model_stops_once_nobody_waits(worker):
    async def first_of_many():
        async with contextlib.aclosing(worker.write([(1,)], new_tokens=10**9)) as steps:
            async for _ in steps:
                return

    asyncio.run(first_of_many())
    worker._thread.submit(lambda: None).result(timeout=5)  # its turn comes
    steps = worker._writer.steps
    time.sleep(0.05)
    assert worker._writer.steps == steps
    assert worker.requests == 0


def test_a_request_that_is_given_up_before_its_turn_never_runs(worker):
    async def give_up_one():
        first, second = (worker.write([(1,)], new_tokens=9) for _ in range(2))
        await anext(first)
        waiting = asyncio.ensure_future(anext(second))
        await asyncio.sleep(0.02)
        assert worker.requests == 2
        assert not waiting.done()  # one at a time
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert worker.requests == 1
        await first.aclose()

    asyncio.run(give_up_one())


def test_more_requests_than_are_taken_are_busy(worker):
    async def crowd():
        async with contextlib.AsyncExitStack() as stack:
            waiting = []
            for _ in range(WAITING):
                steps = await stack.enter_async_context(contextlib.aclosing(worker.write([(1,)], new_tokens=9)))
                waiting.append(asyncio.ensure_future(anext(steps)))
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await anext(worker.write([(1,)], new_tokens=9))
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(crowd())


def test_what_goes_wrong_is_told_and_is_a_failure_until_something_goes_well(worker):
    async def fail_and_recover():
        with pytest.raises(RuntimeError):
            await anext(worker.write([(3,)], new_tokens=1))
        assert worker.failure == "the device is gone"
        assert await worker.healthy()
        assert worker.failure == ""

    asyncio.run(fail_and_recover())
