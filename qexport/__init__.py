"""qexport: export a small language model to ONNX, quantize it, and tell the truth about what that cost."""

import os

from qexport.cpu import has_fma

__version__ = "0.1.0"

# numpy's OpenBLAS takes its slowest kernels for a processor that it does not know: on a Xeon of 2023 a product in float64
# takes 7.3 times as long with them, and 1.8 times with those of Haswell. The kernels of Haswell run wherever FMA does, and
# then give the same sums. numpy reads the variable when it is imported.
if has_fma():
    os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")
