from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from qexport.core import errors
from qexport.core.errors import ContractError, InputError, NotComparable, QExportError, SelectionError, UnsupportedHere
from qexport.measurement import child
from qexport.runtime.session import ProviderUnavailable

TOLD = """
import os, pathlib, sys
from qexport.measurement.child import read_question
line = read_question().decode()
pathlib.Path(line.strip()).write_text("\\n".join([repr(line), os.environ["OMP_NUM_THREADS"], os.environ["HF_HUB_OFFLINE"]]))
print("said")
print("complained", file=sys.stderr)
"""


@pytest.fixture
def child_of(tmp_path, monkeypatch):
    """``child_of(code)`` makes that code a module of its own, and runs it as a child of so many seconds."""
    monkeypatch.setattr(child, "_LOOK_S", 0.05)
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def run(code, question="", *, timeout_s=60.0, look=None):
        (folder / "some_child.py").write_text(code)
        arguments = {"threads": 3, "timeout_s": timeout_s}
        if look is None:
            return child.run_child("some_child", question, tmp_path / "output", **arguments)
        return child.watch_child("some_child", question, tmp_path / "output", look=look, **arguments)

    return run


# What a child gets, and leaves


def test_a_child_is_asked_one_line_and_told_its_threads(child_of, tmp_path, capfd):
    assert child_of(TOLD, str(tmp_path / "told")) == 0
    line, threads, offline = (tmp_path / "told").read_text().splitlines()
    assert (line, threads, offline) == (repr(f"{tmp_path / 'told'}\n"), "3", "1")
    assert sorted((tmp_path / "output").read_text().split()) == ["complained", "said"]
    assert capfd.readouterr() == ("", "")


def test_modules_in_the_working_folder_are_not_imported(child_of, tmp_path, monkeypatch):
    (tmp_path / "onnx.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path)
    assert child_of("import onnx") == 0


@pytest.mark.parametrize(
    ("code", "status"), [("", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_the_status_of_a_child(child_of, code, status):
    assert child_of(code) == status


def test_a_child_that_stops_with_an_error_has_the_last_word(child_of, tmp_path):
    """Waiting for the end of stdin must not abort it first."""
    code = "from qexport.measurement.child import read_question\nread_question()\nraise MemoryError('no room')\n"
    assert child_of(code) == 1
    assert str(child.no_answer("", 1, tmp_path / "output", 1.0)) == "ended with exit code 1: MemoryError: no room"


@pytest.mark.parametrize("length", [10, 9_000, 2**20], ids=["short", "longer than a buffer", "longer than a pipe"])
def test_a_child_that_is_dead_before_it_is_asked(child_of, monkeypatch, length):
    class Dead(subprocess.Popen):
        def __init__(self, *arguments, **given):
            super().__init__(*arguments, **given)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(subprocess, "Popen", Dead)
    assert child_of("import os; os._exit(3)", "x" * length) == 3


def test_a_child_ends_with_whoever_asked(child_of, tmp_path):
    """Its stdin is closed, and it need not look."""
    code = "import time\nfrom qexport.measurement.child import read_question\nread_question()\ntime.sleep(600)\n"
    (tmp_path / "sleeper.py").write_text(code)
    sleeper = subprocess.Popen(
        [sys.executable, "-P", str(tmp_path / "sleeper.py")], stdin=subprocess.PIPE, env=child.environment(1)
    )
    try:
        sleeper.stdin.write(b"a question\n")
        sleeper.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            sleeper.wait(timeout=1.0)
        sleeper.stdin.close()
        assert sleeper.wait(timeout=20) == 1
    finally:
        sleeper.kill()
        sleeper.wait()


# Time


def test_a_child_that_does_nothing_is_killed(child_of, tmp_path):
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(600)"
    assert child_of(code, timeout_s=1.0) is None
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_time_counts_from_the_last_thing_done(child_of):
    """It works three times as long as it may be idle."""
    code = "import time; time.sleep(3.0)"
    looks = []
    start = time.perf_counter()
    assert child_of(code, timeout_s=1.0, look=lambda: looks.append(1) is None) == 0
    assert time.perf_counter() - start > 3.0
    assert len(looks) > 10
    assert child_of(code, timeout_s=1.0, look=lambda: False) is None


def test_what_was_done_early_does_not_help_later(child_of):
    done = iter([False, True, True])
    start = time.perf_counter()
    assert child_of("import time; time.sleep(600)", timeout_s=0.5, look=lambda: next(done, False)) is None
    assert time.perf_counter() - start < 20


def test_whatever_ends_the_watching_ends_the_child(child_of, tmp_path):
    pid = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"

    def interrupted():
        if pid.is_file() and pid.read_text():
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        child_of(code, look=interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


# Why there is no answer


@pytest.mark.parametrize(
    ("code", "printed", "reason"),
    [
        (None, "still at it\n", "no answer within 1800 s"),
        (-signal.SIGKILL, "", "killed by signal 9 (SIGKILL), most likely out of memory"),
        (-signal.SIGSEGV, "a last word\n", "killed by signal 11 (SIGSEGV)"),
        (-signal.SIGABRT, "", "killed by signal 6 (SIGABRT)"),
        (0, "", "ended with exit code 0: without a word"),
        (3, "first\n  last \n \n", "ended with exit code 3: last"),
        (1, "x" * 10_000 + "\nlast", "ended with exit code 1: last"),
        (1, b"\xff broken", "ended with exit code 1: \N{REPLACEMENT CHARACTER} broken"),
    ],
)
def test_no_answer_in_words(tmp_path, code, printed, reason):
    output = tmp_path / "output"
    output.write_bytes(printed.encode() if isinstance(printed, str) else printed)
    error = child.no_answer("something", code, output, 1800.0)
    assert type(error) is (child.Killed if code == -signal.SIGKILL else UnsupportedHere)
    assert str(error) == reason


def test_the_end_of_what_a_dead_child_said_is_in_the_log(tmp_path, caplog):
    output = tmp_path / "output"
    output.write_text("Traceback\nMemoryError\n")
    with caplog.at_level("DEBUG", logger="qexport.measurement.child"):
        child.no_answer("requests to fp32", 1, output, 1.0)
        assert "requests to fp32: the child's output:\nTraceback\nMemoryError" in caplog.text
        output.write_text("noise\n" * 10_000 + "MemoryError\n")
        caplog.clear()
        child.no_answer("requests to fp32", 1, output, 1.0)
    assert len(caplog.text) < 5_000
    assert "noise\nMemoryError" in caplog.text


@pytest.mark.parametrize(
    "kind",
    [ContractError, InputError, NotComparable, ProviderUnavailable, QExportError, SelectionError, UnsupportedHere],
)
def test_an_error_keeps_its_class(kind):
    error = child.raised(kind.__name__, "what, where; what to do")
    assert type(error) is kind
    assert str(error) == "what, where; what to do"


def test_every_error_of_qexport_keeps_its_class():
    names = [line.split()[1] for line in errors.__doc__.splitlines() if line[:1] in "├└" and line]
    known = [getattr(errors, name) for name in names]
    assert len(known) == 6
    assert [type(child.raised(kind.__name__, "")) for kind in known] == known


@pytest.mark.parametrize("name", ["ValueError", "Iterable", "near_names", "EXIT_ERROR", "", "annotations"])
def test_an_unknown_error_is_one_of_qexport(name):
    assert type(child.raised(name, "what")) is QExportError


# Several questions


TALKER = """
import time
from qexport.measurement import child
def answer(line):
    print("noise")
    if line == b"sleep":
        time.sleep(600)
    if line == b"die":
        raise MemoryError("no room")
    return line.decode().upper()
child.converse(answer)
"""


@pytest.fixture
def talker(tmp_path, monkeypatch):
    (tmp_path / "talker.py").write_text(TALKER)
    monkeypatch.syspath_prepend(tmp_path)
    conversation = child.Conversation("talker", tmp_path / "output", threads=1)
    yield conversation
    conversation.close()


def test_a_child_answers_line_by_line_whatever_is_printed(talker):
    assert [talker.ask(word, "words", 60.0).strip() for word in ("one", "two")] == ["ONE", "TWO"]


def test_a_child_that_dies_in_a_conversation(talker):
    with pytest.raises(UnsupportedHere, match="ended with exit code 1: MemoryError: no room"):
        talker.ask("die", "words", 60.0)
    with pytest.raises(UnsupportedHere):
        talker.ask("one", "words", 60.0)


def test_a_child_that_hangs_in_a_conversation(talker):
    with pytest.raises(UnsupportedHere, match="no answer within 2 s"):
        talker.ask("sleep", "words", 2.0)


def test_a_conversation_ends_with_whoever_asked_even_in_the_middle_of_an_answer(talker):
    talker.ask("one", "words", 60.0)
    talker._child.stdin.write(b"sleep\n")
    talker._child.stdin.close()
    assert talker._child.wait(timeout=20) == 1
