from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qexport import exporting, quantization
from qexport.comparison import experiments, pipeline
from qexport.comparison.experiments import DEFAULT_METRICS
from qexport.comparison.rows import CompareOptions
from qexport.core.artifact import load_artifact
from qexport.core.errors import InputError, NotComparable, SelectionError, UnsupportedHere
from qexport.core.record import read_records
from qexport.inputs.experiment import Experiment, Generation, PublishedSource, Row, Tasks, TextPaths
from qexport.inputs.figures import parse_figures
from qexport.inputs.text import Text
from qexport.measurement import bench, probing
from qexport.measurement.answers import Apart, Opened
from qexport.measurement.conditions import here
from qexport.measurement.interleaved import Interleaved
from qexport.measurement.tasks import load
from qexport.runtime.scoring import Likelihood
from qexport.runtime.session import ProviderUnavailable

DATA = Path(__file__).resolve().parent.parent / "data" / "tasks"

WORDS = "the quick brown fox jumps over the lazy dog and then the other dog comes back to the fox again"
STORIES = Text("stories", tuple(f"Story {number}: {WORDS}. It was {number}!" for number in range(12)))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path):
    """Evaluation and calibration text as files, apart from each other."""
    paths = TextPaths(evaluation=tmp_path / "evaluation.txt", calibration=tmp_path / "calibration.txt")
    paths.evaluation.write_text("\n<|endoftext|>\n".join(STORIES.documents[:6]))
    paths.calibration.write_text("\n<|endoftext|>\n".join(STORIES.documents[6:]))
    return paths


@pytest.fixture
def experiment(tiny, texts, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("the fox\nthe quick brown\n")
    return Experiment(
        title="A tiny table",
        model=str(tiny("gpt2")),
        rows=(Row(recipe="fp32"), Row(recipe="int8-static", nodes="attention")),
        text=texts,
        generation=Generation(prompts=prompts, new_tokens=4),
        window=32,
        windows=3,
        sentences=4,
    )


@pytest.mark.real_child
def test_compare_measures_every_row_and_writes_the_whole_report(experiment, tmp_path):
    options = CompareOptions(engine="ort", rounds=2, threads=1, keep_artifacts=True)
    folder = tmp_path / "reports" / "tiny"
    records = pipeline.compare(experiment, folder, options=options)
    labels = ["fp32", "int8-static (attention)"]
    assert [(record.metric, record.row) for record in records] == [
        (name, row) for name in DEFAULT_METRICS for row in labels
    ]
    assert not [record for record in records if record.skipped]
    assert len({record.run for record in records}) == 1
    assert read_records(folder / "records.jsonl") == records
    names = {entry.name for entry in folder.iterdir()}
    assert {"report.md", "report.html", "records.jsonl", "artifacts"} <= names
    assert [name for name in names if name.endswith(".png")]
    assert [name for name in names if name.endswith(".svg")]
    assert [entry.name for entry in folder.parent.iterdir()] == ["tiny"]
    kept = load_artifact(folder / "artifacts" / "int8-static-attention", verify=True)
    assert len(kept.manifest.quantized) == 4
    latency = next(record for record in records if record.metric == "latency_s" and record.row == labels[1])
    assert {row[2] for row in latency.samples} == {0.0, 1.0}
    quality = {record.row: record for record in records if record.metric == "perplexity"}
    assert len({record.conditions.text_sha256 for record in quality.values()}) == 1
    assert quality[labels[1]].facts["integer_matmuls_run"] == 4
    with pytest.raises(InputError, match="--overwrite"):
        pipeline.compare(experiment, folder, options=options)


def test_without_rounds_each_row_has_one_process(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(
        probing, "_ask_child", lambda *_given: pytest.fail("a fresh process was started for one figure")
    )
    options, folder = CompareOptions(engine="ort", threads=1), tmp_path / "tiny"
    records = pipeline.compare(experiment, folder, options=options)
    labels = ["fp32", "int8-static (attention)"]
    assert [(record.metric, record.row) for record in records] == [
        (name, row) for name in DEFAULT_METRICS for row in labels
    ]
    assert not [record for record in records if record.skipped]
    latency = [record for record in records if record.metric == "latency_s"]
    assert [sorted({sample[2] for sample in record.samples}) for record in latency] == [list(range(12))] * 2
    assert {len(record.samples) for record in latency} == {4 * 12}
    assert pipeline.compare(experiment, folder, options=replace(options, resume=True)) == records


def test_where_memory_is_short_what_is_timed_takes_fresh_processes(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(Interleaved, "crowded", True)
    changed = experiment.model_copy(update={"metrics": ("perplexity", "latency_s")})
    records = pipeline.compare(changed, tmp_path / "tiny", options=CompareOptions(engine="ort", threads=1))
    rounds = {
        record.row: {sample[2] for sample in record.samples} for record in records if record.metric == "latency_s"
    }
    assert rounds == {row: {0.0, 1.0, 2.0} for row in ("fp32", "int8-static (attention)")}


def test_a_row_that_cannot_run_here_is_skipped_with_its_reason(experiment, tmp_path, monkeypatch):
    def refuse(*_given, **_named):
        raise UnsupportedHere("no such engine on this machine")

    monkeypatch.setattr(quantization, "apply_onnx", refuse)
    changed = experiment.model_copy(update={"metrics": ("disk_bytes", "perplexity")})
    records = pipeline.compare(changed, tmp_path / "report", options=CompareOptions(engine="ort", rounds=1))
    skipped = {(record.row, record.metric): record.skipped for record in records}
    assert skipped == {
        ("fp32", "disk_bytes"): None,
        ("fp32", "perplexity"): None,
        ("int8-static (attention)", "disk_bytes"): "no such engine on this machine",
        ("int8-static (attention)", "perplexity"): "no such engine on this machine",
    }


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([Row(recipe="int8-statik")], InputError, "unknown recipe"),
        ([Row(recipe="fp32"), Row(recipe="int8-static", nodes="atention")], SelectionError, "unknown role"),
        ([Row(recipe="bnb-nf4", nodes="attention")], InputError, "no choice of nodes"),
        ([Row(recipe="fp32", nodes="attention")], InputError, "no choice of nodes"),
        ([Row(recipe="int8-static"), Row(recipe="int8-static", nodes=" all")], InputError, "two rows would be called"),
        ([Row(recipe="fp8", options={"block_size": 32})], InputError, "fp8: the option block_size is not for"),
    ],
)
def test_the_rows_are_read_before_any_work_is_done(experiment, tmp_path, monkeypatch, *, rows, error, message):
    monkeypatch.setattr(pipeline, "locate", lambda *_given: pytest.fail("work was begun"))
    changed = experiment.model_copy(update={"rows": tuple(rows)})
    with pytest.raises(error, match=message):
        pipeline.compare(changed, tmp_path / "report", options=CompareOptions(engine="ort"))


def test_text_that_calibration_has_seen_is_not_measured_on(experiment, tmp_path):
    seen = Text("seen", (*STORIES.documents[:3], "another one entirely"))
    unseen = Text("unseen", STORIES.documents[2:])
    with pytest.raises(InputError, match="seen and unseen: 1 documents are in both"):
        pipeline.compare(
            experiment, tmp_path / "report", evaluation=seen, calibration=unseen, options=CompareOptions(engine="ort")
        )
    assert not (tmp_path / "report").exists()


def test_a_provider_that_is_not_there_is_an_error(experiment, tmp_path):
    from qexport.core import cuda

    if cuda.device_names():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderUnavailable, match="--provider cuda"):
        pipeline.compare(experiment, tmp_path / "report", options=CompareOptions(provider="cuda", engine="ort"))
    assert not (tmp_path / "report").exists()


def test_a_failure_leaves_no_work_behind(experiment, tmp_path, monkeypatch):
    def fail(*_given, **_named):
        raise InputError("stop here")

    monkeypatch.setattr(exporting, "export_source", fail)
    (tmp_path / "runs").mkdir()
    killed = tmp_path / "runs" / ".report.work.new-999999999"
    killed.mkdir()  # what a killed run left
    with pytest.raises(InputError, match="stop here"):
        pipeline.compare(experiment, tmp_path / "runs" / "report", options=CompareOptions(engine="ort"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_experiment_is_found_by_file_name_or_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = experiments.experiment_for(None)
    assert reference == experiments.experiment_for("reference")
    assert reference.rows[0].recipe == "fp32"
    (tmp_path / "mine.toml").write_text('title = "Mine"\nmodel = "somebody/model"\nrows = [{recipe = "fp32"}]\n')
    assert experiments.experiment_for("mine.toml").model == "somebody/model"
    assert experiments.experiment_for("somebody/other").model == "somebody/other"
    with pytest.raises(InputError, match=r"absent\.toml: cannot be read"):
        experiments.experiment_for("absent.toml")


def test_a_comparison_that_was_cut_short_goes_on(experiment, tmp_path, monkeypatch):
    changed = experiment.model_copy(update={"metrics": ("disk_bytes", "perplexity", "latency_s")})
    options = CompareOptions(engine="ort", rounds=1, threads=1)
    folder = tmp_path / "runs" / "tiny"
    real = probing.measure
    asked = []

    def counted(job):
        asked.append((job.probe, job.row))
        if len(asked) == 6:  # the second row's perplexity
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(probing, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.compare(changed, folder, options=options)
    assert [entry.name for entry in folder.parent.iterdir()] == ["tiny.partial.jsonl"]
    kept = [r for r in read_records(folder.parent / "tiny.partial.jsonl") if r.metric in changed.metrics]
    before = len(asked)
    records = pipeline.compare(changed, folder, options=replace(options, resume=True))
    assert asked[before:] == [("perplexity", "int8-static (attention)")]
    assert [record for record in records if record in kept] == sorted(kept, key=records.index)
    assert len({record.run for record in records}) == 1
    assert [entry.name for entry in folder.parent.iterdir()] == ["tiny"]

    before = len(asked)
    again = pipeline.compare(changed, folder, options=replace(options, resume=True))
    assert (again, asked[before:]) == (records, [])
    with pytest.raises(NotComparable, match=r"threads was 1, and is 2 .*--overwrite"):
        pipeline.compare(changed, folder, options=replace(options, resume=True, threads=2))


def sizes_of(experiment, *recipes):
    """A comparison that measures files alone, and so takes a second."""
    rows = tuple(Row(recipe=name) for name in recipes)
    return experiment.model_copy(update={"rows": rows, "metrics": ("disk_bytes",)})


@pytest.mark.parametrize("keep", [True, False])
def test_kept_artifacts_outlive_a_resumed_comparison(experiment, tmp_path, keep):
    folder = tmp_path / "report"
    pipeline.compare(sizes_of(experiment, "fp32"), folder, options=CompareOptions(keep_artifacts=True))
    assert [path.name for path in (folder / "artifacts").iterdir()] == ["fp32-fused"]
    more = sizes_of(experiment, "fp32", "w8a16-rtn")
    pipeline.compare(more, folder, options=CompareOptions(keep_artifacts=keep, resume=True))
    kept = {path.name for path in (folder / "artifacts").iterdir()}
    assert "fp32-fused" in kept
    assert any("w8a16" in name for name in kept) == keep
    assert load_artifact(folder / "artifacts" / "fp32-fused", verify=True).manifest.recipe == "fp32"


def test_a_journal_whose_last_line_was_cut_is_gone_on_with(experiment, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    whole = sizes_of(experiment, "fp32", "w8a16-rtn")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "write_report", lambda *_given, **_named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.compare(whole, folder)
    journal = tmp_path / "report.partial.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    records = pipeline.compare(whole, folder, options=CompareOptions(resume=True))
    assert [record.row for record in records] == ["fp32", "w8a16-rtn (all)"]
    assert not journal.exists()


def test_a_second_comparison_on_one_output_is_refused_at_the_start(experiment, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom qexport.core.scratch import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    print('here', flush=True)\n    time.sleep(60)\n"
    )
    monkeypatch.setattr(pipeline, "locate", lambda *_given: pytest.fail("work was begun"))
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "here\n"
        with pytest.raises(InputError, match=rf"process {other.pid} on .* writes it now"):
            pipeline.compare(experiment, folder)
        other.kill()


def test_what_is_timed_is_timed_for_all_rows_together(experiment, tmp_path, monkeypatch):
    """A row that comes later would otherwise be compared with times of another hour."""
    changed = experiment.model_copy(update={"metrics": ("disk_bytes", "latency_s")})
    options = CompareOptions(engine="ort", rounds=1, threads=1)
    folder = tmp_path / "tiny"
    pipeline.compare(experiments.only(changed, ["fp32"]), folder, options=options)
    asked = []
    real = probing.measure
    monkeypatch.setattr(probing, "measure", lambda job: asked.append((job.probe, job.row)) or real(job))
    records = pipeline.compare(changed, folder, options=replace(options, resume=True))
    static = "int8-static (attention)"
    assert asked == [("files", static), ("sentences", "fp32"), ("sentences", static)]
    assert [(record.metric, record.row) for record in records] == [
        (metric, row) for metric in ("disk_bytes", "latency_s") for row in ("fp32", static)
    ]


def test_a_prompt_longer_than_the_context_is_said_before_any_work(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "export_source", lambda *_given: pytest.fail("work was begun"))
    plan = experiment.generation.model_copy(update={"new_tokens": 64})
    with pytest.raises(InputError, match="more than the model's context of 64"):
        pipeline.compare(experiment.model_copy(update={"generation": plan}), tmp_path / "report")
    (tmp_path / "prompts.txt").write_text("\n")
    plan = experiment.generation.model_copy(update={"prompts": tmp_path / "prompts.txt"})
    with pytest.raises(InputError, match=r"prompts\.txt: holds no prompts"):
        pipeline.compare(experiment.model_copy(update={"generation": plan}), tmp_path / "report")


def test_a_model_that_does_not_fit_is_said_before_it_is_loaded(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("qexport.core.ram.available_bytes", lambda: 10**8)
    monkeypatch.setattr(exporting, "export_source", lambda *_given: pytest.fail("it was loaded"))
    with pytest.raises(UnsupportedHere, match=r"takes about 0\.6 GB of memory and 0\.1 GB are free"):
        pipeline.compare(experiment, tmp_path / "report", options=CompareOptions(engine="ort"))


def test_runs_are_put_into_one_report(experiment, tmp_path):
    changed = experiment.model_copy(update={"metrics": ("disk_bytes", "perplexity"), "rows": experiment.rows[:1]})
    for name, threads in (("one", 1), ("two", 2)):
        pipeline.compare(changed, tmp_path / name, options=CompareOptions(threads=threads))
    (tmp_path / "two" / "records.jsonl").write_text(
        (tmp_path / "two" / "records.jsonl").read_text().replace('"run":"2', '"run":"3')  # not the same second
    )
    records = pipeline.report([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert len({record.run for record in records}) == 2
    assert read_records(tmp_path / "both" / "records.jsonl") == records
    text = (tmp_path / "both" / "report.md").read_text()
    assert "1 thread" in text
    assert "2 threads" in text
    with pytest.raises(InputError, match="--overwrite"):
        pipeline.report([tmp_path / "one"], tmp_path / "both")


# Some metrics only


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["perplexity", "perplexitie"], "perplexitie: no such metric; did you mean"),
        (["drift"], "drift: no such metric"),
        ([""], "no such metric"),
    ],
)
def test_metrics_that_do_not_exist(experiment, metrics, message):
    with pytest.raises(InputError, match=message) as caught:
        experiments.measuring(experiment, metrics)
    assert "\n" not in str(caught.value)


def test_metrics_are_those_that_were_named_each_once(experiment):
    found = experiments.measuring(experiment, ["weight_bytes", "perplexity", "weight_bytes"])
    assert found.metrics == ("weight_bytes", "perplexity")
    assert found == experiment.model_copy(update={"metrics": found.metrics})
    assert experiment.metrics is None


def test_only_the_metrics_that_were_named_are_measured(experiment, fp32, tmp_path, monkeypatch):
    def exported(_source, folder, exporter):
        return load_artifact(shutil.copytree(fp32("gpt2", exporter).path, folder))

    monkeypatch.setattr(exporting, "export_source", exported)
    asked = []
    real = probing.measure
    monkeypatch.setattr(probing, "measure", lambda job: asked.append((job.probe, job.row)) or real(job))
    options, folder = CompareOptions(engine="ort", rounds=1, threads=1), tmp_path / "report"
    rows = experiments.only(experiment, ["fp32"])
    first = pipeline.compare(experiments.measuring(rows, ["perplexity"]), folder, options=options)
    assert [(record.metric, record.row) for record in first] == [("perplexity", "fp32")]
    assert asked == [("perplexity", "fp32")]
    more = experiments.measuring(rows, ["weight_bytes", "perplexity"])
    records = pipeline.compare(more, folder, options=replace(options, resume=True))
    assert asked[1:] == [("files", "fp32")]  # perplexity is there
    # In the order of all tables, and without the bytes on disk that the same probe has.
    assert [record.metric for record in records] == ["weight_bytes", "perplexity"]
    assert records[1] == first[0]
    assert read_records(folder / "records.jsonl")[-1] == first[0]


# Tasks


@pytest.fixture
def asked(fp32, monkeypatch):
    """The rows that were asked, and how much: of an artifact that is there, by one who answers without a process."""
    told = []

    class Quick:
        def __init__(self, _artifact, _answers, *, row, provider, threads, rows):
            del rows
            self.row = row
            self.opened = Opened(
                conditions=here().model_copy(update={"provider": provider, "threads": threads}), facts={}
            )

        def likelihoods(self, passages):
            told.append((self.row, len(passages)))
            return [Likelihood(-float(sum(passage.continuation) % 97), greedy=False) for passage in passages]

    def exported(_source, folder, exporter):
        return load_artifact(shutil.copytree(fp32("gpt2", exporter).path, folder))

    monkeypatch.setattr(bench, "Apart", Quick)
    monkeypatch.setattr(exporting, "export_source", exported)
    return told


@pytest.fixture
def questions(tmp_path):
    """A copy of the local questions that a test may change."""
    return shutil.copytree(DATA, tmp_path / "questions")


def with_tasks(experiment, data, *metrics, **plan):
    tasks = Tasks(data=data, **{"limit": 3} | plan)
    return experiment.model_copy(update={"metrics": ("disk_bytes", *metrics), "tasks": tasks})


SMALL = CompareOptions(engine="ort", rounds=1, threads=1)
LABELS = ["fp32", "int8-static (attention)"]


@pytest.mark.slow
def test_tasks_stand_beside_perplexity(experiment, tmp_path, monkeypatch):
    changed = with_tasks(experiment, DATA, "perplexity", num_fewshot=1)
    folder = tmp_path / "report"
    records = pipeline.compare(changed, folder, tasks=["arc_easy"], options=SMALL)
    metrics = ("disk_bytes", "perplexity", "arc_easy_acc", "arc_easy_acc_norm")
    assert [(record.metric, record.row) for record in records] == [(name, row) for name in metrics for row in LABELS]
    assert not [record for record in records if record.skipped]
    assert len({record.run for record in records}) == 1
    assert read_records(folder / "records.jsonl") == records
    of_task = [record for record in records if record.metric.startswith("arc_easy")]
    assert {len(record.samples) for record in of_task} == {3}
    assert len({record.conditions.text_sha256 for record in of_task}) == 1
    assert {record.facts["num_fewshot"] for record in of_task} == {1}
    assert [record.facts["integer_matmuls_run"] for record in of_task if record.row == LABELS[1]] == [4, 4]
    page = (folder / "report.md").read_text()
    assert "Perplexity" in page
    assert "ARC-Easy" in page
    assert [entry.name for entry in tmp_path.glob("report*")] == ["report"]

    monkeypatch.setattr(exporting, "export_source", lambda *_given: pytest.fail("work was begun"))
    monkeypatch.setattr(Apart, "_ask", lambda *_given: pytest.fail("it was asked"))
    assert pipeline.compare(changed, folder, tasks=["arc_easy"], options=replace(SMALL, resume=True)) == records


def test_rows_that_were_asked_are_not_asked_again(experiment, tmp_path, questions, asked, monkeypatch):
    changed = with_tasks(experiment, questions)
    folder = tmp_path / "report"
    pipeline.compare(experiments.only(changed, ["fp32"]), folder, tasks=["arc_easy"], options=SMALL)
    both = replace(SMALL, resume=True)
    records = pipeline.compare(changed, folder, tasks=["arc_easy"], options=both)
    assert asked == [(LABELS[0], 12), (LABELS[1], 12)]
    assert [(record.metric, record.row) for record in records] == [
        (metric, row) for metric in ("disk_bytes", "arc_easy_acc", "arc_easy_acc_norm") for row in LABELS
    ]
    assert pipeline.compare(changed, folder, tasks=["arc_easy"], options=both) == records

    more = pipeline.compare(changed, folder, tasks=["arc_easy", "piqa"], options=both)
    assert asked[2:] == [(LABELS[0], 6), (LABELS[1], 6)]  # of piqa alone
    assert [record for record in more if not record.metric.startswith("piqa")] == records

    path = questions / "arc_easy.jsonl"
    path.write_text(path.read_text().replace("boots", "socks"))
    del asked[:]
    with pytest.raises(NotComparable, match=r"arc_easy_acc of fp32: .* questions .* have changed; .*--overwrite"):
        pipeline.compare(changed, folder, tasks=["arc_easy"], options=both)
    assert asked == []
    assert read_records(folder / "records.jsonl") == more


@pytest.mark.parametrize("other", [{"num_fewshot": 2}, {"seed": 5}, {"system_instruction": "Think."}], ids=" ".join)
def test_rows_asked_in_two_ways_do_not_come_into_one_table(experiment, tmp_path, asked, other):
    """Said before the second row is asked, not after hours."""
    changed, folder = with_tasks(experiment, DATA, num_fewshot=1), tmp_path / "report"
    pipeline.compare(experiments.only(changed, ["fp32"]), folder, tasks=["arc_easy"], options=SMALL)
    del asked[:]
    again = with_tasks(experiment, DATA, **{"num_fewshot": 1} | other)
    with pytest.raises(NotComparable, match="--overwrite"):
        pipeline.compare(again, folder, tasks=["arc_easy"], options=replace(SMALL, resume=True))
    assert asked == []


def test_an_experiment_may_want_one_metric_of_a_task(experiment, tmp_path, asked):
    published = {"arc_easy_acc_norm": 0.25}
    rows = (experiment.rows[0].model_copy(update={"published": parse_figures(published)}), experiment.rows[1])
    changed = with_tasks(experiment, DATA, "arc_easy_acc_norm").model_copy(
        update={"rows": rows, "published": PublishedSource(source="Somewhere")}
    )
    folder = tmp_path / "report"
    records = pipeline.compare(changed, folder, options=SMALL)
    assert [(record.metric, record.row) for record in records] == [
        (metric, row) for metric in ("disk_bytes", "arc_easy_acc_norm") for row in LABELS
    ]
    assert [record.published and record.published.value for record in records] == [None, None, 0.25, None]
    del asked[:]
    assert pipeline.compare(changed, folder, options=replace(SMALL, resume=True)) == records
    assert asked == []
    both = pipeline.compare(changed, folder, tasks=["arc_easy"], options=SMALL, overwrite=True)
    assert [record.metric for record in both[::2]] == ["disk_bytes", "arc_easy_acc", "arc_easy_acc_norm"]


def test_one_metric_of_a_task_may_be_named(experiment, tmp_path, asked):
    changed = experiments.measuring(with_tasks(experiment, DATA), ["arc_easy_acc_norm"])
    records = pipeline.compare(changed, tmp_path / "report", options=SMALL)
    assert [(record.metric, record.row) for record in records] == [("arc_easy_acc_norm", row) for row in LABELS]
    assert [row for row, _ in asked] == LABELS
    del asked[:]
    both = experiments.measuring(changed, ["arc_easy_acc", "arc_easy_acc_norm"])
    more = pipeline.compare(both, tmp_path / "report", options=replace(SMALL, resume=True))
    assert [record.metric for record in more[::2]] == ["arc_easy_acc", "arc_easy_acc_norm"]
    assert [record.samples for record in more[2:]] == [record.samples for record in records]


def test_a_hub_that_cannot_be_reached_skips_the_task_and_nothing_else(experiment, tmp_path, asked):
    changed, folder = with_tasks(experiment, None), tmp_path / "report"
    records = pipeline.compare(changed, folder, tasks=["arc_easy"], options=SMALL)
    reasons = {(record.metric, record.row): record.skipped for record in records}
    assert list(reasons) == [
        (metric, row) for metric in ("disk_bytes", "arc_easy_acc", "arc_easy_acc_norm") for row in LABELS
    ]
    (reason,) = {reason for (metric, _), reason in reasons.items() if metric != "disk_bytes"}
    assert reason.startswith("arc_easy: its questions cannot be had from the hub")
    assert "--data" in reason
    assert {reason for (metric, _), reason in reasons.items() if metric == "disk_bytes"} == {None}
    assert "cannot be had" in (folder / "report.md").read_text()
    assert asked == []
    local = with_tasks(experiment, DATA)
    records = pipeline.compare(local, folder, tasks=["arc_easy"], options=replace(SMALL, resume=True))
    assert not [record for record in records if record.skipped]
    assert [row for row, _ in asked] == LABELS


def test_figures_that_are_there_outlive_a_hub_that_went_away(experiment, tmp_path, asked, monkeypatch):
    import datasets

    rows = [json.loads(line) for line in (DATA / "arc_easy.jsonl").read_text().splitlines()]
    table = datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), datasets.Dataset.from_list(rows)))
    changed, folder = with_tasks(experiment, None), tmp_path / "report"
    with monkeypatch.context() as online:
        online.setattr(datasets, "load_dataset", lambda *_given, **_named: table)
        records = pipeline.compare(changed, folder, tasks=["arc_easy"], options=SMALL)
    assert not [record for record in records if record.skipped]
    assert pipeline.compare(changed, folder, tasks=["arc_easy"], options=replace(SMALL, resume=True)) == records
    assert [row for row, _ in asked] == LABELS


def test_a_row_without_an_artifact_has_no_answers(experiment, tmp_path, asked, monkeypatch):
    def refuse(*_given, **_named):
        raise UnsupportedHere("no such engine on this machine")

    monkeypatch.setattr(quantization, "apply_onnx", refuse)
    records = pipeline.compare(with_tasks(experiment, DATA), tmp_path / "report", tasks=["arc_easy"], options=SMALL)
    assert {(record.row, record.skipped) for record in records} == {
        (LABELS[0], None),
        (LABELS[1], "no such engine on this machine"),
    }
    assert [row for row, _ in asked] == LABELS[:1]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [(["arc_esy"], "did you mean arc_easy"), (["piqa", "piqa"], "piqa: is there twice"), ([""], "no such task")],
)
def test_tasks_are_known_before_any_work_is_done(experiment, tmp_path, monkeypatch, tasks, message):
    monkeypatch.setattr(pipeline, "locate", lambda *_given: pytest.fail("work was begun"))
    with pytest.raises(InputError, match=message):
        pipeline.compare(with_tasks(experiment, DATA), tmp_path / "report", tasks=tasks, options=SMALL)


def test_questions_that_are_not_there_are_said_before_any_work_is_done(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "export_source", lambda *_given: pytest.fail("work was begun"))
    (tmp_path / "empty").mkdir()
    for changed, message in (
        (with_tasks(experiment, tmp_path / "empty"), "arc_easy: no file for it in "),
        (with_tasks(experiment, DATA, num_fewshot=12), "there are only 11"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.compare(changed, tmp_path / "report", tasks=["arc_easy"], options=SMALL)
    assert not (tmp_path / "report").exists()


def test_a_task_whose_questions_were_away_is_asked_once_they_are_there(experiment, tmp_path, asked, monkeypatch):
    """Beside one whose questions were there already."""
    changed, folder = with_tasks(experiment, DATA), tmp_path / "report"
    real = load.load_task

    def without_piqa(name, plan):
        if name == "piqa":
            raise UnsupportedHere("piqa: its questions are away")
        return real(name, plan)

    with monkeypatch.context() as offline:
        offline.setattr(load, "load_task", without_piqa)
        pipeline.compare(changed, folder, tasks=["arc_easy", "piqa"], options=SMALL)
    assert asked == [(LABELS[0], 12), (LABELS[1], 12)]
    options = replace(SMALL, resume=True)
    records = pipeline.compare(changed, folder, tasks=["arc_easy", "piqa"], options=options)
    assert not [record for record in records if record.skipped]
    assert asked[2:] == [(LABELS[0], 6), (LABELS[1], 6)]
