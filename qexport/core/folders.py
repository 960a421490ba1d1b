"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from qexport.core.errors import InputError, QExportError, UnsupportedHere
from qexport.core.files import is_alive
from qexport.core.scratch import claimed, sweep_scratch


@contextlib.contextmanager
def whole_folder(path: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Make a folder that appears whole. Whatever stops this, ``path`` keeps its old content.

    The files go to a hidden folder beside ``path``, which one rename puts in place at the end. Hidden folders of killed
    processes are removed here.

    Args:
        path: the folder to make or replace.
        check: raises if ``path`` must not be replaced; called at the beginning and again before the rename.

    Raises:
        InputError: ``path`` cannot be made.
        UnsupportedHere: the disk is full.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow a link that the check must see)
    check(path)
    beside = path.parent / f".{path.name}.new-{os.getpid()}"
    old = path.parent / f".{path.name}.old-{os.getpid()}"
    with contextlib.ExitStack() as claim:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            claim.enter_context(claimed(path))
            sweep_unfinished(path)
            sweep_scratch()
            beside.mkdir()
        except OSError as error:
            raise InputError(f"{path}: cannot be made there ({error.strerror}); choose another output") from error
        try:
            yield beside
            check(path)  # again: another process may have put something there meanwhile
            if not (path.exists() and exchanged(beside, path)):
                if path.exists():
                    path.rename(old)
                beside.rename(path)
        except Exception as error:
            if place := _full_disk(error, path.parent):
                raise UnsupportedHere(f"{place}; make room there, or choose another place") from error
            raise
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(beside, ignore_errors=True)


def _full_disk(error: BaseException, folder: Path) -> str:
    """The place that is full according to an error, in words; empty if the error has another cause."""
    if not _disk_full(error, folder):
        return ""
    temporary = Path(tempfile.gettempdir())
    named = Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else None
    in_temporary = named is not None and named.is_relative_to(temporary) and not named.is_relative_to(folder)
    if in_temporary or shutil.disk_usage(temporary).free < _NEARLY_FULL_BYTES <= shutil.disk_usage(folder).free:
        return f"{temporary}: the temporary folder is full (TMPDIR names another)"
    return f"{folder}: the disk is full"


def _disk_full(error: BaseException, folder: Path) -> bool:
    """True if an error was caused by a full disk; libraries in other languages pass the system's words on as text."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if isinstance(error, QExportError):
        return False
    signs = (os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG), f"os error {errno.ENOSPC}")
    return any(sign in str(error) for sign in signs) or shutil.disk_usage(folder).free == 0


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, if the system can, so that a reader always finds one of them.

    Linux: renameat2(2) with RENAME_EXCHANGE. Returns False if it is not available; nothing has changed then.
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    failed: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return not failed


def check_replaceable(path: Path, what: str, *, is_ours: bool, overwrite: bool) -> None:
    """Refuse to replace a folder whose content must not be lost.

    Args:
        path: the folder to write.
        what: the name of the content that may be replaced, for the message.
        is_ours: True if the folder holds such content.
        overwrite: such content may be replaced.

    Raises:
        InputError: ``path`` is not a folder, or holds content of others, or holds ours and ``overwrite`` is not set.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise InputError(f"{path}: exists and is not a folder; choose another output")
    if not any(path.iterdir()):
        return
    if not is_ours:
        raise InputError(f"{path}: exists and is not {what}; choose another output")
    if not overwrite:
        raise InputError(f"{path}: exists; pass --overwrite to replace it")


def sweep_unfinished(path: Path) -> None:
    """Clear the folders ``.NAME.new-PID`` and ``.NAME.old-PID`` that killed processes left beside ``path``.

    An old artifact that was being replaced goes back if no new one is in its place.
    """
    for kind in ("old", "new"):
        for left in path.parent.glob(f".{glob.escape(path.name)}.{kind}-*"):
            pid = left.name.rsplit("-", 1)[1]
            # A folder with this process's own number is from a dead process: in a container the numbers repeat.
            if not pid.isdigit() or (int(pid) != os.getpid() and is_alive(int(pid))):
                continue
            if kind == "old" and not path.exists():
                left.rename(path)
            else:
                shutil.rmtree(left, ignore_errors=True)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


_NEARLY_FULL_BYTES = 1 << 20
"""Free bytes below which a disk counts as full: a disk that refused a write may have some room left."""
