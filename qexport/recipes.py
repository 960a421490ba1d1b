"""The one table of recipes: a name people type, and the scheme it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qexport.errors import InputError, near_names
from qexport.schemes.bnb import Bnb
from qexport.schemes.int8 import Dynamic, Int8, Static


@dataclass(frozen=True, kw_only=True)
class Fp32:
    """The exported graph as it is."""


Scheme = Fp32 | Int8 | Bnb


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named scheme. Which nodes it is applied to is the selector's business, not the recipe's."""

    name: str
    scheme: Scheme
    summary: str


_TABLE = (
    Recipe(name="fp32", scheme=Fp32(), summary="the exported model, the baseline of every ratio"),
    Recipe(
        name="int8-static",
        scheme=Int8(activations=Static()),
        summary="INT8 weights and activations, activation ranges from calibration text",
    ),
    Recipe(
        name="int8-dynamic",
        scheme=Int8(activations=Dynamic()),
        summary="INT8 weights and activations, activation ranges from each input",
    ),
    Recipe(name="bnb-int8", scheme=Bnb(kind="int8"), summary="bitsandbytes LLM.int8(), in PyTorch"),
    Recipe(name="bnb-fp4", scheme=Bnb(kind="fp4"), summary="bitsandbytes 4-bit floating point, in PyTorch"),
    Recipe(name="bnb-nf4", scheme=Bnb(kind="nf4"), summary="bitsandbytes 4-bit NormalFloat, in PyTorch"),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _TABLE})


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        InputError: there is none; the message has the near names.
    """
    if name not in RECIPES:
        raise InputError(f"{name}: unknown recipe; {near_names(name, RECIPES)}")
    return RECIPES[name]
