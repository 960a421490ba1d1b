"""Tiny artifacts in many recipes, each made once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from qexport.core.artifact import Artifact, load_artifact
from qexport.quantization.pipeline import quantize


@pytest.fixture(scope="session")
def quantized(fp32, tmp_path_factory) -> Callable[..., Artifact]:
    """``quantized("w4a16-rtn", target="web")`` is the tiny llama in that recipe, which must not be written to."""

    @cache
    def make(recipe: str, **options: object) -> Artifact:
        folder = tmp_path_factory.mktemp("quantized") / "-".join((recipe, *map(str, options.values())))
        quantize(str(fp32("llama").path), folder, recipe_name=recipe, options=options)
        return load_artifact(folder)

    return make
