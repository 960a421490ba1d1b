"""The verb ``gate``: artifacts are held to their budgets and to a baseline."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
