"""The verb ``export``: a PyTorch model becomes a prepared ONNX graph, proved against the model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
