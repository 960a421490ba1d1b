from __future__ import annotations

import pytest

from qexport.core.errors import InputError
from qexport.core.metrics import CATALOGUE, GROUPS, TASKS, metrics_of, require_known, require_tasks


def test_every_metric_is_in_a_group_that_is_shown():
    assert {metric.group for metric in CATALOGUE.values()} == set(GROUPS)
    assert {name for name, metric in CATALOGUE.items() if metric.name != name} == set()


def test_the_metrics_of_tasks_stand_together_and_are_shares_of_right_answers():
    assert TASKS == ("arc_easy", "arc_challenge", "hellaswag", "piqa", "gsm8k", "mmlu")
    of_tasks = [metric for metric in CATALOGUE.values() if metric.task]
    assert of_tasks == [metric for task in TASKS for metric in metrics_of(task)]
    assert {(metric.group, metric.form, metric.better) for metric in of_tasks} == {("tasks", "accuracy", "higher")}
    assert {metric.group for metric in CATALOGUE.values() if not metric.task} == set(GROUPS) - {"tasks"}
    for metric in of_tasks:
        assert metric.name.startswith(metric.task)
        assert metric.scored.count(",") == 1
    assert [metric.name for metric in metrics_of("piqa")] == ["piqa_acc", "piqa_acc_norm"]
    assert metrics_of("perplexity") == ()
    assert metrics_of("") == tuple(metric for metric in CATALOGUE.values() if not metric.task)


def test_known_names_pass():
    require_known(CATALOGUE)
    require_known([])
    require_tasks(TASKS)


@pytest.mark.parametrize(
    ("check", "names", "parts"),
    [
        (require_known, ["perplexitie"], ["perplexitie: no such metric; did you mean ", "perplexity"]),
        (require_tasks, ["arc_esy"], ["arc_esy: no such task", "did you mean arc_easy", "lm_eval --model qexport"]),
        (require_tasks, ["winogrande"], ["winogrande: no such task", "lm_eval --model qexport"]),
        (require_tasks, ["piqa_acc"], ["piqa_acc: no such task", "did you mean piqa"]),
        (require_tasks, ["PIQA"], ["PIQA: no such task"]),
        (require_tasks, ["piqa", "mmlu", "piqa"], ["piqa: is there twice; leave one out"]),
        (require_tasks, [], ["no task is named", "arc_easy", "mmlu"]),
    ],
)
def test_unknown_names(check, names, parts):
    with pytest.raises(InputError) as caught:
        check(iter(names))
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []
