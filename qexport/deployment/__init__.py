"""The verbs ``deploy``, ``push`` and ``verify``: make a runtime's folder or a hub repository from an artifact."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
