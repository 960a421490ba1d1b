"""qexport: export a small language model to ONNX, quantize it, and tell the truth about what that cost."""

TYPE_CHECKING = False  # typing's own takes 10 ms to import
if TYPE_CHECKING:
    __version__: str
    from qexport.api import compare, deploy, export, gate, measure, nodes, quantize
    from qexport.core import QExportError
    from qexport.report import NotebookTable as Table

__all__ = ["QExportError", "Table", "compare", "deploy", "export", "gate", "measure", "nodes", "quantize"]


def __getattr__(name: str) -> object:
    """The verbs, imported when they are first asked for."""
    if name == "__version__":
        from qexport.core.version import VERSION

        return VERSION
    if name == "QExportError":
        from qexport.core import QExportError

        return QExportError
    if name == "Table":
        from qexport.report import NotebookTable

        return NotebookTable
    if name in __all__:
        from qexport import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
