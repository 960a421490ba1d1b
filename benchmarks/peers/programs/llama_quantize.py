"""Write a GGUF file in a type of llama.cpp: SOURCE, FOLDER, TYPE (as ``Q8_0``)."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import llama_cpp


def main() -> None:
    source, folder, kind = sys.argv[1:]
    target = Path(folder) / f"model.{kind}.gguf"
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    settings.nthread = 2
    code = llama_cpp.llama_model_quantize(source.encode(), str(target).encode(), ctypes.byref(settings))
    sys.exit(f"llama_model_quantize: code {code}" if code else 0)


if __name__ == "__main__":
    main()
