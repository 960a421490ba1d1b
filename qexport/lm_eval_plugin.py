"""``lm_eval --model qexport`` for releases of lm-eval that look at no entry points.

Releases after 0.4.13 find the model by qexport's entry point (group ``lm_eval.models``). For 0.4.13, the installation's
``qexport_lm_eval.pth`` imports this module whenever Python starts: it only watches for ``lm_eval.models``, and adds one
name to the registry there. Nothing here may import anything that takes time.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

MODEL = "qexport.measurement.tasks.lm:QExportLM"


class _Watch:
    """A finder that finds nothing itself."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, _: ModuleType | None = None) -> ModuleSpec | None:
        if name != "lm_eval.models":
            return None
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Make the model known, unless it is."""
    from lm_eval.api.registry import model_registry

    if "qexport" not in model_registry:
        model_registry.register("qexport", target=MODEL)


def watch() -> None:
    """Register the model once lm-eval's models are there; Python may read a ``.pth`` twice."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
