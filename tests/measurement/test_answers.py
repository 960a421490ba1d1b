from __future__ import annotations

import contextlib
import contextvars
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import pytest

from qexport.core import progress
from qexport.core.errors import ContractError, InputError, NotComparable, UnsupportedHere
from qexport.core.record import Conditions
from qexport.measurement import answers, child
from qexport.measurement.answers import Apart, Here
from qexport.runtime.opening import open_session
from qexport.runtime.scoring import Likelihood, Passage, Prompt
from tests import decoders

pytestmark = pytest.mark.real_child

PASSAGES = [
    Passage((5, 6, 7), (8, 9)),
    Passage((5, 6, 7), (10,)),
    Passage((1,), (2, 3, 4)),
    Passage((9, 8, 7, 6), (5, 4, 3)),
    Passage((9, 8, 7, 6), (5, 4)),
]
PROMPTS = [
    Prompt((5, 6, 7), (), (), 4),
    Prompt((8,), ("a word that is not written",), (0,), 3),
    Prompt((9, 8, 7, 6), (), (), 4),
]


@pytest.fixture(scope="module")
def artifact(fp32):
    return fp32("gpt2")


@pytest.fixture(scope="module")
def here(artifact):
    return Here(artifact, open_session(artifact, threads=1))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "answers" / "fp32.jsonl"


@pytest.fixture
def asked(monkeypatch):
    """Children run in this process; how many requests each was asked."""
    counts = []

    def run(module, question, output, *, threads, timeout_s, look):
        assert (module, timeout_s) == ("qexport.measurement.answers", answers.HUNG_S)
        given = json.loads(question)
        assert given["threads"] == threads
        counts.append(len(given["passages"]) + len(given["prompts"]))
        output.write_bytes(b"")
        monkeypatch.setattr(child, "read_question", question.encode)
        answers.main()
        return 0

    monkeypatch.setattr(child, "watch_child", run)
    return counts


@pytest.fixture
def no_child(monkeypatch):
    def run(*_, **__):
        raise AssertionError("a process was started")

    def forbid():
        monkeypatch.setattr(child, "watch_child", run)

    return forbid


def apart(artifact, file, **changes) -> Apart:
    return Apart(artifact, file, **{"row": "fp32", "threads": 1} | changes)


def close(found, expected) -> None:
    np.testing.assert_allclose(*([one.log_likelihood for one in each] for each in (found, expected)), 0, 1e-5)
    assert [one.greedy for one in found] == [one.greedy for one in expected]
    assert {type(one) for one in found} == {Likelihood}


def lines(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# In this process


def test_answers_are_in_the_order_of_the_requests(here):
    expected = here.likelihoods(PASSAGES)
    assert len({one.log_likelihood for one in expected}) == len(PASSAGES)
    close(here.likelihoods([*PASSAGES[::-1], PASSAGES[2]]), [*expected[::-1], expected[2]])
    said = here.continuations(PROMPTS)
    assert [len(answer) for answer in said] == [4, 3, 4]
    assert here.continuations([PROMPTS[2], *PROMPTS]) == [said[2], *said]
    assert here.likelihoods([]) == here.continuations([]) == []


def test_an_answer_is_read_by_the_artifacts_tokenizer(artifact, here):
    from transformers import AutoTokenizer

    (said,) = here.continuations([Prompt((5, 6, 7), (), (), 6)])
    text = AutoTokenizer.from_pretrained(artifact.path).decode(said)
    word = text[len(text) // 2 :]
    (cut,) = here.continuations([Prompt((5, 6, 7), (word,), (), 6)])
    assert cut == said[: len(cut)]
    (first,) = here.continuations([Prompt((5, 6, 7), (text[:1],), (), 6)])
    assert len(first) == 1


@pytest.mark.parametrize("rows", [1, 2, 32])
def test_no_more_rows_than_asked_for(artifact, here, monkeypatch, rows):
    session = open_session(artifact, threads=1)
    batches = []
    real = session.decoder
    monkeypatch.setattr(session, "decoder", lambda **given: batches.append(given["batch"]) or real(**given))
    few = Here(artifact, session, rows=rows)
    close(few.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert max(batches) == min(rows, 3)


# Files of answers


def test_apart_answers_as_here_and_asks_once(artifact, here, file, asked, no_child):
    one = apart(artifact, file, rows=2)
    close(one.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert one.continuations(PROMPTS) == here.continuations(PROMPTS)
    assert asked == [5, 3]
    no_child()
    close(one.likelihoods(PASSAGES[::-1] * 2), here.likelihoods(PASSAGES[::-1] * 2))
    assert apart(artifact, file).continuations(PROMPTS[1:]) == here.continuations(PROMPTS[1:])


def test_a_process_that_scores_does_without_transformers(artifact, here, file, asked, monkeypatch):
    """It imports torch: ten seconds and 300 MB."""
    expected = here.likelihoods(PASSAGES)
    monkeypatch.setitem(sys.modules, "transformers", None)
    close(apart(artifact, file).likelihoods(PASSAGES), expected)
    assert asked == [5]


def test_the_file_holds_a_session_and_then_its_answers(artifact, file, asked):
    one = apart(artifact, file)
    with pytest.raises(InputError, match=r"fp32\.jsonl: nothing was answered"):
        _ = one.opened
    one.likelihoods(PASSAGES[:3])
    first, *rest = lines(file)
    assert set(first["opened"]) == {"conditions", "facts"}
    conditions = Conditions.model_validate(first["opened"]["conditions"])
    assert (conditions.threads, conditions.provider, conditions.device) == (1, "cpu", "")
    assert conditions.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert conditions.versions == {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    assert conditions.machine
    # Kernels were compared with the manifest.
    assert first["opened"]["facts"]["integer_matmuls_run"] == 0
    assert one.opened.conditions == conditions
    assert one.opened.facts == first["opened"]["facts"]
    assert len({line["key"] for line in rest}) == 3
    assert all(set(line) == {"key", "log_likelihood", "greedy"} or "opened" in line for line in rest)
    one.continuations(PROMPTS[:1])
    assert set(lines(file)[-1]) == {"key", "tokens"}
    assert asked == [3, 1]


def test_the_same_request_has_the_same_key_and_no_other_has_it():
    keys = {
        answers._key(request)
        for request in (
            *PASSAGES,
            *PROMPTS,
            Passage((5, 6), (7, 8, 9)),
            Prompt((5, 6, 7), ("x",), (), 4),
            Prompt((5, 6, 7), (), (8,), 4),
            Prompt((5, 6, 7), (), (), 5),
        )
    }
    assert len(keys) == len(PASSAGES) + len(PROMPTS) + 4
    # Those of files that are there already.
    assert answers._key(Passage((5,), (6,))) == "b256e745fda302ee424a716f900a6d26bc2c6a774765580d112112af78987b6d"


def test_only_what_is_missing_is_asked(artifact, here, file, asked):
    one = apart(artifact, file)
    one.likelihoods(PASSAGES[:2])
    close(one.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    one.likelihoods(PASSAGES)
    assert asked == [2, 3]
    kept = file.read_text().splitlines(keepends=True)
    gone = [number for number, line in enumerate(lines(file)) if line.get("key") == answers._key(PASSAGES[3])]
    file.write_text("".join(line for number, line in enumerate(kept) if number not in gone))
    close(one.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert asked == [2, 3, 1]


@pytest.mark.parametrize("left", [1, 20, -1], ids=["a byte", "a part", "all but its end"])
def test_a_torn_line_is_cut_off_and_asked_again(artifact, here, file, asked, left):
    one = apart(artifact, file)
    one.likelihoods(PASSAGES)
    whole = file.read_bytes()
    before = whole[:-1].rindex(b"\n") + 1
    last = whole[before:]
    file.write_bytes(whole[:before] + last[:left])
    close(one.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert asked == [5, 1]
    assert file.read_bytes()[:before] == whole[:before]
    assert len(lines(file)) == 1 + 4 + 1 + 1
    close(one.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert asked == [5, 1]


def test_a_torn_first_line_leaves_nothing(artifact, here, file, asked):
    file.parent.mkdir()
    file.write_text('{"opened": {"conditi')
    close(apart(artifact, file).likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert asked == [5]
    assert len(lines(file)) == 6


@pytest.mark.parametrize(
    "line", ["{", "[]", "null", '{"key": "a", "answer": 3}', '{"key": "a", "tokens": ["b"]}', "", "\x80"]
)
def test_a_line_that_is_no_answer(artifact, file, asked, line):
    one = apart(artifact, file)
    one.likelihoods(PASSAGES[:1])
    with file.open("a", encoding="latin-1") as handle:
        handle.write(line + "\n" + file.read_text().splitlines()[-1] + "\n")
    with pytest.raises(InputError) as caught:
        one.likelihoods(PASSAGES[:1])
    assert str(caught.value) == f"{file}:3: not an answer of qexport; remove the file and start anew"
    with pytest.raises(InputError, match=r"fp32\.jsonl:3: "):
        _ = one.opened
    assert asked == [1]


def test_answers_made_under_other_conditions_are_not_mixed(artifact, file, asked):
    apart(artifact, file).likelihoods(PASSAGES[:2])
    with pytest.raises(NotComparable, match=r"fp32\.jsonl: cannot be resumed.*--overwrite"):
        apart(artifact, file, threads=2).likelihoods(PASSAGES)
    first, *rest = file.read_text().splitlines(keepends=True)
    other = json.loads(first)
    other["opened"]["conditions"]["machine"] = "another"
    file.write_text(first + "".join(rest) + json.dumps(other) + "\n")
    with pytest.raises(NotComparable, match="cannot be resumed"):
        apart(artifact, file).likelihoods(PASSAGES[:2])


def test_other_conditions_spoil_no_file(artifact, here, file, asked):
    """They are refused before anything is answered, and those that it was begun under can go on."""
    apart(artifact, file).likelihoods(PASSAGES[:2])
    before = file.read_bytes()
    with pytest.raises(NotComparable, match="cannot be resumed"):
        apart(artifact, file, threads=2).likelihoods(PASSAGES)
    assert file.read_bytes() == before
    close(apart(artifact, file).likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert asked == [2, 3, 3]


def test_other_facts_are_no_other_conditions(artifact, file, asked):
    """Only what a figure depends on must be the same."""
    one = apart(artifact, file)
    one.likelihoods(PASSAGES[:2])
    first, *rest = file.read_text().splitlines(keepends=True)
    changed = json.loads(first)
    changed["opened"]["facts"]["integer_matmuls_run"] = 7
    file.write_text(json.dumps(changed) + "\n" + "".join(rest))
    one.likelihoods(PASSAGES)
    assert one.opened.facts["integer_matmuls_run"] == 0
    assert asked == [2, 3]


def test_nothing_is_asked_of_a_model_that_does_not_fit(artifact, file, no_child, monkeypatch):
    no_child()
    monkeypatch.setattr("qexport.core.ram.available_bytes", lambda: 50_000_000)
    with pytest.raises(UnsupportedHere, match="are free"):
        apart(artifact, file).likelihoods(PASSAGES)
    assert apart(artifact, file).likelihoods([]) == []
    assert not file.exists()


def test_an_error_of_the_child_is_raised_again(tmp_path, file, asked):
    model = decoders.quantized(decoders.UNFUSED)
    broken = decoders.save(tmp_path / "a", model, decoders.QUANTIZED_NODE)
    with pytest.raises(ContractError, match="0 integer matmuls ran where the manifest names 1"):
        apart(broken, file).likelihoods(PASSAGES)
    assert asked == [5]
    assert not file.exists()


def test_what_was_answered_before_an_error_stays(artifact, here, file, asked, monkeypatch):
    """A model that computes NaN in one place."""
    real, batches = answers.loglikelihoods, []

    def breaks(session, passages, *, batching, done):
        def told(batch):
            if len(batches) == 2:
                raise ContractError("a likelihood is not finite")
            batches.append(batch)
            done(batch)

        real(session, passages, batching=batching, done=told)

    monkeypatch.setattr(answers, "loglikelihoods", breaks)
    one = apart(artifact, file, rows=1)
    with pytest.raises(ContractError, match="not finite"):
        one.likelihoods(PASSAGES)
    answered = sum(map(len, batches))
    assert 0 < answered < 5
    assert len(lines(file)) == 1 + answered
    monkeypatch.setattr(answers, "loglikelihoods", real)
    close(one.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert asked == [5, 5 - answered]


def test_progress_counts_answers(artifact, file, asked):
    told = []

    @contextlib.contextmanager
    def reporter(description, total):
        told.append([description, total, 0])

        def advance():
            told[-1][2] += 1

        yield advance

    def ask():
        progress.install(reporter)
        one = apart(artifact, file, row="int8 (attention)")
        one.likelihoods(PASSAGES[:2])
        one.likelihoods(PASSAGES)
        one.likelihoods(PASSAGES)

    contextvars.copy_context().run(ask)
    assert told == [["answering, int8 (attention)", 2, 2], ["answering, int8 (attention)", 3, 3]]


# Processes


@pytest.fixture
def first(tmp_path, monkeypatch):
    """``first(code)`` makes the next children run ``code`` before anything else: PYTHONPATH reaches a sitecustomize."""
    folder = tmp_path / "site"
    folder.mkdir()
    real = child.environment

    def variables(threads):
        given = real(threads)
        return given | {"PYTHONPATH": f"{folder}{os.pathsep}{given['PYTHONPATH']}"}

    def write(code):
        (folder / "sitecustomize.py").write_text(f"import os, signal, sys, time\nif sys.argv[:1] == ['-m']:\n{code}\n")
        monkeypatch.setattr(child, "environment", variables)

    return write


DIES = """
    import qexport.measurement.answers as m
    real = m.Here.score
    def score(self, passages, done):
        def told(batch):
            done(batch)
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, passages, told)
    m.Here.score = score
    m.main()
"""


def test_a_fresh_process_answers_as_this_one(artifact, here, file):
    one = apart(artifact, file)
    # Generation alone: what scores is shown below, and this process imports torch for its tokenizer.
    assert one.continuations(PROMPTS) == here.continuations(PROMPTS)
    assert one.opened.conditions.threads == 1


def test_a_killed_process_leaves_what_it_answered(artifact, here, file, first, monkeypatch):
    one = apart(artifact, file, rows=1)
    first(DIES)
    with pytest.raises(UnsupportedHere) as caught:
        one.likelihoods(PASSAGES)
    assert str(caught.value).startswith(
        "killed by signal 9 (SIGKILL), most likely out of memory: loading it takes about 0."
    )
    answered = len(lines(file)) - 1
    assert 0 < answered < 5
    questions = []
    monkeypatch.undo()
    real = child.watch_child

    def watched(module, question, *arguments, **given):
        questions.append(len(json.loads(question)["passages"]))
        return real(module, question, *arguments, **given)

    monkeypatch.setattr(child, "watch_child", watched)
    close(one.likelihoods(PASSAGES), here.likelihoods(PASSAGES))
    assert questions == [5 - answered]


def test_a_process_that_hangs_is_stopped(artifact, file, first, monkeypatch):
    monkeypatch.setattr(answers, "HUNG_S", 1.0)
    first("    time.sleep(600)")
    start = time.perf_counter()
    with pytest.raises(UnsupportedHere) as caught:
        apart(artifact, file).likelihoods(PASSAGES)
    assert str(caught.value) == "no answer within 1 s"
    assert time.perf_counter() - start < 20


def test_a_process_that_answers_now_and_then_does_not_hang(artifact, file, first, monkeypatch):
    """It takes longer than it may be silent, and each answer comes in time."""
    monkeypatch.setattr(answers, "HUNG_S", 3.0)
    monkeypatch.setattr(child, "_LOOK_S", 0.1)
    keys = [answers._key(passage) for passage in PASSAGES]
    first(f"""
    import json
    question = json.loads(sys.stdin.readline())
    with open(question["answers"], "a") as answers:
        for key in {keys}:
            time.sleep(1.0)
            print(json.dumps(dict(key=key, log_likelihood=-1.0, greedy=True)), file=answers, flush=True)
    open(question["ended"], "w").write("{{}}")
    os._exit(0)
""")
    assert apart(artifact, file).likelihoods(PASSAGES) == [Likelihood(-1.0, greedy=True)] * 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_killed_parent_take_the_child_along(artifact, tmp_path, number):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(artifact.path), str(tmp_path)])
    pid_file = tmp_path / "pid"
    wait_for(pid_file.is_file)
    process = int(pid_file.read_text())
    assert running(process)
    parent.send_signal(number)
    assert parent.wait(timeout=20) != 0
    wait_for(lambda: not running(process))


PARENT = """
import pathlib, sys
from qexport.measurement.answers import Apart
from qexport.core.artifact import load_artifact
from qexport.runtime.scoring import Passage
folder = pathlib.Path(sys.argv[2])
(folder / "sitecustomize.py").write_text(
    "import os, sys, time, pathlib\\n"
    "if sys.argv[:1] == ['-m']:\\n"
    "    import qexport.measurement.answers as m\\n"
    f"    m.open_session = lambda *a, **k: (pathlib.Path('{folder}/part').write_text(str(os.getpid())),"
    f" os.rename('{folder}/part', '{folder}/pid'), time.sleep(600))\\n"
    "    m.main()\\n"
)
sys.path.insert(0, str(folder))
Apart(load_artifact(pathlib.Path(sys.argv[1])), folder / "answers", row="fp32").likelihoods([Passage((1,), (2,))])
"""


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "did not come about"
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan without an init to reap it stays a zombie.
    stat = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(stat.strip()) and not stat.startswith("Z")
