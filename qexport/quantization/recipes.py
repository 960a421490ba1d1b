"""The one table of recipes: a name people type, and the scheme it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Literal

from qexport.core import ALL, BODY, Exporter, InputError, Selector, TargetName, UnsupportedHere, near_names
from qexport.quantization.schemes.bnb import Bnb
from qexport.quantization.schemes.cast import Cast
from qexport.quantization.schemes.four_bit_float import FourBitFloat
from qexport.quantization.schemes.fp8 import Fp8
from qexport.quantization.schemes.int8 import Dynamic, Int8, Static
from qexport.quantization.schemes.torch_float import TorchFloat
from qexport.quantization.schemes.weight_only import Awq, Gptq, Hqq, Rtn, WeightOnly
from qexport.quantization.targets import TARGETS, refusal


@dataclass(frozen=True, kw_only=True)
class Fp32:
    """The exported graph without a change."""

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


Family = Literal["floating point", "int8", "fp8", "weight-only", "torch", "bitsandbytes"]
Colour = Literal["muted", "ink", "blue", "green", "sky", "orange", "purple", "brown", "vermillion"]


@dataclass(frozen=True)
class Recipe:
    """A named scheme, and every fact about it that a table, a chart or a message shows."""

    name: str
    scheme: Scheme
    summary: str
    _: KW_ONLY
    family: Family
    colour: Colour
    """The hue of its rows in charts; :mod:`qexport.report.palette` has the values."""
    choices: tuple[tuple[str, object], ...] = ()
    """Options that differ from the table's, by name."""
    nodes: str = ALL
    """The selection where the user names none."""
    rows: tuple[str | None, ...] = (None,)
    """The selections that a comparison without an experiment measures; None takes :attr:`nodes`."""
    making_s: float = 0.7
    """Seconds to make the artifact of the bundled model on two cores; the export counts to fp32. A progress bar uses them."""
    onnx_twin: str = ""
    """The ONNX recipe to take where a PyTorch artifact cannot be deployed."""

    @property
    def takes_nodes(self) -> bool:
        """A selection of nodes can be made."""
        return self.scheme.takes_nodes

    @property
    def in_torch(self) -> bool:
        """The artifact stays in PyTorch."""
        return isinstance(self.scheme, TorchSchemes)

    @property
    def is_float(self) -> bool:
        """The recipe quantizes nothing, so that ratios may refer to it."""
        return isinstance(self.scheme, Fp32 | Cast | TorchFloat)

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

    def require_target(self) -> None:
        """Make sure, before any work, that the recipe has a form for its target.

        Raises:
            UnsupportedHere: it has none.
        """
        if isinstance(self.scheme, Fp32 | TorchSchemes):
            return
        if reason := refusal(self.scheme.needs, self.scheme.target):
            raise UnsupportedHere(f"{self.name} --target {self.scheme.target}: {reason}")

    def exporter_for(self, target: TargetName) -> Exporter:
        """The exporter whose graphs a target can run once the scheme is done with them."""
        if isinstance(self.scheme, Fp32 | TorchSchemes) or not self.scheme.leaves_half:
            return TARGETS[target].exporter
        return TARGETS[target].half_exporter

    @property
    def default_selector(self) -> Selector:
        """The nodes that are quantized where the user names none: without embeddings where the target has no lookup."""
        nodes = None
        if not isinstance(self.scheme, Fp32 | TorchSchemes) and self.scheme.lookup in TARGETS[self.scheme.target].lacks:
            nodes = TARGETS[self.scheme.target].nodes
        return Selector(nodes=nodes or (self.nodes,))


_float = partial(Recipe, family="floating point", colour="muted")
_int8 = partial(Recipe, family="int8", rows=(None, "attention"), making_s=3.0)
_w8 = partial(Recipe, family="weight-only", colour="orange")
_w4 = partial(Recipe, family="weight-only", colour="purple")
_bnb4 = partial(Recipe, family="weight-only", colour="brown", nodes=BODY)
_torch = partial(Recipe, family="torch", colour="ink")
_bnb = partial(Recipe, family="bitsandbytes", colour="vermillion")
_RTN8 = WeightOnly(bits=8, rounding=Rtn())

_TABLE = (
    _float("fp32", Fp32(), "the exported model, the baseline of every ratio", making_s=12.0),
    _float("fp16", Cast(dtype="fp16"), "weights and arithmetic in float16, what overflows in float32"),
    _float("bf16", Cast(dtype="bf16"), "weights and arithmetic in bfloat16"),
    _int8(
        "int8-dynamic",
        Int8(activations=Dynamic()),
        "INT8 weights and activations, activation ranges from each input",
        colour="green",
    ),
    _int8(
        "int8-static",
        Int8(activations=Static()),
        "INT8 weights and activations, activation ranges from calibration text",
        colour="blue",
    ),
    Recipe("fp8", Fp8(), "FP8 E4M3 weights and activations", family="fp8", colour="sky"),
    _w8("w8a16-rtn", _RTN8, "8-bit weights rounded to nearest, activations in 8 bits block by block on a CPU"),
    _w8(
        "w8a16-gptq",
        replace(_RTN8, rounding=Gptq()),
        "8-bit weights by GPTQ and smooth activations, by calibration text",
        rows=(),
        making_s=14.0,
    ),
    _w4("w4a16-rtn", WeightOnly(bits=4, rounding=Rtn()), "4-bit weights rounded to nearest, activations as they are"),
    _w4(
        "w4a16-hqq", WeightOnly(bits=4, rounding=Hqq()), "4-bit weights by half-quadratic quantization, no calibration"
    ),
    _w4(
        "w4a16-gptq",
        WeightOnly(bits=4, rounding=Gptq()),
        "4-bit weights by GPTQ: rounding errors made up for, by calibration text",
        making_s=14.0,
    ),
    _w4(
        "w4a16-awq",
        WeightOnly(bits=4, rounding=Awq()),
        "4-bit weights by AWQ: salient channels scaled up, by calibration text",
        making_s=6.0,
    ),
    _bnb4("nf4", FourBitFloat(kind="nf4"), "4-bit NormalFloat as bitsandbytes has it, in ONNX"),
    _bnb4("fp4", FourBitFloat(kind="fp4"), "4-bit floating point as bitsandbytes has it, in ONNX"),
    _torch("torch-fp32", TorchFloat(compute="fp32"), "the model itself, in PyTorch", onnx_twin="fp32"),
    _torch("torch-fp16", TorchFloat(compute="fp16"), "the model in float16, in PyTorch", rows=(), onnx_twin="fp16"),
    _bnb("bnb-int8", Bnb(kind="int8"), "bitsandbytes LLM.int8(), in PyTorch", onnx_twin="int8-dynamic"),
    _bnb("bnb-nf4", Bnb(kind="nf4"), "bitsandbytes 4-bit NormalFloat, in PyTorch", onnx_twin="nf4"),
    _bnb("bnb-fp4", Bnb(kind="fp4"), "bitsandbytes 4-bit floating point, in PyTorch", onnx_twin="fp4"),
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
