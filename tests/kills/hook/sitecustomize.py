"""Kills this process at a rename: python imports this module first where its folder is on the path.

``KILLS_AT`` is ``before:N`` or ``after:N``, of the N-th rename; ``count:FILE`` writes the number of renames there.
"""

import ctypes
import os
import signal
import sys

_when, _, _what = os.environ.get("KILLS_AT", "").partition(":")
_seen = []


def _die():
    _seen.clear()  # os.kill is an event as well
    os.kill(os.getpid(), signal.SIGKILL)


def _renames():
    _seen.append(None)
    if _when == "count":
        with open(_what, "w") as handle:  # noqa: PTH123 (pathlib is not imported yet)
            handle.write(str(len(_seen)))
    if _when == "before" and len(_seen) == int(_what):
        _die()


def _audit(event, _arguments):
    # An audit event comes before the call: after a rename is at the next event of any kind.
    if _when == "after" and len(_seen) == int(_what):
        _die()
    if event == "os.rename":
        _renames()


class _Library(ctypes.CDLL):
    """renameat2 has no audit event."""

    def __getattr__(self, name):
        found = super().__getattr__(name)
        if name != "renameat2":
            return found

        def counted(*arguments):
            _renames()
            return found(*arguments)

        return counted


if _when and os.getppid() == int(os.environ["KILLS_PARENT"]):
    sys.addaudithook(_audit)
    ctypes.CDLL = _Library
