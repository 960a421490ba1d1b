"""The one table of recipes: a name people type, and the scheme it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from qexport.errors import InputError, near_names
from qexport.schemes.bnb import Bnb
from qexport.schemes.cast import Cast
from qexport.schemes.four_bit_float import FourBitFloat
from qexport.schemes.fp8 import Fp8
from qexport.schemes.int8 import Dynamic, Int8, Static
from qexport.schemes.torch_float import TorchFloat
from qexport.schemes.weight_only import Awq, Gptq, Hqq, Rtn, WeightOnly
from qexport.selection import ALL, BODY


@dataclass(frozen=True, kw_only=True)
class Fp32:
    """The exported graph as it is."""

    OPTIONS: ClassVar[tuple[str, ...]] = ()
    takes_nodes: ClassVar[bool] = False

    def configured(self, choices: Mapping[str, object]) -> Fp32:
        """Itself: there is nothing to choose.

        Raises:
            InputError: something was chosen.
        """
        if choices:
            raise InputError(f"the option {next(iter(choices))} is not for fp32; it has no options")
        return self


OnnxSchemes = Int8 | WeightOnly | FourBitFloat | Fp8 | Cast
TorchSchemes = Bnb | TorchFloat
Scheme = Fp32 | TorchSchemes | OnnxSchemes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named scheme. Which nodes it is applied to is the selector's business, not the recipe's."""

    name: str
    scheme: Scheme
    summary: str
    choices: tuple[tuple[str, object], ...] = ()
    """What was chosen other than the table has it."""
    nodes: str = ALL
    """The nodes it is for where none are named."""

    @property
    def takes_nodes(self) -> bool:
        """A selection of nodes can be made."""
        return self.scheme.takes_nodes

    def configured(self, choices: Mapping[str, object]) -> Recipe:
        """The recipe with options of its scheme chosen.

        Raises:
            InputError: an option that the scheme has not, or a value that it does not take.
        """
        if not choices:
            return self
        try:
            scheme = self.scheme.configured(choices)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        return replace(self, scheme=scheme, choices=tuple(sorted({**dict(self.choices), **choices}.items())))


_TABLE = (
    Recipe(name="fp32", scheme=Fp32(), summary="the exported model, the baseline of every ratio"),
    Recipe(
        name="fp16", scheme=Cast(dtype="fp16"), summary="weights and arithmetic in float16, what overflows in float32"
    ),
    Recipe(name="bf16", scheme=Cast(dtype="bf16"), summary="weights and arithmetic in bfloat16"),
    Recipe(
        name="int8-dynamic",
        scheme=Int8(activations=Dynamic()),
        summary="INT8 weights and activations, activation ranges from each input",
    ),
    Recipe(
        name="int8-static",
        scheme=Int8(activations=Static()),
        summary="INT8 weights and activations, activation ranges from calibration text",
    ),
    Recipe(
        name="w8a16-rtn",
        scheme=WeightOnly(bits=8, rounding=Rtn(), block_size=128, symmetric=False),
        summary="8-bit weights rounded to nearest, activations as they are",
    ),
    Recipe(
        name="w8a16-gptq",
        scheme=WeightOnly(bits=8, rounding=Gptq(), block_size=128, symmetric=False),
        summary="8-bit weights by GPTQ, by calibration text",
    ),
    Recipe(
        name="w4a16-rtn",
        scheme=WeightOnly(bits=4, rounding=Rtn()),
        summary="4-bit weights rounded to nearest, activations as they are",
    ),
    Recipe(
        name="w4a16-hqq",
        scheme=WeightOnly(bits=4, rounding=Hqq()),
        summary="4-bit weights by half-quadratic quantization, no calibration",
    ),
    Recipe(
        name="w4a16-gptq",
        scheme=WeightOnly(bits=4, rounding=Gptq()),
        summary="4-bit weights by GPTQ: rounding errors made up for, by calibration text",
    ),
    Recipe(
        name="w4a16-awq",
        scheme=WeightOnly(bits=4, rounding=Awq()),
        summary="4-bit weights by AWQ: salient channels scaled up, by calibration text",
    ),
    Recipe(
        name="nf4",
        scheme=FourBitFloat(kind="nf4"),
        summary="4-bit NormalFloat as bitsandbytes has it, in ONNX",
        nodes=BODY,
    ),
    Recipe(
        name="fp4",
        scheme=FourBitFloat(kind="fp4"),
        summary="4-bit floating point as bitsandbytes has it, in ONNX",
        nodes=BODY,
    ),
    Recipe(name="fp8", scheme=Fp8(), summary="FP8 E4M3 weights and activations"),
    Recipe(name="torch-fp32", scheme=TorchFloat(compute="fp32"), summary="the model itself, in PyTorch"),
    Recipe(name="torch-fp16", scheme=TorchFloat(compute="fp16"), summary="the model in float16, in PyTorch"),
    Recipe(name="bnb-int8", scheme=Bnb(kind="int8"), summary="bitsandbytes LLM.int8(), in PyTorch"),
    Recipe(name="bnb-nf4", scheme=Bnb(kind="nf4"), summary="bitsandbytes 4-bit NormalFloat, in PyTorch"),
    Recipe(name="bnb-fp4", scheme=Bnb(kind="fp4"), summary="bitsandbytes 4-bit floating point, in PyTorch"),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _TABLE})


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        InputError: there is none; the message has the near names.
    """
    if name not in RECIPES:
        family = [each for each in RECIPES if name and each.startswith(f"{name}-")]
        if family:
            raise InputError(f"{name}: a family of recipes; choose {', '.join(family)}")
        raise InputError(f"{name}: unknown recipe; {near_names(name, RECIPES)}")
    return RECIPES[name]
