"""Transformers.js: the model under ``onnx/``, named by its dtype, and further settings in ``config.json``."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

from qexport.core import Artifact, InputError, UnsupportedHere
from qexport.deployment.layouts.files import copy_model, copy_side_files, has_data
from qexport.deployment.layouts.interface import read_interface
from qexport.deployment.layouts.last_logits import NAME as NUM_LOGITS, keep_last_logits
from qexport.deployment.layouts.layout import Laid, Layout, Request
from qexport.deployment.layouts.padding import require_left
from qexport.deployment.layouts.tokenizer import settle

_SUFFIXES = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16", "bnb4": "_bnb4"}
"""The suffix of the file's name for each dtype that a user of Transformers.js can ask for."""
_CONFIG = "config.json"
_DEMO = ("index.html", "demo.css", "demo.js")
_BITS = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4}


def check(artifact: Artifact) -> None:
    """Refuse artifacts that the build of onnxruntime-web in Transformers.js cannot load, or computes differently.

    Raises:
        UnsupportedHere: the artifact is such an artifact.
    """
    require_left(artifact, LAYOUT.runtime)
    if reason := _refusal(artifact):
        raise UnsupportedHere(f"{artifact.path}: {reason}")


def _refusal(artifact: Artifact) -> str:
    import onnx

    recipe = artifact.manifest.recipe
    model = onnx.load(artifact.onnx_path, load_external_data=False)
    dtypes = {tensor.data_type for tensor in model.graph.initializer}
    if onnx.TensorProto.BFLOAT16 in dtypes:
        return "Transformers.js' build of onnxruntime-web has no Cast of bfloat16; make it with the recipe fp16"
    if onnx.TensorProto.FLOAT8E4M3FN in dtypes:
        return (
            "Transformers.js' build of onnxruntime-web has no DequantizeLinear of float8; make it with the recipe "
            "int8-static"
        )
    lookups = sum(node.op_type == "GatherBlockQuantized" for node in model.graph.node)
    if lookups:
        return (
            f"Transformers.js' build of onnxruntime-web has no GatherBlockQuantized, and the artifact {lookups}; make it "
            f"with --recipe {recipe} --target web, which leaves embeddings as they are"
        )
    if artifact.manifest.int8_compute:
        return (
            "onnxruntime-web computes MatMulNBits in float and the artifact rounds activations, so its answers would be "
            f"another model's; make it with --recipe {recipe} --target web"
        )
    return ""


def dtype_of(artifact: Artifact) -> str:
    """The dtype with which a user of Transformers.js loads an artifact."""
    weights = {node.weight_dtype for node in artifact.manifest.quantized}
    half = read_interface(artifact.onnx_path).cache.dtype == "FLOAT16"
    if not weights:
        return "fp16" if half else "fp32"
    if weights & {"nf4", "fp4"}:
        return "bnb4"
    if min(_BITS[weight] for weight in weights) == 4:
        return "q4f16" if half else "q4"
    return "q8"


def write(request: Request, folder: Path) -> Laid:
    """Write each artifact's graph under its dtype's name, the first one's other files, and the web page if requested.

    Raises:
        InputError: two artifacts have the same dtype.
    """
    first = request.artifacts[0]
    by_dtype: dict[str, Artifact] = {}
    for artifact in request.artifacts:
        dtype = dtype_of(artifact)
        if dtype in by_dtype:
            raise InputError(
                f"{artifact.path}: is {dtype} to Transformers.js, and so is {by_dtype[dtype].path}; give one of the two"
            )
        by_dtype[dtype] = artifact
    copy_side_files(first, folder)
    changes = settle(first, folder)
    models = []
    for dtype, artifact in by_dtype.items():
        name = f"onnx/model{_SUFFIXES[dtype]}.onnx"
        told = [copy_model(artifact, folder / name, data=f"{Path(name).name}_data")]
        if keep_last_logits(folder / name):
            told.append(f"takes {NUM_LOGITS}, by a Slice before its head: a prompt's logits need not all be computed")
        changes[name] = " and ".join(filter(None, told))
        models.append(name)
    changes[_CONFIG] = _declare(folder / _CONFIG, by_dtype)
    if request.demo:
        changes |= _write_demo(request, folder, list(by_dtype))
    return Laid(models=tuple(models), changes=changes)


def _declare(path: Path, by_dtype: dict[str, Artifact]) -> str:
    """Write the default dtype into the configuration, and the models that have a separate file of weights."""
    first = next(iter(by_dtype))
    outside = {f"model{_SUFFIXES[dtype]}.onnx": 1 for dtype, artifact in by_dtype.items() if has_data(artifact)}
    declared = {"dtype": first} | ({"use_external_data_format": outside} if outside else {})
    config = json.loads(path.read_text(encoding="utf-8")) | {"transformers.js_config": declared}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return f"transformers.js_config says dtype {first}" + (" and which models have separate weights" if outside else "")


def _write_demo(request: Request, folder: Path, dtypes: list[str]) -> dict[str, str]:
    source = resources.files("qexport.deployment.layouts") / "demo"
    for name in _DEMO:
        with resources.as_file(source / name) as path:
            shutil.copyfile(path, folder / name)
    settings = {"dtypes": dtypes, "chat": request.chat}
    (folder / "demo.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return dict.fromkeys((*_DEMO, "demo.json"), "written for the demo page")


LAYOUT = Layout(
    runtime="Transformers.js",
    check=check,
    write=write,
    proved={"@huggingface/transformers": "4.3.1"},
    options=frozenset({"demo"}),
    several=True,
)
