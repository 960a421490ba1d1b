"""``lm_eval --model qexport``, made known to releases of lm-eval that look at no entry points."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qexport import lm_eval_plugin
from qexport.inputs.experiment import Tasks
from qexport.measurement.tasks.evaluate import RowIdentity, evaluate
from qexport.measurement.tasks.load import load_task
from tests.measurement.tasks.conftest import Direct

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data" / "tasks"

REGISTRY = """
class Registry(dict):
    def register(self, name, *, target):
        print("register", name, target)
        self[name] = target

model_registry = Registry()
"""
MODELS = """
print("models")
from lm_eval.api.registry import model_registry
model_registry["hf"] = "lm_eval.models.huggingface:HFLM"
"""


@pytest.fixture
def other_lm_eval(tmp_path):
    """``other_lm_eval(program, models)`` is what a program prints where another lm-eval is installed."""

    def run(program, models=MODELS):
        for name, text in {
            "__init__": "",
            "api/__init__": "",
            "api/registry": REGISTRY,
            "models/__init__": models,
        }.items():
            path = tmp_path / "lm_eval" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return output(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}")

    return run


def output(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/")
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_installation_brings_one_line_that_python_runs_when_it_starts():
    files = importlib.metadata.files("qexport") or []
    (installed,) = [file for file in files if file.suffix == ".pth" and "lm_eval" in file.name]
    assert "/" not in str(installed)  # beside the packages: Python looks nowhere else
    line = "import qexport.lm_eval_plugin as plugin; plugin.watch()\n"
    assert Path(installed.locate()).read_text() == line
    assert (ROOT / "qexport" / "lm_eval.pth").read_text() == line
    points = importlib.metadata.entry_points(group="lm_eval.models")
    assert {point.name: point.value for point in points}["qexport"] == lm_eval_plugin.MODEL


def test_when_python_starts_it_watches_and_imports_nothing():
    told = output(
        "import sys; print(sorted(name for name in sys.modules if name.split('.')[0] in ('qexport', 'lm_eval', 'typing')));"
        "print([type(finder).__name__ for finder in sys.meta_path].count('_Watch'))"
    )
    assert told == ["['qexport', 'qexport.lm_eval_plugin']", "1"]


def test_the_model_is_registered_once_and_after_lm_evals_own(other_lm_eval):
    told = other_lm_eval(
        "import lm_eval.api.registry as registry\n"
        "print(list(registry.model_registry))\n"
        "import lm_eval.models, importlib\n"
        "importlib.reload(lm_eval.models)\n"
        "print(list(registry.model_registry))\n"
        "print([type(finder).__name__ for finder in sys.meta_path].count('_Watch'))"
    )
    assert told == ["[]", "models", f"register qexport {lm_eval_plugin.MODEL}", "models", "['hf', 'qexport']", "0"]


def test_what_a_newer_lm_eval_registers_itself_is_left_alone(other_lm_eval):
    told = other_lm_eval(
        "import lm_eval.models\nfrom lm_eval.api.registry import model_registry\nprint(model_registry['qexport'])",
        MODELS + 'model_registry["qexport"] = "an entry point"\n',
    )
    assert told == ["models", "an entry point"]


def test_an_error_of_lm_evals_own_goes_through(other_lm_eval):
    told = other_lm_eval(
        "try:\n    import lm_eval.models\nexcept RuntimeError as error:\n    print(error)\n",
        'raise RuntimeError("mine")',
    )
    assert told == ["mine"]


def test_without_lm_eval_an_import_of_it_fails_as_ever(tmp_path):
    (tmp_path / "lm_eval").mkdir()
    (tmp_path / "lm_eval" / "__init__.py").write_text("")
    told = output(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "try:\n    import lm_eval.models\nexcept ModuleNotFoundError as error:\n    print(error.name)\n"
    )
    assert told == ["lm_eval.models"]


def test_it_is_this_lm_evals_model_too():
    import lm_eval.models
    from lm_eval.api.registry import get_model, model_registry

    from qexport.measurement.tasks.lm import QExportLM

    assert "qexport" not in lm_eval.models.MODEL_MAPPING
    lm_eval_plugin.register()
    assert "qexport" in model_registry
    assert get_model("qexport") is QExportLM


@pytest.mark.slow
def test_lm_evals_own_command_line(fp32, tmp_path):
    """A task of the user's own, from a local file: the figures are those of ``qexport eval``."""
    artifact = fp32("gpt2")
    rows = (DATA / "arc_easy.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny.yaml").write_text(
        "task: tiny\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        'doc_to_text: "Question: {{question}}\\nAnswer:"\n'
        'doc_to_target: "{{choices.label.index(answerKey)}}"\ndoc_to_choice: "{{choices.text}}"\n'
        "metric_list:\n"
        + "".join(
            f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n" for name in ("acc", "acc_norm")
        )
    )
    words = ["--model", "qexport", "--model_args", f"pretrained={artifact.path},threads=1"]
    words += ["--tasks", "tiny", "--include_path", tmp_path / "tasks", "--output_path", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|tiny|" in done.stdout.replace(" ", "")
    (path,) = (tmp_path / "out").rglob("results_*.json")
    told = json.loads(path.read_text())
    plan = Tasks(data=DATA)
    records = evaluate(
        artifact, {"arc_easy": load_task("arc_easy", plan)}, plan, Direct(artifact), RowIdentity(run="", row="fp32")
    )
    accuracies = {record.metric: sum(right for (right,) in record.samples) / 12 for record in records}
    found = told["results"]["tiny"]
    assert found["acc,none"] == pytest.approx(accuracies["arc_easy_acc"], abs=1e-12)
    assert found["acc_norm,none"] == pytest.approx(accuracies["arc_easy_acc_norm"], abs=1e-12)
    assert found["acc_stderr,none"] == pytest.approx(records[0].facts["stderr"], rel=1e-9)
    assert told["config"]["model_sha"] == artifact.sha256
    assert told["config"]["recipe"] == "fp32"
