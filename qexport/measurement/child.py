"""Child processes of qexport: start one, watch it, and explain why it gave no answer.

A child (such as ``python -m qexport.measurement.subject``) reads one line of JSON from stdin. Stdin stays open: when it
ends, the child knows that its parent is gone. The child writes its answer to a file, so that output of libraries cannot
mix with it. A :class:`Conversation` sends one child several questions, one line each, and gets one line for each.
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

from qexport.core import QExportError, UnsupportedHere, errors
from qexport.runtime import ProviderUnavailable

logger = logging.getLogger(__name__)

_TAIL_BYTES = 4000
_LOOK_S = 0.5
"""Seconds between two checks of a child's progress."""
_ERRORS: dict[str, type[QExportError]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, QExportError)
} | {ProviderUnavailable.__name__: ProviderUnavailable}


class Killed(UnsupportedHere):
    """The system killed a child."""


def run_child(module: str, question: str, output: Path, *, threads: int, timeout_s: float) -> int | None:
    """Run ``python -m module`` until it ends.

    Args:
        module: the module whose ``main`` reads the question.
        question: one line of JSON.
        output: the file for the child's output.
        threads: the number of OpenMP threads, for libraries that have no other setting.
        timeout_s: the seconds after which the child counts as hung.

    Returns:
        The exit status, negative for a signal; None if the child was stopped after the timeout.
    """
    return watch_child(module, question, output, threads=threads, timeout_s=timeout_s, look=lambda: False)


def watch_child(
    module: str, question: str, output: Path, *, threads: int, timeout_s: float, look: Callable[[], bool]
) -> int | None:
    """Do the same as :func:`run_child`, for a child whose progress can be seen.

    Args:
        module: as in :func:`run_child`.
        question: as in :func:`run_child`.
        output: as in :func:`run_child`.
        threads: as in :func:`run_child`.
        timeout_s: the seconds without progress after which the child counts as hung.
        look: called at intervals; it returns True if there was progress since the last call.
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
                logger.debug("the child ended before it got its question")
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
                with contextlib.suppress(BrokenPipeError):  # a dead child has not read its stdin
                    child.stdin.close()


class Conversation:
    """A child that answers questions until it is closed."""

    def __init__(self, module: str, output: Path, *, threads: int) -> None:
        """Start ``python -m module``.

        Args:
            module: the module whose ``main`` calls :func:`converse`.
            output: the file for the output of libraries in the child.
            threads: the number of OpenMP threads, for libraries that have no other setting.
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
        """Send one line and return the answer.

        Args:
            question: one line of text.
            what: a name of the question, for the log.
            timeout_s: the seconds after which the child counts as hung.

        Raises:
            UnsupportedHere: the child died or gave no answer in time. The conversation cannot go on.
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
            with contextlib.suppress(BrokenPipeError):  # the end of its output shows that it died
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
                with contextlib.suppress(BrokenPipeError):  # a dead child has not read its stdin
                    pipe.close()


def environment(threads: int) -> dict[str, str]:
    """The environment variables of a child."""
    return os.environ | {
        # The parent's search path, in the same order, so that the child imports the same qexport. -P leaves out the
        # working folder, where a user may keep a folder named `onnx`.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        # bitsandbytes' own OpenMP ignores torch.set_num_threads.
        "OMP_NUM_THREADS": str(threads),
        # A measurement must not wait for a network; without this bitsandbytes looks for a kernel on the hub.
        "HF_HUB_OFFLINE": "1",
    }


def no_answer(what: str, code: int | None, output: Path, timeout_s: float) -> UnsupportedHere:
    """The error that explains why a child left no answer.

    Args:
        what: a name of the question, for the log.
        code: the result of :func:`run_child`.
        output: the file with the child's output.
        timeout_s: the child's time limit.
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
    """The error that stopped a child, in its original class if that class is in ``qexport.core.errors``."""
    return _ERRORS.get(name, QExportError)(message)


def read_question() -> bytes:
    """In the child: read the line of JSON with the question. From now on the process ends with its parent."""
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return line


def converse(answer: Callable[[bytes], str]) -> None:
    """In the child: answer the lines of stdin until the parent is gone or closes stdin.

    From now on all other output to stdout goes to stderr, so that stdout holds only answers.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    while True:
        answers.write(answer(lines.get()).encode() + b"\n")
        answers.flush()


def _read_lines(lines: queue.SimpleQueue[bytes]) -> None:
    # Like _end_with_parent, while the main thread works on an answer.
    unread = b""
    while more := os.read(0, 1 << 16):
        *whole, unread = (unread + more).split(b"\n")
        for line in whole:
            lines.put(line)
    os._exit(1)


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits for its lock makes the interpreter abort at exit.
    while os.read(0, 1):
        pass
    os._exit(1)
