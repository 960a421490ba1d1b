"""No code of a model's folder runs, and no key of its configuration names any, unless the user trusts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qexport.core.errors import InputError
from qexport.inputs.models import load_tokenizer, load_torch_model, locate_model
from qexport.inputs.pretrained import load_config, load_weights, plain_folder, read_tokenizer

CANARY = "import pathlib\npathlib.Path({path!r}).touch()\ndef generate(*given, **named): pass\n"


@pytest.fixture
def canary(model_folder, tmp_path) -> Path:
    """A file that appears once any code of the model's folder has run."""
    path = tmp_path / "ran"
    places = (
        "custom_generate/generate.py",
        "modeling_gpt2.py",
        "tokenization_gpt2.py",
        "__init__.py",
        "sitecustomize.py",
    )
    for name in places:
        file = model_folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(CANARY.format(path=str(path)))
    return path


def test_code_that_lies_in_the_folder_does_not_run(model_folder, canary):
    source = locate_model(model_folder)
    load_torch_model(source)
    load_tokenizer(source)
    assert not canary.exists()


def test_nor_does_it_when_an_artifact_is_loaded(model_folder, canary):
    load_config(model_folder)
    read_tokenizer(model_folder)
    load_weights(model_folder)
    assert not canary.exists()


def test_transformers_sees_plain_files_only(model_folder, canary):
    with plain_folder(model_folder) as place:
        seen = sorted(path.name for path in place.rglob("*"))
        assert {"config.json", "model.safetensors"} <= set(seen)
        assert not [name for name in seen if not name.endswith((".json", ".safetensors", ".txt", ".jinja"))]
    assert not place.exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"_attn_implementation": "somebody/kernel:x"}),
        ("config.json", {"attn_implementation": {"text": "somebody/kernel@main"}}),
        ("config.json", {"text_config": {"_attn_implementation_internal": "somebody/kernel"}}),
        ("config.json", {"custom_pipelines": {"text-generation": {"impl": "code.Class"}}}),
        ("generation_config.json", {"custom_generate": "somebody/generate"}),
        ("tokenizer_config.json", {"nested": [{"use_kernels": True}]}),
    ],
)
def test_keys_that_name_code_are_refused_by_name(model_folder, name, values):
    path = model_folder / name
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | values))
    with pytest.raises(InputError, match=r"names code that would be run; remove the key"):
        locate_model(model_folder)
    with pytest.raises(InputError, match=r"names code that would be run; remove the key"):
        load_config(model_folder)


def test_plain_choices_of_attention_are_no_code(model_folder):
    path = model_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_attn_implementation": "flash_attention_2"}))
    assert locate_model(model_folder).model_type == "gpt2"


def test_a_tokenizer_with_code_of_its_own_asks_nobody(model_folder):
    """transformers would ask on the terminal, and wait."""
    path = model_folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}}))
    with pytest.raises(InputError, match="--trust-remote-code"):
        locate_model(model_folder)
