"""Every published table that is reproduced, on a stand-in: the same architecture, small and seeded.

Three of them leave out figures and rows that others have in another form; tests/inputs/test_published.py has all their rows.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from qexport.comparison import pipeline
from qexport.comparison.rows import CompareOptions
from qexport.core.metrics import CATALOGUE
from qexport.inputs.bundle import bundled
from qexport.inputs.experiment import load_experiment
from qexport.inputs.text import Text
from qexport.measurement.tasks.subjects import MMLU_SUBJECTS
from tests.task_rows import write_mmlu

NAMES = ("phi-3-mini-128k-instruct", "gpt2", "llama-3-8b", "qwen2.5-3b", "mistral-7b")
METRICS = {"gpt2": ("weight_bytes", "latency_s", "sentence_perplexity")}
"""The report's own columns, of an experiment that measures more."""
LEFT_OUT = {
    "qwen2.5-3b": {
        ("torch-fp16", None),
        ("bnb-nf4", "fp32"),
        *(("bnb-fp4", compute) for compute in ("fp32", "fp16")),
        *(("bnb-int8", compute) for compute in ("fp32", "fp16")),
    },
    "mistral-7b": {("torch-fp16", None), ("w4a16-rtn", None)},
}
"""Recipes and computing types of rows."""
ON_A_DEVICE = {"loaded_device_bytes", "peak_device_bytes", "device_context_bytes", "device_increase_bytes"}
OF_TASKS = {metric for metric, described in CATALOGUE.items() if described.task}
NOT_HERE = ON_A_DEVICE if importlib.util.find_spec("lm_eval") else ON_A_DEVICE | OF_TASKS
QUESTIONS = 3
"""Of each task; MMLU has one of each subject."""

CALIBRATION = Text(
    "a few words", tuple(f"The fox number {n} ran home, and slept there for {n} days. " * 12 for n in range(4))
)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A folder with questions of every task."""
    folder = tmp_path_factory.mktemp("questions") / "tasks"
    shutil.copytree(Path(__file__).parent.parent / "data" / "tasks", folder)
    write_mmlu(folder, questions=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_published_table_is_measured_on_a_stand_in(name, questions, tmp_path):
    experiment = load_experiment(bundled(f"models/{name}.toml"))
    left_out = LEFT_OUT.get(name, set())
    rows = tuple(row for row in experiment.rows if (row.recipe, row.options.get("compute")) not in left_out)
    metrics = METRICS.get(name, experiment.metrics)
    generated = {"gen_kwargs": {"max_gen_toks": 8}} if any(metric.startswith("gsm8k") for metric in metrics) else {}
    short = experiment.model_copy(
        update={
            "rows": rows,
            "metrics": metrics,
            "windows": 2,
            "sentences": 3,
            "generation": experiment.generation.model_copy(update={"new_tokens": 4}),
            "session": experiment.session and experiment.session.model_copy(update={"max_tokens": 4}),
            "tasks": experiment.tasks.model_copy(update={"data": questions, "limit": QUESTIONS} | generated),
        }
    )
    options = CompareOptions(stand_in="tiny", rounds=1, engine="ort")
    records = pipeline.compare(short, tmp_path / "report", calibration=CALIBRATION, options=options)
    assert {record.metric for record in records} == set(metrics)
    assert len(records) == len(metrics) * len(rows)
    for record in records:
        assert record.stand_in
        assert record.model == f"{experiment.name}-stand-in"
        assert (record.skipped is not None) == (record.metric in NOT_HERE), (record.row, record.skipped)
        if record.metric in OF_TASKS - NOT_HERE:
            assert len(record.samples) == (len(MMLU_SUBJECTS) if record.metric == "mmlu_acc" else QUESTIONS)
            assert record.facts["num_fewshot"] == (5 if CATALOGUE[record.metric].task == "gsm8k" else 0)
    published = {
        (row, metric): figure.value
        for row, given in enumerate(rows)
        for metric, figure in given.published.items()
        if metric in metrics
    }
    labels = list(dict.fromkeys(record.row for record in records))
    beside = {
        (labels.index(record.row), record.metric): record.published.value for record in records if record.published
    }
    assert beside == published
    assert published
    assert "stand-in" in (tmp_path / "report" / "report.md").read_text()
