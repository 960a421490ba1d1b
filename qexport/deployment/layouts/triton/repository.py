"""Triton Inference Server: a model repository with the graph, and with a model for greedy generation that calls it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from qexport.core import ONNX_NAME, Artifact, ContractError, InputError, UnsupportedHere, scratch_folder
from qexport.deployment.layouts.device import runs_on_gpu
from qexport.deployment.layouts.files import copy_model
from qexport.deployment.layouts.interface import Interface, read_interface
from qexport.deployment.layouts.layout import Laid, Layout, Request
from qexport.deployment.layouts.padding import right_only
from qexport.deployment.layouts.tokenizer import TOKENIZER, settle
from qexport.deployment.layouts.triton.config import (
    PAST,
    PRESENT,
    TYPES,
    WARM_UP_TOKENS,
    Generation,
    generate_config,
    graph_config,
    warm_up_files,
)
from qexport.deployment.layouts.triton.pbtxt import Message, text
from qexport.inputs import load_tokenizer, source_of, stop_ids

MAX_BATCH = 8
"""The most rows of one run, from one request or several."""
GENERATE = "_generate"
"""The suffix of the generating model's name."""
CONFIG = "config.pbtxt"
_MODEL_CODE = Path(__file__).parent / "template" / "model.py"
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+|^[._-]+")
_KNOWN = ("input_ids", "attention_mask", "position_ids")


def check(artifact: Artifact) -> None:
    """See :class:`qexport.deployment.layouts.layout.Layout`.

    Raises:
        ContractError: the graph's inputs and outputs differ from those of a decoder of qexport.
        UnsupportedHere: the graph's cache has a type that numpy lacks.
    """
    _require_decoder(artifact.onnx_path, read_interface(artifact.onnx_path))


def write(request: Request, folder: Path) -> Laid:
    """Fill a model repository: ``NAME`` is the graph, ``NAME_generate`` the Python model that generates with it.

    Raises:
        InputError: no character of the name can be used for a model.
        UnsupportedHere: see :func:`check`.
        ContractError: see :func:`check`.
    """
    (artifact,) = request.artifacts
    name = model_name(request.name)
    generating = f"{name}{GENERATE}"
    interface = read_interface(artifact.onnx_path)
    _require_decoder(artifact.onnx_path, interface)
    source = source_of(artifact)
    code = folder / generating / "1"
    code.mkdir(parents=True)
    shutil.copyfile(_MODEL_CODE, code / "model.py")
    refused, settled = _settle_tokenizer(artifact, code)
    generation = Generation(
        padding="right" if right_only(artifact) else "left",
        stop_ids=stop_ids(artifact.path, load_tokenizer(source)),
        context_length=source.context_length,
        tokenizer=not refused,
    )
    tokens = min(WARM_UP_TOKENS, source.context_length - 1)
    gpu = runs_on_gpu(artifact)
    changes = settled | {f"{generating}/1/model.py": "generates with the graph, in Triton's Python backend"}
    copy_model(artifact, folder / name / "1" / ONNX_NAME)
    graph = graph_config(name, interface, max_batch=MAX_BATCH, gpu=gpu, warm_up_tokens=tokens)
    _write_config(folder / name, graph)
    _write_config(folder / generating, generate_config(generating, name, interface, generation, max_batch=MAX_BATCH))
    changes |= _write_warm_up(folder, name, tokens)
    changes[f"{name}/{CONFIG}"] = f"the graph for the ONNX Runtime backend on the {'GPU' if gpu else 'CPU'}"
    changes[f"{generating}/{CONFIG}"] = (
        f"greedy generation from token ids{' only: ' + refused if refused else ' or text'}"
    )
    return Laid(models=(f"{name}/1/{ONNX_NAME}",), changes=changes)


def model_name(name: str) -> str:
    """A name in the form of an address: letters, digits and ``. _ -``; other characters become ``-``.

    Raises:
        InputError: no character of the name can be used.
    """
    kept = _NO_NAME.sub("-", name).strip("-")
    if not kept:
        raise InputError(f"{name}: has no letter or digit for the name of the model; rename the artifact's folder")
    return kept


def _require_decoder(path: Path, interface: Interface) -> None:
    past = [name for name in interface.inputs if name.startswith(PAST)]
    if unknown := sorted(set(interface.inputs) - {*_KNOWN, *past}):
        raise ContractError(f"{path}: it asks for {unknown[0]}, which a decoder of qexport lacks; export it again")
    if not past or set(interface.outputs) != {"logits", *(name.replace(PAST, PRESENT, 1) for name in past)}:
        raise ContractError(f"{path}: its outputs are not logits and a present for each past; export it again")
    for name, tensor in {**interface.inputs, **interface.outputs}.items():
        if tensor.dtype not in TYPES:
            raise UnsupportedHere(
                f"{path}: {name} is {tensor.dtype}, which models in Triton's Python backend cannot hold as numpy; take fp16"
            )
        if not tensor.shape or isinstance(tensor.shape[0], int):
            raise ContractError(f"{path}: {name} has no batch of any size in front; export it again")


def _settle_tokenizer(artifact: Artifact, folder: Path) -> tuple[str, dict[str, str]]:
    """Put a tokenizer that encodes like transformers next to the model's code.

    Returns:
        The reason why it is not possible, or empty; and the changes to the artifact's files, by path in the repository.
    """
    with scratch_folder("triton") as beside:
        settled = Path(beside) / TOKENIZER
        if (artifact.path / TOKENIZER).is_file():
            shutil.copyfile(artifact.path / TOKENIZER, settled)
        try:
            changes = settle(artifact, settled.parent)
        except UnsupportedHere:
            return "the model's tokenizer exists in Python only", {}
        shutil.copyfile(settled, folder / TOKENIZER)
    place = f"{folder.parent.name}/{folder.name}/{TOKENIZER}"
    return "", {place: changes[TOKENIZER]} if TOKENIZER in changes else {}


def _write_config(folder: Path, config: Message) -> None:
    (folder / CONFIG).write_text(text(config), encoding="utf-8", newline="\n")


def _write_warm_up(folder: Path, model: str, tokens: int) -> dict[str, str]:
    (folder / model / "warmup").mkdir()
    changes = {}
    for name, count in warm_up_files(tokens).items():
        place = f"{model}/warmup/{name}"
        (folder / place).write_bytes(np.ones(count, "<i8").tobytes())
        changes[place] = "a mask of ones, for the warm-up"
    return changes


LAYOUT = Layout(
    runtime="Triton Inference Server",
    check=check,
    write=write,
    proved={"nvidia-pytriton": "0.7.0", "tritonclient": "2.73.0", "onnxruntime": "1.31.1"},
)
