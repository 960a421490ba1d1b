"""The gate's files, for people and for CI services."""

from __future__ import annotations

from pathlib import Path

from qexport.core import InputError, write_all
from qexport.gating.pages.code_quality import code_quality
from qexport.gating.pages.data import gate_json
from qexport.gating.pages.junit import junit
from qexport.gating.pages.markdown import markdown
from qexport.gating.verdict import GateReport


def write_gate_pages(report: GateReport, folder: Path) -> None:
    """Write ``gate.md``, ``junit.xml``, ``code-quality.json`` and ``gate.json``; existing ones are replaced.

    Args:
        report: the gate's report.
        folder: the folder for the files; it is made if it is missing, and its other files stay.

    Raises:
        InputError: the folder cannot be made, or a file cannot be written.
    """
    texts = {
        "gate.md": markdown(report),
        "junit.xml": junit(report),
        "code-quality.json": code_quality(report),
        "gate.json": gate_json(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all({folder / name: text for name, text in texts.items()})
    except IsADirectoryError as error:
        raise InputError(f"{error.filename}: cannot be written ({error.strerror}); choose another folder") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
