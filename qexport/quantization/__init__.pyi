from .pipeline import (
    Plan as Plan,
    apply_onnx as apply_onnx,
    apply_torch as apply_torch,
    calibration_tokens as calibration_tokens,
    calibration_windows as calibration_windows,
    plan as plan,
    quantize as quantize,
    require_engine as require_engine,
)
from .recipes import (
    RECIPES as RECIPES,
    Colour as Colour,
    Fp32 as Fp32,
    Recipe as Recipe,
    TorchSchemes as TorchSchemes,
    recipe as recipe,
)
from .schemes.four_bit_float import FourBitFloat as FourBitFloat
from .schemes.int8 import WeightGrid as WeightGrid
