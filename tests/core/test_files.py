from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qexport.core.files import write_all, write_whole


def test_what_a_killed_process_left_is_removed(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path = tmp_path / "gate.json"
    left, alive, other = (
        tmp_path / f".gate.json.{end}" for end in (gone.stdout.decode().strip(), os.getppid(), "mine")
    )
    for each in (left, alive, other):
        each.write_text("half")
    write_whole(path, "whole")
    assert path.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == sorted([path, alive, other])


def test_all_or_none(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError):
        write_all({tmp_path / "a": "x", tmp_path / "b": "y"})
    assert os.listdir(tmp_path) == ["b"]
