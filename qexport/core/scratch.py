"""Temporary folders that are removed soon after their process ends, and outputs that one process at a time writes."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qexport.core.errors import InputError
from qexport.core.files import is_alive

_PREFIX = "qexport-"
_held: set[Path] = set()
"""Outputs that this process has claimed."""


def scratch_folder(what: str = "work") -> tempfile.TemporaryDirectory[str]:
    """A temporary folder named after this process; those of killed processes are removed first.

    Args:
        what: a part of the folder's name, for a person who looks into the temporary folder.
    """
    sweep_scratch()
    return tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{what}-{os.getpid()}-")


@functools.cache  # once a process: GPTQ asks for dozens of folders
def sweep_scratch() -> None:
    """Remove the temporary folders of this user's dead processes."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*-*"):
        pid = left.name.split("-")[2]
        if pid.isdigit() and int(pid) != os.getpid() and not is_alive(int(pid)) and _is_own(left):
            shutil.rmtree(left, ignore_errors=True)


def _is_own(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
    return False


@contextlib.contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Claim an output for this process; the system releases it when the process ends, however it ends.

    Args:
        path: the output.
        wait: if True, wait until no other process has claimed it.

    Raises:
        InputError: another process has claimed it, and ``wait`` is False.
    """
    if path in _held or os.name != "posix":
        yield
        return
    lock = path.parent / f".{path.name}.lock"
    handle = _locked(lock, wait=wait)
    if handle is None:  # a folder that cannot be written to: the next step reports it
        yield
        return
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        lock.unlink(missing_ok=True)
        os.close(handle)


def _locked(lock: Path, *, wait: bool) -> int | None:
    import fcntl

    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            output = lock.name.removeprefix(".").removesuffix(".lock")
            raise InputError(
                f"{lock.with_name(output)}: {holder} writes it now; wait, or choose another output"
            ) from error
        except OSError:  # a file system without locks
            os.close(handle)
            return None
        try:
            same = os.fstat(handle).st_ino == lock.stat().st_ino
        except OSError:
            same = False
        if same:
            with contextlib.suppress(OSError):  # a full disk: the lock holds without the name of its holder
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return handle
        os.close(handle)  # its holder removed it between the two calls
