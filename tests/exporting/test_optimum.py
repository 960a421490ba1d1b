"""Optimum's exporter, as far as it is not the same as the other one."""

from __future__ import annotations

import pytest

from qexport.core.errors import UnsupportedHere
from qexport.exporting.optimum import export_optimum
from qexport.exporting.signature import optimum_config, signature_of
from tests.architectures import TINY, tiny_model


def test_model_is_as_before():
    model = tiny_model("opt")
    before = model.config.to_dict(), model.config._attn_implementation, model.forward.__func__
    export_optimum(model)
    assert (model.config.to_dict(), model.config._attn_implementation, model.forward.__func__) == before


def test_unknown_architecture_is_refused_in_one_line():
    from transformers import AutoModelForCausalLM, PersimmonConfig

    small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = AutoModelForCausalLM.from_config(PersimmonConfig(**small, num_attention_heads=2)).eval()
    assert optimum_config(model) is None
    assert signature_of(model).position_ids  # from its forward, as Optimum has nothing to say
    with pytest.raises(UnsupportedHere, match="persimmon: Optimum does not know") as caught:
        export_optimum(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TINY)
def test_optimum_knows_the_architecture(name):
    config = optimum_config(tiny_model(name))
    assert config is not None
    assert ("position_ids" in config.inputs) == (name != "gemma2")
