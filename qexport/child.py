"""Fresh processes of qexport's own: how they are started, watched, and what became of one that gave no answer.

A child (``python -m qexport.measure`` and its like) reads one line of JSON from stdin, which stays open: its end tells the
child that whoever asked is gone. It leaves its answer in a file, out of the reach of whatever libraries print.
A :class:`Conversation` asks one child several questions, one line each, and gets one line for each.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from qexport import errors
from qexport.errors import QExportError, UnsupportedHere
from qexport.runtime import ProviderUnavailable

logger = logging.getLogger(__name__)

_TAIL_BYTES = 4000
_LOOK_S = 0.5
"""Between two looks at what a child has done."""
_ERRORS: dict[str, type[QExportError]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, QExportError)
} | {ProviderUnavailable.__name__: ProviderUnavailable}


class Killed(UnsupportedHere):
    """The system killed a child."""


def run_child(module: str, question: str, output: Path, *, threads: int, timeout_s: float) -> int | None:
    """Run ``python -m module`` until it ends.

    Args:
        module: whose ``main`` reads the question.
        question: one line of JSON.
        output: file for what it prints.
        threads: of OpenMP, for libraries that hear of them in no other way.
        timeout_s: after which it counts as hung.

    Returns:
        Its exit status, negative for a signal; None if it had to be stopped for the time.
    """
    return watch_child(module, question, output, threads=threads, timeout_s=timeout_s, look=lambda: False)


def watch_child(
    module: str, question: str, output: Path, *, threads: int, timeout_s: float, look: Callable[[], bool]
) -> int | None:
    """As :func:`run_child`, for a child whose work can be seen.

    Args:
        module: as there.
        question: as there.
        output: as there.
        threads: as there.
        timeout_s: without anything done, after which it counts as hung.
        look: called now and then; whether something was done since the last time.
    """
    with output.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(threads),
        )
        try:
            assert child.stdin is not None  # a pipe was asked for
            try:
                child.stdin.write(question.encode() + b"\n")
                child.stdin.flush()
            except BrokenPipeError:
                logger.debug("the child ended before it was asked")
            idle_s = 0.0
            while idle_s < timeout_s:
                wait_s = min(_LOOK_S, timeout_s - idle_s)
                try:
                    return child.wait(timeout=wait_s)
                except subprocess.TimeoutExpired:
                    idle_s = 0.0 if look() else idle_s + wait_s
            return None
        finally:  # Ctrl-C included
            child.kill()
            child.wait()
            if child.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # of what a child that died has not read
                    child.stdin.close()


class Conversation:
    """A child that answers question after question until it is closed."""

    def __init__(self, module: str, output: Path, *, threads: int) -> None:
        """Start ``python -m module``.

        Args:
            module: whose ``main`` calls :func:`converse`.
            output: file for what libraries print there.
            threads: of OpenMP, for libraries that hear of them in no other way.
        """
        self._output = output
        with output.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(threads),
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def ask(self, question: str, what: str, timeout_s: float) -> str:
        """The answer to one line.

        Args:
            question: one line.
            what: is asked, for the log.
            timeout_s: after which the child counts as hung.

        Raises:
            UnsupportedHere: the child died or gave no answer in time; it cannot be asked again.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._child.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # the end of its answers tells of its death
                self._child.stdin.write(question.encode() + b"\n")
                self._child.stdin.flush()
            line = self._child.stdout.readline()
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            return line.decode()
        code = self._child.wait()
        raise no_answer(what, None if late.is_set() else code, self._output, timeout_s)

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # of what a child that died has not read
                    pipe.close()


def environment(threads: int) -> dict[str, str]:
    """The variables of a child."""
    return os.environ | {
        # The parent's search path in its order, so that the child imports the same qexport; -P leaves out the
        # working folder, where a user may keep an `onnx` of their own.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        # bitsandbytes' own OpenMP does not hear torch.set_num_threads.
        "OMP_NUM_THREADS": str(threads),
        # A measurement never waits for a network; bitsandbytes would look for a kernel on the hub.
        "HF_HUB_OFFLINE": "1",
    }


def no_answer(what: str, code: int | None, output: Path, timeout_s: float) -> UnsupportedHere:
    """Why a child that left no answer left none.

    Args:
        what: was asked, for the log.
        code: of :func:`run_child`.
        output: what it printed.
        timeout_s: that it was given.
    """
    if code is None:
        return UnsupportedHere(f"no answer within {timeout_s:.0f} s")
    if code == -signal.SIGKILL:
        return Killed("killed by signal 9 (SIGKILL), most likely out of memory")
    logger.debug("%s: the child's output:\n%s", what, _tail(output))
    return UnsupportedHere(_cause_of_death(code, output))


def _cause_of_death(code: int, output: Path) -> str:
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    lines = [line for line in _tail(output).splitlines() if line.strip()]
    return f"ended with exit code {code}: {lines[-1].strip() if lines else 'without a word'}"


def _tail(output: Path) -> str:
    with output.open("rb") as handle:
        handle.seek(max(0, output.stat().st_size - _TAIL_BYTES))
        return handle.read().decode(errors="replace")


def raised(name: str, message: str) -> QExportError:
    """The error that a child stopped with, of the class it had there where that is one of ``qexport.errors``."""
    return _ERRORS.get(name, QExportError)(message)


def read_question() -> bytes:
    """In the child: the line of JSON it was asked. From now on the process ends with its parent."""
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return line


def converse(answer: Callable[[bytes], str]) -> None:
    """In the child: answer the lines of stdin until the process that asks them is gone or wants no more.

    What anything prints to stdout from now on goes to stderr: stdout holds the answers alone.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    while True:
        answers.write(answer(lines.get()).encode() + b"\n")
        answers.flush()


def _read_lines(lines: queue.SimpleQueue[bytes]) -> None:
    # As _end_with_parent does, while the main thread works on an answer.
    unread = b""
    while more := os.read(0, 1 << 16):
        *whole, unread = (unread + more).split(b"\n")
        for line in whole:
            lines.put(line)
    os._exit(1)


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits in its lock makes the interpreter abort at its end.
    while os.read(0, 1):
        pass
    os._exit(1)
