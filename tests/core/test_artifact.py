from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from qexport.core import folders
from qexport.core.artifact import (
    MANIFEST_NAME,
    Manifest,
    ModelInfo,
    check_output,
    file_sha256,
    load_artifact,
    new_artifact,
)
from qexport.core.errors import ContractError, InputError, QExportError, UnsupportedHere

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = Manifest(
    kind="onnx",
    model=ModelInfo(name="tiny", weights_sha256="0" * 64, architecture="gpt2", parameters=4),
    recipe="fp32",
    weight_bytes=16,
)


def make(path: Path, content: str = "old", *, overwrite: bool = False) -> None:
    with new_artifact(path, overwrite=overwrite) as draft:
        (draft.path / "model.onnx").write_text(content)
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "tokenizer.json").write_text("{}")
        draft.finish(MANIFEST)


def content(path: Path) -> str:
    artifact = load_artifact(path, verify=True)
    return artifact.onnx_path.read_text()


def message(caught: pytest.ExceptionInfo[QExportError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is written


def test_what_is_written_is_read_again(tmp_path):
    make(tmp_path / "a")
    artifact = load_artifact(tmp_path / "a", verify=True)
    assert artifact.manifest.model_copy(update={"files": ()}) == MANIFEST
    assert [info.path for info in artifact.manifest.files] == ["model.onnx", "sub/tokenizer.json"]
    assert artifact.manifest.files[0].sha256 == file_sha256(artifact.onnx_path)
    assert artifact.disk_bytes == sum(file.stat().st_size for file in artifact.path.rglob("*") if file.is_file())
    assert os.listdir(tmp_path) == ["a"]


def test_the_same_files_give_the_same_manifest_and_digest(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    make(tmp_path / "c", "other")
    one, two, three = (load_artifact(tmp_path / name) for name in "abc")
    assert (one.path / MANIFEST_NAME).read_bytes() == (two.path / MANIFEST_NAME).read_bytes()
    assert one.sha256 == two.sha256 != three.sha256


def test_parents_are_made_and_relative_paths_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    make(Path("deep/er/a"))
    assert content(tmp_path / "deep" / "er" / "a") == "old"


def test_the_manifest_is_not_there_before_the_end(tmp_path):
    path = tmp_path / "a"
    with new_artifact(path) as draft:
        (draft.path / "model.onnx").write_text("x")
        assert not path.exists()
        draft.finish(MANIFEST)
        assert not path.exists()
    assert content(path) == "x"


# What stops it from inside


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_artifact(tmp_path / "a") as draft:
        (draft.path / "model.onnx").write_text("x")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_an_error_leaves_the_old_one(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(ZeroDivisionError), new_artifact(tmp_path / "a", overwrite=True):
        raise ZeroDivisionError
    assert content(tmp_path / "a") == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_draft_without_a_manifest_is_no_artifact(tmp_path):
    with pytest.raises(ContractError, match="without a manifest"), new_artifact(tmp_path / "a") as draft:
        (draft.path / "model.onnx").write_text("x")
    assert os.listdir(tmp_path) == []


def test_a_rename_that_fails_puts_the_old_one_back(tmp_path):
    """The draft's folder vanishes under us: the old artifact was moved aside already."""
    make(tmp_path / "a")
    with pytest.raises(FileNotFoundError), new_artifact(tmp_path / "a", overwrite=True) as draft:
        draft.finish(MANIFEST)
        draft.path.rename(tmp_path / "stolen")
    assert content(tmp_path / "a") == "old"


# An output that exists


def test_an_artifact_is_kept_unless_overwrite(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(InputError, match="--overwrite") as caught:
        make(tmp_path / "a", "new")
    message(caught)
    assert content(tmp_path / "a") == "old"
    make(tmp_path / "a", "new", overwrite=True)
    assert content(tmp_path / "a") == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_an_artifact_that_comes_up_meanwhile_is_kept(tmp_path):
    with pytest.raises(InputError, match="--overwrite"), new_artifact(tmp_path / "a") as draft:
        draft.finish(MANIFEST)
        make(tmp_path / "a", "another's")
    # The nested one has the same process, and so the same draft folder; what counts is what is left.
    assert content(tmp_path / "a") == "another's"


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    assert content(tmp_path / "a") == "old"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_artifact_is_never_replaced(tmp_path, kind, overwrite):
    path = tmp_path / "a"
    make(tmp_path / "real")
    if kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    elif kind == "file":
        path.write_text("years of work")
    else:
        path.symlink_to(tmp_path / "real")
    with pytest.raises(InputError, match="choose another output") as caught:
        check_output(path, overwrite=overwrite)
    message(caught)
    with pytest.raises(InputError, match="choose another output"):
        make(path, overwrite=overwrite)
    assert path.is_symlink() or (path / "thesis.tex").is_file() or path.read_text() == "years of work"
    assert content(tmp_path / "real") == "old"


def test_a_place_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made there") as caught:
        make(tmp_path / "file" / "a")
    message(caught)


# What is read


def test_a_folder_without_a_manifest(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"not an artifact.*qexport export"):
            load_artifact(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\x00", "{}", '{"schema": 2}', "\x80"],
)
def test_a_corrupt_manifest(tmp_path, text):
    make(tmp_path / "a")
    (tmp_path / "a" / MANIFEST_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"qexport\.json: corrupt manifest .* make the artifact again") as caught:
        load_artifact(tmp_path / "a")
    message(caught)


@pytest.mark.parametrize("change", [{"schema": 2}, {"unheard_of": 1}, {"weight_bytes": "many"}, {"kind": "pickle"}])
def test_a_manifest_with_a_wrong_entry(tmp_path, change):
    make(tmp_path / "a")
    path = tmp_path / "a" / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=next(iter(change))):
        load_artifact(tmp_path / "a")


def test_every_truncation_of_a_manifest_is_noticed(tmp_path):
    make(tmp_path / "a")
    path = tmp_path / "a" / MANIFEST_NAME
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 37):
        path.write_text(whole[:length])
        with pytest.raises(InputError, match="corrupt manifest"):
            load_artifact(tmp_path / "a")


def test_a_missing_file(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a" / "model.onnx").unlink()
    with pytest.raises(ContractError, match=r"model\.onnx: named in the manifest but missing"):
        load_artifact(tmp_path / "a")


def test_a_file_of_another_size(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a" / "model.onnx").write_text("longer")
    with pytest.raises(ContractError, match=r"model\.onnx: altered"):
        load_artifact(tmp_path / "a")


def test_one_changed_byte_is_found_by_its_digest(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a" / "model.onnx").write_text("olf")
    load_artifact(tmp_path / "a")
    with pytest.raises(ContractError, match=r"model\.onnx: altered"):
        load_artifact(tmp_path / "a", verify=True)


# What stops it from outside. The child stops at a named moment, says so, and waits for what is coming.

CHILD = """
import signal, sys, time
from pathlib import Path
from qexport.core import artifact, folders
sys.path.insert(0, {root!r})
from tests.core.test_artifact import MANIFEST

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it

def stop():
    print("here", flush=True)
    time.sleep(60)

moment, path = sys.argv[1], Path(sys.argv[2])
rename = Path.rename

def watched_rename(self, target):
    if moment == "before-aside" and str(target).find(".old-") >= 0:
        stop()
    if moment == "before-rename" and str(self).find(".new-") >= 0:
        stop()
    result = rename(self, target)
    if moment == "after-rename" and str(self).find(".new-") >= 0:
        stop()
    return result

def watched_exchange(one, other):
    if not moment.endswith("exchange"):
        return False  # as where the system cannot: two renames instead
    if moment == "before-exchange":
        stop()
    result = exchange(one, other)
    if moment == "after-exchange":
        stop()
    return result

Path.rename = watched_rename
exchange, folders.exchanged = folders.exchanged, watched_exchange
with artifact.new_artifact(path, overwrite=True) as draft:
    if moment == "empty":
        stop()
    with (draft.path / "model.onnx").open("w") as handle:
        handle.write("new")
        handle.flush()
        if moment == "half":
            stop()
    draft.finish(MANIFEST)
    if moment == "finished":
        stop()
"""
RENAMES = ["empty", "half", "finished", "before-aside", "before-rename", "after-rename"]
MOMENTS = RENAMES + (["before-exchange", "after-exchange"] if sys.platform == "linux" else [])
REPLACED = {"after-rename", "after-exchange"}


def interrupt(path: Path, moment: str, number: signal.Signals) -> int:
    from tests.conftest import ROOT

    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), moment, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        child.send_signal(number)
        return child.wait(timeout=30)


@pytest.mark.parametrize("moment", [moment for moment in RENAMES if moment != "before-aside"])
def test_killed_without_an_old_artifact(tmp_path, moment):
    path = tmp_path / "a"
    assert interrupt(path, moment, signal.SIGKILL) == -signal.SIGKILL
    assert not path.exists() or content(path) == "new"
    assert path.exists() == (moment == "after-rename")
    make(path, "newest", overwrite=True)
    assert content(path) == "newest"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_over_an_old_artifact(tmp_path, moment):
    path = tmp_path / "a"
    make(path)
    interrupt(path, moment, signal.SIGKILL)
    if path.exists():
        assert content(path) == ("new" if moment in REPLACED else "old")
    else:
        assert moment == "before-rename"  # between the two renames
    # The next attempt, though it fails, clears up and brings back what stood aside.
    with pytest.raises(ZeroDivisionError), new_artifact(path, overwrite=True):
        raise ZeroDivisionError
    assert content(path) == ("new" if moment in REPLACED else "old")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_over_an_old_artifact(tmp_path, moment):
    path = tmp_path / "a"
    make(path)
    assert interrupt(path, moment, signal.SIGINT) == -signal.SIGINT
    assert content(path) == ("new" if moment in REPLACED else "old")
    assert os.listdir(tmp_path) == ["a"]


def test_the_old_artifact_is_never_hidden(tmp_path):
    """A reader finds one of the two at every moment."""
    path = tmp_path / "a"
    make(path)
    if not folders.exchanged(path, path):
        pytest.skip("this file system exchanges no folders")
    seen = set()
    stop = threading.Event()

    def look():
        while not stop.is_set():
            try:
                seen.add((path / "model.onnx").read_text())
            except FileNotFoundError:
                seen.add("nothing")

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(50):
        make(path, f"new {number}", overwrite=True)
    stop.set()
    reader.join()
    assert "nothing" not in seen


def test_two_processes_do_not_write_one_output(tmp_path):
    path = tmp_path / "a"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom qexport.core.artifact import new_artifact\n"
        "with new_artifact(Path(sys.argv[1])):\n    print('here', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        with pytest.raises(InputError, match=rf"a: process {other.pid} on .* writes it now"):
            make(path)
        other.kill()
    make(path)  # what a killed process held is free
    assert os.listdir(tmp_path) == ["a"]


def test_killed_at_any_time(tmp_path):
    """Kills that fall wherever they fall, while artifacts replace each other as fast as they can."""
    from tests.conftest import ROOT

    path = tmp_path / "a"
    loop = (
        "from pathlib import Path\nfrom tests.core.test_artifact import make\nimport sys\n"
        "make(Path(sys.argv[1]), 'old', overwrite=True)\nprint('here', flush=True)\n"
        "while True:\n    make(Path(sys.argv[1]), 'new', overwrite=True)\n"
    )
    for delay_s in (0.0, 0.011, 0.023, 0.037):
        command = [sys.executable, "-c", loop, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "here\n"
            time.sleep(delay_s)
            child.kill()
            child.wait(timeout=30)
        assert not path.exists() or content(path) in ("old", "new")


def test_the_draft_of_a_process_that_lives_is_left_alone(tmp_path):
    other = tmp_path / f".a.new-{os.getppid()}"
    other.mkdir()
    make(tmp_path / "a")
    assert other.is_dir()


def test_a_leftover_with_this_process_s_number_is_in_nobody_s_way(tmp_path):
    """In a container every run may have the number 1."""
    (tmp_path / f".a.new-{os.getpid()}").mkdir()
    make(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_a_name_with_wildcards_clears_only_its_own(tmp_path):
    (tmp_path / ".abc.new-99999999").mkdir()
    make(tmp_path / "a*c")
    assert (tmp_path / ".abc.new-99999999").is_dir()


# A full disk

FULL = """
import resource, sys
from pathlib import Path
from qexport.core.artifact import new_artifact
from qexport.core.errors import UnsupportedHere
import numpy as np
from safetensors.numpy import save_file
sys.path.insert(0, {root!r})
from tests.core.test_artifact import MANIFEST

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with new_artifact(Path(sys.argv[2]), overwrite=True) as draft:
        if sys.argv[1] == "python":
            (draft.path / "model.onnx").write_bytes(bytes(8192))
        else:
            save_file({{"x": np.zeros(4096, np.float32)}}, draft.path / "model.safetensors")
        draft.finish(MANIFEST)
except UnsupportedHere as error:
    print(error)
"""


@pytest.mark.parametrize("writer", ["python", "safetensors"])
def test_a_full_disk_is_one_line_and_leaves_the_old_artifact(tmp_path, writer):
    from tests.conftest import ROOT

    path = tmp_path / "a"
    make(path)
    command = [sys.executable, "-c", FULL.format(root=str(ROOT)), writer, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{path.parent}: the disk is full; make room there, or choose another place\n"
    assert content(path) == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_words_of_a_library_tell_a_full_disk(tmp_path):
    with pytest.raises(UnsupportedHere, match="disk is full"), new_artifact(tmp_path / "a"):
        raise RuntimeError("write failed: No space left on device")
    with pytest.raises(RuntimeError, match="of memory"), new_artifact(tmp_path / "a"):
        raise RuntimeError("out of memory")
