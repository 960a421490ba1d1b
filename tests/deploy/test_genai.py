"""onnxruntime-genai, in an environment of its own."""

from __future__ import annotations

import json
import subprocess

import pytest

from qexport.deployment.pipeline import deploy
from tests.deploy.proof import MODELS, NEW_TOKENS, PROGRAMS, TEXTS, ask

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def generated(python, folder, one, pad_id=None):
    config = json.loads((folder / "genai_config.json").read_text())
    batch, _ = one.batch("right", config["model"]["pad_token_id"] if pad_id is None else pad_id)
    request = {
        "folder": str(folder),
        "prompts": one.prompts,
        "batch": batch,
        "new_tokens": NEW_TOKENS,
        "text": TEXTS[0],
    }
    return ask([python, PROGRAMS / "genai.py"], request)


@pytest.mark.parametrize("name", ["fp32", "int8", "w4", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_generates_the_same_tokens_alone_and_in_a_padded_batch(client, case, tmp_path, model, name):
    python = client("genai") / "bin" / "python"
    one = case(model, name)
    deploy([one.artifact], "genai", tmp_path / "out")
    found = generated(python, tmp_path / "out", one)
    assert found["alone"] == one.wanted
    assert found["batch"] == one.wanted


@pytest.mark.parametrize("model", MODELS)
def test_encodes_and_streams_as_transformers_does(client, case, tmp_path, model):
    from transformers import AutoTokenizer

    python = client("genai") / "bin" / "python"
    one = case(model, "fp32")
    deploy([one.artifact], "genai", tmp_path / "out")
    found = generated(python, tmp_path / "out", one)
    tokenizer = AutoTokenizer.from_pretrained(one.artifact)
    assert found["encoded"] == tokenizer(TEXTS[0]).input_ids
    assert found["streamed"].strip() == tokenizer.decode(one.wanted[0]).strip()


def test_other_padding_than_the_configuration_names_would_be_noticed(client, case, tmp_path):
    python = client("genai") / "bin" / "python"
    one = case("reference", "fp32")
    deploy([one.artifact], "genai", tmp_path / "out")
    assert generated(python, tmp_path / "out", one, pad_id=5)["batch"] != one.wanted


def test_goes_no_further_than_a_sliding_window_allows_for_padding(client, fp32, tmp_path):
    python = client("genai") / "bin" / "python"
    deploy([fp32("mistral").path], "genai", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]
    rows = [[5, 6, 7, 8, 9], [5, 6, 7]]
    new = config["context_length"] - 5
    request = {"folder": str(tmp_path / "out"), "prompts": rows, "batch": [rows[0], [*rows[1], 0, 0]], "text": "a"}
    found = ask([python, PROGRAMS / "genai.py"], request | {"new_tokens": new})
    assert found["batch"] == found["alone"]
    done = subprocess.run(
        [python, PROGRAMS / "genai.py"],
        input=json.dumps(request | {"new_tokens": new + 1}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "context_length" in done.stderr
