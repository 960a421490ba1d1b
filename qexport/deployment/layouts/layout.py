"""Layouts: the folders that other runtimes expect, one module for each runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qexport.core import Artifact


@dataclass(frozen=True, kw_only=True)
class Request:
    """The artifacts to lay out, and the options.

    Attributes:
        artifacts: one artifact, or several of the same model if the layout can hold them.
        name: the name of the deployed model.
        chat: True if prompts go through the tokenizer's chat template.
        demo: True if a web page is added.
        storage_uri: the address where the cluster will find the folder.
    """

    artifacts: Sequence[Artifact]
    name: str
    chat: bool = False
    demo: bool = False
    storage_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Laid:
    """The files that a layout has written.

    Attributes:
        models: for each artifact, the place of its ONNX file.
        changes: by path, the change to an artifact's file, or the purpose of an added file.
    """

    models: tuple[str, ...]
    changes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One runtime's folder.

    Attributes:
        runtime: the runtime's name, for people.
        check: raises UnsupportedHere if the runtime cannot run an artifact, or would compute something else.
        write: fills an empty folder.
        proved: packages, and the versions that the layout was tested with.
        options: the options of a request that the layout uses.
        several: True if the folder can hold several artifacts of one model.
    """

    runtime: str
    check: Callable[[Artifact], None]
    write: Callable[[Request, Path], Laid]
    proved: Mapping[str, str]
    options: frozenset[str] = frozenset()
    several: bool = False
