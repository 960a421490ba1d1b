"""qexport: export a small language model to ONNX, quantize it, and tell the truth about what that cost."""

__version__ = "0.1.0"
