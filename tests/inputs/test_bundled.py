from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from qexport.core.errors import InputError
from qexport.inputs.bundle import bundled
from qexport.inputs.text import load_text
from tests.conftest import ROOT


def test_texts_of_calibration_and_evaluation_have_nothing_in_common():
    names = ("general", "calibration", "evaluation")
    texts = [set(load_text(bundled(f"calibration/{name}.jsonl")).documents) for name in names]
    assert all(texts)
    assert not (texts[0] | texts[1]) & texts[2]


def test_what_is_not_bundled_is_said():
    with pytest.raises(InputError, match=r"models/none\.toml: not part of this installation"):
        bundled("models/none.toml")


@pytest.mark.slow
def test_a_wheel_carries_the_bundle_with_it(tmp_path):
    """Built offline without isolation, unpacked elsewhere, and asked from there."""
    source = tmp_path / "source"
    parts = ("pyproject.toml", "README.md", "LICENSE", "qexport", "models", "calibration")
    source.mkdir()
    for name in parts:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    (wheel,) = tmp_path.glob("qexport-*.whl")
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        assert not [name for name in archive.namelist() if "__pycache__" in name]
    code = (
        "import qexport\n"
        "from qexport.inputs.bundle import bundled\n"
        "from qexport.inputs.experiment import load_experiment\n"
        "from qexport.inputs.text import load_text\n"
        "experiment = load_experiment(bundled('models/reference.toml'))\n"
        "load_experiment(bundled('models/gpt2.toml'))\n"
        "assert load_experiment(bundled('models/llama-3-8b.toml')).prompts_path.is_file()\n"
        "print(qexport.__file__, experiment.model, experiment.evaluation_path, experiment.calibration_path, sep='\\n')\n"
        "print(len(load_text(experiment.evaluation_path).documents))\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    )
    *paths, documents = done.stdout.splitlines()
    assert all(path.startswith(str(installed)) for path in paths)
    assert int(documents) > 10
