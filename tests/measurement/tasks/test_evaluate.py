"""The figures of an evaluation are lm-eval's own, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qexport.core.errors import UnsupportedHere
from qexport.core.metrics import metrics_of
from qexport.core.record import Measurement, Published
from qexport.core.silence import quiet
from qexport.core.stats import accuracy
from qexport.inputs.experiment import Tasks
from qexport.measurement.answers import Opened
from qexport.measurement.tasks.data import load_task_data
from qexport.measurement.tasks.evaluate import RowIdentity, _digest as digest_of, evaluate
from qexport.measurement.tasks.load import load_task
from tests.measurement.tasks.conftest import ROWS, SIX, Direct, changed, ours

HERE = RowIdentity(run="2026-11-22T07:35:55Z", row="fp32")
FOLDERS = {"arc_easy": "arc", "arc_challenge": "arc", "mmlu": "mmlu/default"}
SHORT = {"max_gen_toks": 8}


@pytest.fixture(scope="session")
def halves(questions, tmp_path_factory):
    """Local questions of all six tasks, each with a split that examples are taken from."""
    folder = tmp_path_factory.mktemp("halves")
    for task in SIX:
        (first, *_), *_ = (data.files for data in load_task_data(questions, task).values())
        if task in {"gsm8k", "mmlu"}:
            continue
        rows = (questions / first).read_text().splitlines(keepends=True)
        split = "test" if task.startswith("arc") else "validation"
        (folder / f"{task}_{split}.jsonl").write_text("".join(rows[:7]))
        (folder / f"{task}_train.jsonl").write_text("".join(rows[7:]))
    for path in ROWS.glob("gsm8k*"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "mmlu").symlink_to(questions / "mmlu")
    return folder


@pytest.fixture
def as_hub(hub, halves):
    """The same questions where lm-eval itself looks for them."""
    names = {"ARC-Easy": "arc_easy", "ARC-Challenge": "arc_challenge"}

    def rows(path, name):
        task = names.get(name) or Path(path).name
        if task == "mmlu":
            data = load_task_data(halves, "mmlu")[f"mmlu_{name}"]
            return {"test": data.rows, "dev": data.examples}
        data = load_task_data(halves, task)[task]
        asked = [row | {"label": str(row["label"])} for row in data.rows] if task == "hellaswag" else data.rows
        return {data.split: asked, "train": data.examples}

    hub(rows, "train", "validation", "test", "dev")


def lm_evals(model, task, plan):
    """What lm-eval makes of a task by itself, from the hub's questions, as its command line does."""
    with quiet():
        import lm_eval.tasks
        from lm_eval.evaluator import simple_evaluate

        folder = Path(lm_eval.tasks.__file__).parent / FOLDERS.get(task, task)
        return simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(folder)),
            num_fewshot=plan.num_fewshot,
            limit=plan.limit,
            gen_kwargs=dict(plan.gen_kwargs),
            fewshot_random_seed=plan.seed,
            apply_chat_template=plan.apply_chat_template,
            fewshot_as_multiturn=plan.fewshot_as_multiturn,
            system_instruction=plan.system_instruction,
        )


def measured(artifact, names, plan, place=HERE, respondent=None):
    tasks = {name: load_task(name, plan) for name in names}
    return evaluate(artifact, tasks, plan, respondent or Direct(artifact), place)


@pytest.mark.parametrize("shots", [None, 2])
@pytest.mark.parametrize("task", [*SIX[:-1], pytest.param("mmlu", marks=pytest.mark.slow)])
def test_figures_are_lm_evals_own(fp32, as_hub, halves, task, shots):
    """Local questions against the same on the hub, loaded, sampled, limited and pooled by lm-eval itself."""
    artifact = fp32("gpt2")
    plan = Tasks(data=halves, num_fewshot=shots, limit=2 if task == "mmlu" else 5, gen_kwargs=SHORT, seed=99)
    model = ours(artifact)
    wanted = lm_evals(model, task, plan)
    records = {record.metric: record for record in measured(artifact, [task], plan)}
    assert list(records) == [metric.name for metric in metrics_of(task)]
    for metric in metrics_of(task):
        record = records[metric.name]
        name, _, kept = metric.scored.partition(",")
        samples = [
            one
            for part in sorted(wanted["samples"])
            for one in sorted(wanted["samples"][part], key=lambda one: one["doc_id"])
            if one["filter"] == kept
        ]
        assert record.samples == tuple((float(one[name]),) for one in samples)
        assert record.columns == ("correct",)
        scored = wanted["results"][task]
        assert sum(right for (right,) in record.samples) / len(record.samples) == pytest.approx(
            scored[metric.scored], abs=1e-12
        )
        assert record.facts["stderr"] == pytest.approx(scored[f"{name}_stderr,{kept}"], rel=1e-12)
        part = next(iter(wanted["samples"]))
        assert record.facts["task_version"] == str(wanted["versions"][part])
        assert record.facts["num_fewshot"] == wanted["n-shot"][part] == (shots or {"gsm8k": 5}.get(task, 0))
        assert record.facts["truncated"] == sum(one["arguments"][0][0] in model.truncated for one in samples)
        assert record.conditions.text_sha256 == digest_of(samples), "other prompts"


@pytest.mark.parametrize("multiturn", [True, False])
def test_in_a_chat_template_as_lm_eval_itself(fp32, as_hub, halves, tmp_path, multiturn):
    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"

    def edit(path):
        file = path / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))

    artifact = changed(fp32("gpt2"), tmp_path / "chat", edit)
    plan = Tasks(
        data=halves,
        limit=3,
        num_fewshot=2,
        apply_chat_template=True,
        fewshot_as_multiturn=multiturn,
        system_instruction="Think.",
    )
    wanted = lm_evals(ours(artifact), "piqa", plan)["samples"]["piqa"]
    (record, _) = measured(artifact, ["piqa"], plan)
    assert record.conditions.text_sha256 == digest_of(wanted)
    assert wanted[0]["arguments"][0][0].startswith("<system>Think.<user>Question: ")
    assert wanted[0]["arguments"][0][0].count("<user>") == (3 if multiturn else 1)


def test_they_are_of_the_artifacts_own_answers(fp32, halves):
    """A task that nobody gets right, or everybody, would show nothing."""
    (record, _) = measured(fp32("gpt2"), ["arc_easy"], Tasks(data=halves))
    assert 0 < sum(right for (right,) in record.samples) < len(record.samples)


def test_what_a_record_says(fp32, halves):
    artifact = fp32("gpt2")
    published = {"piqa_acc": Published(value=0.8, source="Somewhere")}
    place = RowIdentity(run="2026-11-22T07:35:55Z", row="fp32 (mine)", stand_in=True, published=published)
    plan = Tasks(data=halves, limit={"piqa": 3}, gen_kwargs=SHORT, num_fewshot=1)
    records = measured(artifact, ["piqa", "gsm8k"], plan, place)
    assert [record.metric for record in records] == ["piqa_acc", "piqa_acc_norm", "gsm8k_strict", "gsm8k_flexible"]
    assert {record.row for record in records} == {"fp32 (mine)"}
    assert {record.stand_in for record in records} == {True}
    assert {record.artifact_sha256 for record in records} == {artifact.sha256}
    assert [record.published and record.published.value for record in records] == [0.8, None, None, None]
    first = records[0]
    assert first.facts.keys() >= {"task_version", "num_fewshot", "split", "stderr", "data_sha256", "truncated"}
    assert first.facts["split"] == "validation"
    assert first.facts["data_sha256"] == load_task("piqa", plan).data_sha256
    conditions = first.conditions
    assert conditions.text == "piqa_train.jsonl and 1 more"
    assert (conditions.threads, conditions.provider) == (1, "cpu")
    assert len({record.conditions.text_sha256 for record in records}) == 2  # of each task
    for record in records:
        assert Measurement.model_validate_json(record.model_dump_json(by_alias=True)) == record
    assert accuracy([right for (right,) in first.samples]).value == sum(right for (right,) in first.samples) / 3


@pytest.mark.parametrize(
    "changes",
    [{"limit": 2}, {"num_fewshot": 1}, {"num_fewshot": 1, "seed": 5}, {"system_instruction": "Think. "}],
    ids=" ".join,
)
def test_rows_that_were_asked_something_else_are_known_by_their_digest(fp32, halves, changes):
    def asked(**plan):
        (record, _) = measured(fp32("gpt2"), ["piqa"], Tasks(data=halves, **{"limit": 3} | plan))
        return record.conditions.text_sha256

    assert asked() == asked()
    assert asked() != asked(**changes)
    if "seed" in changes:
        assert asked(num_fewshot=1) != asked(**changes)


def test_cut_contexts_are_counted(fp32, tmp_path):
    """Of 64 positions; one more token can be scored than fed."""
    artifact = fp32("gpt2")
    encode = ours(artifact).tok_encode
    words = ["fox " * many for many in (1, *range(30, 60), 100)]
    rows = [{"query": f"the {text}", "choices": ["a", "a dog"], "gold": 0} for text in words]
    (tmp_path / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    many = [len(encode(f"Question: {row['query'].strip()}\nAnswer: a dog")) for row in rows]
    assert {65, 66} <= set(many)
    (record, _) = measured(artifact, ["arc_easy"], Tasks(data=tmp_path))
    assert record.facts["truncated"] == sum(count > 65 for count in many)


def test_cut_prompts_are_counted(fp32, halves):
    plan = Tasks(data=halves, limit=3, num_fewshot=0, gen_kwargs={"max_gen_toks": 60})
    assert {record.facts["truncated"] for record in measured(fp32("gpt2"), ["gsm8k"], plan)} == {3}


def test_of_one_question_there_is_no_standard_error(fp32, halves):
    for record in measured(fp32("gpt2"), ["piqa", "gsm8k"], Tasks(data=halves, limit=1, gen_kwargs=SHORT)):
        assert "stderr" not in record.facts
        assert len(record.samples) == 1


def test_an_artifact_that_cannot_run_here_is_skipped_with_the_reason(fp32, halves):
    class Gone:
        opened = Opened.model_construct()

        def likelihoods(self, _passages):
            raise UnsupportedHere("killed by signal 9 (SIGKILL), most likely out of memory")

    artifact = fp32("gpt2")
    records = measured(artifact, ["piqa", "arc_easy"], Tasks(data=halves, limit=2), respondent=Gone())
    assert [record.metric for record in records] == ["piqa_acc", "piqa_acc_norm", "arc_easy_acc", "arc_easy_acc_norm"]
    assert {record.skipped for record in records} == {"killed by signal 9 (SIGKILL), most likely out of memory"}
    assert {record.samples for record in records} == {()}
