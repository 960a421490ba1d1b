"""Distances from fp32 in a comparison, against the logits of the kept artifacts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qexport.comparison import pipeline
from qexport.comparison.rows import CompareOptions
from qexport.core.artifact import load_artifact
from qexport.core.metrics import DISTANCES
from qexport.core.record import read_records, write_records
from qexport.inputs.experiment import Experiment, Row
from qexport.inputs.models import load_tokenizer, source_of
from qexport.inputs.text import load_text, make_windows
from qexport.measurement import bench, probing
from qexport.measurement.feeds import Texts
from qexport.report.figures import Estimate, Skipped, derive
from qexport.runtime.opening import open_session

LABELS = ["int8-dynamic (all)", "fp32"]
OPTIONS = CompareOptions(engine="ort", threads=1)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def experiment(tiny, tmp_path):
    """The baseline is the last of the rows."""
    path = tmp_path / "evaluation.txt"
    path.write_text("\n<|endoftext|>\n".join(f"Story {n}: the fox jumps over {n} dogs. It was {n}!" for n in range(9)))
    return Experiment(
        title="A tiny table",
        model=str(tiny("gpt2")),
        rows=(Row(recipe="int8-dynamic"), Row(recipe="fp32")),
        metrics=("perplexity", *DISTANCES),
        text={"evaluation": path},
        window=32,
    )


def by_key(records):
    return {(record.row, record.metric): record for record in records}


def softmax(logits):
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rounds", [None, 1])
def test_distances_are_those_of_the_logits(experiment, tmp_path, rounds):
    folder = tmp_path / "report"
    options = replace(OPTIONS, keep_artifacts=True, rounds=rounds)
    records = by_key(pipeline.compare(experiment, folder, options=options))
    artifacts = [load_artifact(folder / "artifacts" / name) for name in ("fp32-fused", "int8-dynamic-all")]
    base, other = (open_session(artifact, threads=1) for artifact in artifacts)
    windows = make_windows(
        load_text(experiment.evaluation_path), load_tokenizer(source_of(artifacts[0])), window=32, limit=None
    )
    kl, same, change = [], [], []
    for ids in windows.sequences:
        p, q = (softmax(session.logits(ids[None])[0][:-1]) for session in (base, other))
        at = np.arange(len(p)), ids[1:]
        kl.append((p * np.log(p / q)).sum(axis=1))
        same.append(p.argmax(axis=1) == q.argmax(axis=1))
        change.append(q[at] - p[at])
    figures = {metric: derive(records[LABELS[0], metric], None) for metric in DISTANCES}
    tokens = np.concatenate(kl)
    expected = {
        "kl_divergence": tokens.mean(),
        "kl_divergence_median": np.quantile(tokens, 0.5, method="inverted_cdf"),
        "kl_divergence_p999": np.quantile(tokens, 0.999, method="inverted_cdf"),
        "same_top_share": np.concatenate(same).mean(),
        "probability_change_rms": np.sqrt((np.concatenate(change) ** 2).mean()),
    }
    for metric, value in expected.items():
        # A last bit of another number of threads decides some roundings of the activations.
        assert figures[metric].interval.value == pytest.approx(value, rel=2e-2), metric
        assert 0.98 * figures[metric].interval.low <= value <= 1.02 * figures[metric].interval.high
        assert (figures[metric].sequences, figures[metric].tokens) == (len(kl), len(tokens))
        assert figures[metric].ratio is None
        zero = derive(records["fp32", metric], None)
        assert zero.interval.value == (1.0 if metric == "same_top_share" else 0.0)
    assert figures["kl_divergence"].interval.value > 0
    assert records[LABELS[0], "kl_divergence"].facts["rest_share"] < 1


def test_a_resumed_comparison_scores_the_baseline_again(experiment, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    whole = pipeline.compare(experiment, folder, options=replace(OPTIONS, rounds=1))
    kept = [record for record in read_records(folder / "records.jsonl") if record.row == "fp32"]
    write_records(folder / "records.jsonl", kept)
    asked, real = [], probing.measure
    monkeypatch.setattr(probing, "measure", lambda job: asked.append(job.row) or real(job))
    again = pipeline.compare(experiment, folder, options=replace(OPTIONS, rounds=1, resume=True))
    assert asked == ["fp32", "int8-dynamic (all)"]
    assert [record.samples for record in again] == [record.samples for record in whole]


def test_without_a_row_in_floating_point_there_is_a_reason(experiment, tmp_path):
    alone = experiment.model_copy(update={"rows": (Row(recipe="int8-dynamic"),)})
    records = by_key(pipeline.compare(alone, tmp_path / "report", options=OPTIONS))
    assert records[LABELS[0], "perplexity"].skipped is None
    figures = {metric: derive(records[LABELS[0], metric], None) for metric in DISTANCES}
    assert all(isinstance(figure, Skipped) and "add fp32" in figure.reason for figure in figures.values())


def test_artifacts_are_measured_beside_each_other(experiment, tmp_path):
    folder = tmp_path / "report"
    compared = by_key(pipeline.compare(experiment, folder, options=replace(OPTIONS, keep_artifacts=True)))
    texts = Texts(
        text=load_text(experiment.evaluation_path), prompts=None, window=32, windows=None, sentences=None, new_tokens=2
    )
    paths = [folder / "artifacts" / name for name in ("int8-dynamic-all", "fp32-fused")]
    records = bench.measure_artifacts(paths, ["same_top_share", "kl_divergence"], texts, rounds=1, threads=1)
    assert [(record.row, record.metric) for record in records] == [
        (row, metric) for metric in ("kl_divergence", "same_top_share") for row in ("int8-dynamic (all)", "fp32")
    ]
    for record in records:
        assert record.samples == compared[record.row, record.metric].samples
        assert isinstance(derive(record, None), Estimate)
    (alone,) = bench.measure_artifacts(paths[:1], ["kl_divergence"], texts, rounds=1, threads=1)
    assert "add fp32" in alone.skipped
