"""The gate's files: what people read, and what the services take."""

from __future__ import annotations

from pathlib import Path

from qexport.errors import InputError
from qexport.files import write_all
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
    texts = {
        "gate.md": markdown(report),
        "junit.xml": junit(report),
        "code-quality.json": code_quality(report),
        "gate.json": data(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all({folder / name: text for name, text in texts.items()})
    except IsADirectoryError as error:
        raise InputError(f"{error.filename}: cannot be written ({error.strerror}); choose another folder") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
