"""What runs in onnxruntime-web: recipes of the reference model, in each WebAssembly file of the package.

npm install onnxruntime-web                      # anywhere
python benchmarks/web/table.py NODE_MODULES      # the table of docs/results/onnxruntime-web.md, to stdout
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qexport import exporting, quantization
from qexport.runtime.onnx_session import OrtSession

CHECK = Path(__file__).with_name("check.mjs")
BUILDS = {"/wasm": "", "plain": ".jsep", "/webgpu": ".asyncify"}
"""What is imported of the package, and the suffix of the WebAssembly file that comes with it."""
SECONDS = 60
WEB: dict[str, object] = {"target": "web"}
DTYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "int8-dynamic": ("int8-dynamic", WEB | {"engine": "ort"}),
    "int8-dynamic, per token": ("int8-dynamic", WEB | {"per_token": True}),
    "int8-static": ("int8-static", WEB | {"engine": "ort"}),
    "w8a16-rtn, symmetric": ("w8a16-rtn", WEB | {"symmetric": True}),
    "w8a16-rtn, asymmetric": ("w8a16-rtn", WEB | {"symmetric": False}),
    "w4a16-rtn": ("w4a16-rtn", WEB),
    "w4a16-rtn, asymmetric": ("w4a16-rtn", WEB | {"symmetric": False}),
    "w4a16-rtn for cpu, compute int8": ("w4a16-rtn", {"compute": "int8"}),
    "w8a16-rtn for cpu, compute int8": ("w8a16-rtn", {"compute": "int8"}),
    "w4a16-gptq": ("w4a16-gptq", WEB),
    "w4a16-awq": ("w4a16-awq", WEB),
    "fp16": ("fp16", WEB),
    "bf16 for cpu": ("bf16", {}),
    "fp8 for cpu": ("fp8", {}),
    "nf4 for cpu": ("nf4", {}),
    "fp4 for cpu": ("fp4", {}),
}


def in_web(modules: str, build: str, folder: Path) -> dict[str, Any]:
    """The answer of ``check.mjs``."""
    command = ["node", str(CHECK), modules, build, str(folder)]
    try:
        said = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).stdout
    except subprocess.TimeoutExpired:
        said = b""
    answer: dict[str, Any] = json.loads(said or '{"message": "no answer"}')
    return answer


def in_python(folder: Path, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits ``[tokens, vocab]`` of Python's onnxruntime, the last token over the past of the others."""
    session = OrtSession(folder / "model.onnx", threads=1)
    past: dict[str, np.ndarray[Any, Any]] = {
        value.name: np.zeros((1, int(value.shape[1] or 0), 0, int(value.shape[3] or 0)), DTYPES[value.type])
        for value in session.inputs
        if value.name.startswith("past_key_values.")
    }
    rows = []
    for first, part in ((0, ids[:-1]), (len(ids) - 1, ids[-1:])):
        end = first + len(part)
        feeds = {
            "input_ids": np.array([part]),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(first, end)[None],
        } | past
        found = session.run({value.name: feeds[value.name] for value in session.inputs})
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        rows.append(found["logits"][0].astype(np.float32))
    return np.concatenate(rows)


def main(modules: str) -> None:
    """Print the table."""
    print("| recipe | " + " | ".join(BUILDS) + " |\n|---|" + "---|" * len(BUILDS))
    with tempfile.TemporaryDirectory() as work:
        parent = exporting.export("reference", Path(work) / "fp32", exporter="fused").path
        for row, made in ({"fp32": None} | ROWS).items():
            folder = parent
            if made is not None:
                recipe, options = made
                folder = Path(work) / row.replace(" ", "-")
                quantization.quantize(str(parent), folder, recipe_name=recipe, options=options)
            cells = []
            for build in BUILDS.values():
                answer = in_web(modules, build, folder)
                if "logits" in answer:
                    exact = in_python(folder, answer["ids"])
                    other = np.array(answer["logits"], np.float32).reshape(exact.shape)
                    cells.append(f"{np.abs(exact - other).max():.1e}")
                else:
                    cells.append("no: " + answer["message"].split("ERROR_MESSAGE: ")[-1].split(" with name")[0])
            print(f"| {row} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
