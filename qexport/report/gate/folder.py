"""The gate's files: what people read, and what the services take."""

from __future__ import annotations

from pathlib import Path

from qexport.errors import InputError
from qexport.files import write_whole
from qexport.report.gate.code_quality import code_quality
from qexport.report.gate.data import data
from qexport.report.gate.junit import junit
from qexport.report.gate.markdown import markdown
from qexport.verdict import GateReport


def write(report: GateReport, folder: Path) -> None:
    """Write ``gate.md``, ``junit.xml``, ``code-quality.json`` and ``gate.json``; those that are there are replaced.

    Args:
        report: what the gate says.
        folder: where to; made if it is not there, and other files in it are left alone.

    Raises:
        InputError: the folder cannot be made, or a file cannot be written.
    """
    files = {
        "gate.md": markdown(report),
        "junit.xml": junit(report),
        "code-quality.json": code_quality(report),
        "gate.json": data(report),
    }
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = folder / name
            write_whole(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
