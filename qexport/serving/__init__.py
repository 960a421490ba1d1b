"""The verb ``serve``: an OpenAI-compatible HTTP server for one artifact."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
