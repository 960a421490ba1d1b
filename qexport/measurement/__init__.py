"""Probes and tasks of artifacts, each in a fresh process: a measurement for each metric."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
