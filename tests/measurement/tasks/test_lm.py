"""What an artifact is as a model of lm-eval, where its answers are not those of the ``hf`` model, or are none."""

from __future__ import annotations

import json

import pytest

from qexport.core import cuda
from qexport.core.errors import InputError, QExportError
from qexport.runtime.scoring import BATCH_ROWS, Likelihood
from tests.measurement.tasks.conftest import ours


class Echo:
    """A respondent that needs no model: likelihoods by length, and a prompt's own first tokens."""

    def __init__(self):
        self.asked = []

    def likelihoods(self, passages):
        self.asked += passages
        return [Likelihood(-float(len(passage.continuation)), greedy=False) for passage in passages]

    def continuations(self, prompts):
        self.asked += prompts
        return [prompt.tokens[: prompt.new_tokens] for prompt in prompts]


@pytest.fixture
def echo(fp32):
    """A model of 64 positions, whose answers are told by :class:`Echo`."""
    from qexport.measurement.tasks.lm import ArtifactLM

    return ArtifactLM(fp32("gpt2").path, Echo())


def requests(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def generate(model, text="the fox", **settings):
    (answer,) = model.generate_until(requests("generate_until", (text, settings)))
    return answer


def test_nothing_to_score_is_certain_and_nobody_is_asked(echo):
    asked = requests("loglikelihood", ("the fox", ""), ("the fox", " jumps"), ("the fox", ""))
    nothing, jumps, again = echo.loglikelihood(asked)
    assert nothing == again == (0.0, True)
    assert jumps[0] < 0
    assert len(echo._respondent.asked) == 1


def test_answers_are_in_the_order_of_the_requests_twice_the_same_among_them(echo):
    texts = (" jumps", " jumps over the lazy dog", " j", " jumps")
    answers = echo.loglikelihood(requests("loglikelihood", *[("the fox", text) for text in texts]))
    assert answers[0] == answers[3] != answers[1] < answers[0]
    words = ("the fox", "the dog", "the fox")
    written = echo.generate_until(
        requests("generate_until", *[(word, {"until": [], "max_gen_toks": 3}) for word in words])
    )
    assert [text == "the fox"[: len(text)] for text in written] == [True, False, True]


def test_lm_evals_cache_is_told_every_answer(echo):
    told = []
    echo.cache_hook.add_partial = lambda *given: told.append(given)
    settings = {"until": [], "max_gen_toks": 3}
    echo.loglikelihood(requests("loglikelihood", ("the fox", " jumps"), ("the fox", "")))
    echo.loglikelihood_rolling(requests("loglikelihood_rolling", ("the fox " * 40,)))
    text = generate(echo, **settings)
    assert [(kind, arguments) for kind, arguments, _ in told] == [
        ("loglikelihood", ("the fox", " jumps")),
        ("loglikelihood", ("the fox", "")),
        ("loglikelihood_rolling", ("the fox " * 40,)),
        ("generate_until", ("the fox", settings)),
    ]
    assert told[-1][2] == text
    assert json.dumps([answer for *_, answer in told])


def test_windows_of_a_long_text_are_no_cut_contexts(echo):
    echo.loglikelihood_rolling(requests("loglikelihood_rolling", ("the fox " * 40,)))
    assert len(echo._respondent.asked) > 1
    assert not echo.truncated


# Refusals: one line each


def refusal(act, *parts):
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_no_chat_template(echo):
    history = [{"role": "user", "content": "Where is the fox?"}]
    refusal(lambda: echo.apply_chat_template(history), "has no chat template", "leave --apply-chat-template out")


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"temperature": 0.7}, {"do_sample": True, "temperature": 1}])
def test_sampling(echo, settings):
    refusal(lambda: generate(echo, max_gen_toks=4, **settings), "sampling", "greedily")
    assert not echo._respondent.asked


def test_more_new_tokens_than_the_context_holds(echo):
    refusal(lambda: generate(echo), "256 new tokens do not fit", "context of 64", "--gen-kwargs max_gen_toks=N")
    refusal(lambda: generate(echo, max_gen_toks=64), "64 new tokens do not fit")
    assert generate(echo, max_gen_toks=63)


@pytest.mark.parametrize("many", [0, -1])
def test_no_new_tokens_at_all(echo, many):
    """The ``hf`` model ends in a ValueError; here the decoder would never stop."""
    refusal(lambda: generate(echo, max_gen_toks=many), f"{many} new tokens", "max_gen_toks")


@pytest.mark.parametrize("settings", [{"num_beams": 4}, {"repetition_penalty": 1.3}, {"max_gen_tok": 4}])
def test_settings_that_would_be_passed_over(echo, settings):
    """The ``hf`` model heeds them, or refuses those that nobody knows."""
    refusal(lambda: generate(echo, max_gen_toks=4, **settings), next(iter(settings)))


def test_a_choice_longer_than_the_context(echo):
    asked = requests("loglikelihood", ("the fox", " the lazy dog" * 60))
    refusal(lambda: echo.loglikelihood(asked), "a choice of ", "context of 64")


# The model of lm-eval's command line


def created(folder, arguments=None, **more):
    from lm_eval.api.registry import get_model

    given = {"batch_size": 1, "max_batch_size": None, "device": None} | more
    return get_model("qexport").create_from_arg_obj(
        {"pretrained": str(folder), "threads": 1} | (arguments or {}), given
    )


def test_it_is_made_of_what_lm_evals_command_line_gives(fp32):
    art = fp32("gpt2")
    found = created(art.path, batch_size=1)
    reference = ours(art)
    asked = [("the fox", " jumps over"), ("the quick brown", " fox")]
    wanted = reference.loglikelihood(requests("loglikelihood", *asked))
    for answer, other in zip(found.loglikelihood(requests("loglikelihood", *asked)), wanted, strict=True):
        assert answer == pytest.approx(other, abs=1e-5)
    told = found.get_model_info()
    assert told["model_sha"] == art.sha256
    assert (told["recipe"], told["provider"], told["quantized_nodes"]) == ("fp32", "cpu", 0)
    assert told["model_num_parameters"] == art.manifest.model.parameters
    assert json.dumps(told)
    assert "/" not in found.tokenizer_name
    assert (found.rank, found.world_size) == (0, 1)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"batch_size": 3}, 3),
        ({"batch_size": "5"}, 5),
        ({"batch_size": "auto"}, BATCH_ROWS),
        ({"batch_size": "auto:4"}, BATCH_ROWS),
        ({"batch_size": "auto", "max_batch_size": 7}, 7),
    ],
)
def test_how_many_requests_it_runs_at_once(fp32, given, rows):
    assert created(fp32("gpt2").path, **given)._respondent._batching.rows == rows


@pytest.mark.skipif(bool(cuda.device_names()), reason="there is a GPU here")
def test_a_device_that_lm_eval_thinks_of_by_itself_is_no_wish(fp32):
    """It says ``cuda`` unless it is told otherwise."""
    assert created(fp32("gpt2").path, device="cuda:0").get_model_info()["provider"] == "cpu"
    with pytest.raises(QExportError, match="cuda"):
        created(fp32("gpt2").path, {"provider": "cuda"})


def test_lengths_as_of_the_hf_model(fp32):
    found = created(fp32("gpt2").path, {"max_length": 16, "max_gen_toks": 5, "add_bos_token": True})
    assert (found.max_length, found.max_gen_toks) == (16, 5)
    assert created(fp32("gpt2").path).max_length == 64


def test_a_folder_that_is_no_artifact(tmp_path):
    refusal(lambda: created(tmp_path), "not an artifact")
