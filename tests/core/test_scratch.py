from __future__ import annotations

import subprocess
import sys

import pytest

from qexport.core.errors import InputError
from qexport.core.scratch import claimed

HOLD = """
import sys, pathlib
from qexport.core.scratch import claimed
path = pathlib.Path(sys.argv[1])
with claimed(path):
    print("claimed", flush=True)
    sys.stdin.readline()
    path.write_text("done")
"""


def test_a_claim_is_refused_or_waited_for(tmp_path):
    path = tmp_path / "output"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(InputError, match="writes it now"), claimed(path):
            pass
        other.stdin.write("go\n")
        other.stdin.flush()
        with claimed(path, wait=True):
            assert path.read_text() == "done"
