"""Layouts: what other runtimes expect to find in a folder, one module for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qexport.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be laid out, and how.

    Attributes:
        artifacts: one, or several of the same model where the layout has room for them.
        name: of the deployed model.
        chat: prompts go through the tokenizer's chat template.
        demo: a web page goes beside the model.
        storage_uri: where the cluster will find the folder.
    """

    artifacts: Sequence[Artifact]
    name: str
    chat: bool = False
    demo: bool = False
    storage_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Laid:
    """What a layout has written.

    Attributes:
        models: for each artifact, where its ONNX file lies.
        changes: by path, what was changed of an artifact's file, or what was written that no artifact has.
    """

    models: tuple[str, ...]
    changes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One runtime's folder.

    Attributes:
        runtime: its name, for people.
        check: raises UnsupportedHere where the runtime would not run an artifact, or not as it is meant.
        write: fills an empty folder.
        proved: packages, and the versions that the layout was proved with.
        options: the options of a request that the layout knows.
        several: it has room for several artifacts of one model.
    """

    runtime: str
    check: Callable[[Artifact], None]
    write: Callable[[Request, Path], Laid]
    proved: Mapping[str, str]
    options: frozenset[str] = frozenset()
    several: bool = False
