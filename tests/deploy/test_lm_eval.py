"""lm-eval's stock ONNX backends, on what was deployed, against what qexport answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qexport.core.artifact import load_artifact
from qexport.deployment.pipeline import deploy
from qexport.inputs.experiment import Tasks
from qexport.measurement.answers import Here
from qexport.measurement.tasks.lm import ArtifactLM
from qexport.measurement.tasks.load import load_task
from qexport.runtime.opening import open_session
from tests.deploy.proof import MODELS, PROGRAMS, ask

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
QUESTIONS = Path(__file__).resolve().parents[1] / "data" / "tasks"
TOLERANCE = 1e-3
"""Nats: the two score in float32, another version of ONNX Runtime sums in another order.

INT8 is without outlier channels here: another order of sums in the float product of the channels flips roundings of the
next layers, and a question of stories260K then scores up to 0.34 nats differently."""


def requests(name):
    task = load_task(name, Tasks(data=QUESTIONS)).parts[name]
    task.build_all_requests()
    return list(task.instances)


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-genai"])
@pytest.mark.parametrize("which", [(model, name) for model in MODELS for name in ("fp32", "int8-plain", "w4")])
def test_stock_backend_gives_the_numbers_that_qexport_gives(client, artifact, tmp_path, backend, which):
    python = client("genai") / "bin" / "python"
    loaded = load_artifact(artifact(*which))
    deploy([loaded.path], "genai", tmp_path / "out")
    # lm-eval's ONNX models never add a BOS token, whatever the tokenizer does; its `hf` model and qexport's own do.
    ours = ArtifactLM(loaded.path, Here(loaded, open_session(loaded)), add_bos_token=False)
    asked = [each for task in ("piqa", "arc_easy") for each in requests(task)]
    request = {
        "backend": backend,
        "folder": str(tmp_path / "out"),
        "max_length": ours.max_length,
        "pairs": [each.args for each in asked],
    }
    theirs = ask([python, PROGRAMS / "lm_eval_scores.py"], request, env=os.environ | {"HF_HUB_OFFLINE": "1"})["scores"]
    for (score, greedy), (wanted, wanted_greedy) in zip(theirs, ours.loglikelihood(asked), strict=True):
        assert score == pytest.approx(wanted, abs=TOLERANCE)
        assert greedy == wanted_greedy
