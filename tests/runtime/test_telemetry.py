"""ONNX Runtime's telemetry client is off in every process of qexport, unless the user turns it on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRACE = ".ses"
"""The client's file in the temporary folder: it writes it before it looks up its host."""
RUN = "import sys; from pathlib import Path; from qexport.runtime.onnx_session import OrtSession; OrtSession(Path(sys.argv[1]))"


def left_behind(tmp_path, onnx_path, code=RUN, **env):
    """The hidden files that a process which opens a session leaves in the temporary folder."""
    place = tmp_path / "temporary"
    place.mkdir()
    # ONNX Runtime's client is off where it sees a variable of a CI service, so the child gets none of them.
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    words = [sys.executable, "-c", code, str(onnx_path)]
    subprocess.run(words, env=clean | {"TMPDIR": str(place)} | env, check=True, capture_output=True)
    return [path.name for path in place.iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="the client is in the wheels for Linux")
def test_it_is_off(tmp_path, fp32):
    assert TRACE not in left_behind(tmp_path, fp32("gpt2").onnx_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the client is in the wheels for Linux")
def test_a_user_who_wants_it_gets_it(tmp_path, fp32):
    """This is the control as well: the client is there, and the test above would see it."""
    assert TRACE in left_behind(tmp_path, fp32("gpt2").onnx_path, ORT_DISABLE_TELEMETRY="0")


def test_every_import_of_it_comes_after(tmp_path):
    """A module that can be imported without qexport.runtime.onnx_session must not import onnxruntime at its top."""
    early = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "qexport").rglob("*.py")
        if re.search(r"^(import|from) (onnxruntime|neural_compressor|optimum)", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert early == []


def test_the_image_turns_it_off():
    assert "ORT_DISABLE_TELEMETRY=1" in (ROOT / "Dockerfile").read_text("utf-8")
