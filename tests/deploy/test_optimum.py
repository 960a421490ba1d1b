"""Optimum, which is in qexport's own environment."""

from __future__ import annotations

import pytest

from qexport.deployment.pipeline import deploy
from tests.deploy.proof import MODELS, NEW_TOKENS, TEXTS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def loaded(case, tmp_path):
    def load(model, name):
        from optimum.onnxruntime import ORTModelForCausalLM

        one = case(model, name)
        deploy([one.artifact], "optimum", tmp_path / "out")
        return one, ORTModelForCausalLM.from_pretrained(tmp_path / "out")

    return load


def generate(model, ids, mask):
    import torch

    rows = torch.tensor(ids)
    output = model.generate(
        rows, attention_mask=torch.tensor(mask), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )
    return output[:, rows.shape[1] :].tolist()


@pytest.mark.parametrize("name", ["fp32", "int8", "w4", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_generates_the_same_tokens_alone_and_in_a_padded_batch(loaded, model, name):
    one, client = loaded(model, name)
    assert [generate(client, [ids], [[1] * len(ids)])[0] for ids in one.prompts] == one.wanted
    assert generate(client, *one.batch("left")) == one.wanted


@pytest.mark.parametrize("model", MODELS)
def test_pipeline_writes_the_text_that_the_torch_model_writes(loaded, tmp_path, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    one, client = loaded(model, "fp32")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    source = one.model if model != "reference" else "models/reference"
    torch_model = AutoModelForCausalLM.from_pretrained(source)
    texts = []
    for each in (client, torch_model):
        write = pipeline("text-generation", model=each, tokenizer=tokenizer)
        texts.append(write(TEXTS[0], max_new_tokens=NEW_TOKENS, do_sample=False)[0]["generated_text"])
    assert texts[0] == texts[1]
    assert len(texts[0]) > len(TEXTS[0])
