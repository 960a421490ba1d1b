"""The verbs ``compare``, ``eval`` and ``report``: an experiment becomes a table of rows by metrics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
