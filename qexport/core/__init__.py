"""Values and files that every room uses: artifacts, graphs, selections, records, metrics, statistics, errors, facts of the machine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
