"""The experiment that a user means: a file, a bundled name, a model, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qexport.comparison.rows import CompareOptions
from qexport.core import InputError, metrics_of, near_names, require_known
from qexport.inputs import REFERENCE, Experiment, Row, find_experiment, load_experiment
from qexport.measurement import choices_in, require_effect
from qexport.quantization import RECIPES, recipe

DEFAULT_METRICS = (
    "disk_bytes",
    "weight_bytes",
    "loaded_rss_bytes",
    "peak_rss_bytes",
    "final_private_bytes",
    "final_shared_bytes",
    "latency_s",
    "first_token_s",
    "token_latency_s",
    "tokens_per_s",
    "perplexity",
    "sentence_perplexity",
    "kl_divergence",
    "same_top_share",
)
"""The metrics of an experiment that names none; on a device :data:`DEVICE_METRICS` follow."""


DEVICE_METRICS = ("loaded_device_bytes", "peak_device_bytes")


DEFAULT_ROWS = tuple(Row(recipe=each.name, nodes=nodes) for each in RECIPES.values() for nodes in each.rows)
"""The rows of a comparison without an experiment's file."""


def default_experiment(model: str) -> Experiment:
    """The experiment of a model without a file: :data:`DEFAULT_ROWS`, and no published figures.

    Args:
        model: hub id, local folder or GGUF file.
    """
    path = Path(model).expanduser()
    place = str(path.resolve()) if path.exists() else model
    return Experiment(title=f"Quantization of {path.resolve().name}", model=place, rows=DEFAULT_ROWS)


def experiment_for(spec: str | None, tasks: Sequence[str] = ()) -> Experiment:
    """The experiment that a user names by a TOML file, a bundled experiment's name or a model.

    Args:
        spec: the file, name or model; None for the reference model.
        tasks: tasks of lm-eval to ask in addition to those of the file's metrics.

    Raises:
        InputError: the file is no experiment, or one of its choices has no effect.
    """
    spec = spec or REFERENCE
    if spec.endswith(".toml"):
        experiment = load_experiment(Path(spec))
        recipes = [recipe(row.recipe) for row in experiment.rows]
        require_effect(
            choices_in(experiment), metrics_for(experiment, CompareOptions(), tasks), recipes, place=f"{spec}: "
        )
        return experiment
    if (known := find_experiment(spec)) is not None:
        return load_experiment(known)
    return default_experiment(spec)


def only(experiment: Experiment, recipes: Sequence[str]) -> Experiment:
    """The experiment with the rows of some recipes only.

    Raises:
        InputError: a recipe that does not exist, or that the experiment has no row of.
    """
    for name in recipes:
        if list(recipes).count(name) > 1:
            raise InputError(f"--recipes {name}: is there twice; leave one out")
        if recipe(name).name not in {row.recipe for row in experiment.rows}:
            known = near_names(name, (row.recipe for row in experiment.rows))
            raise InputError(f"{name}: {experiment.title} has no row of this recipe; {known}")
    return experiment.model_copy(update={"rows": tuple(row for row in experiment.rows if row.recipe in recipes)})


def measuring(experiment: Experiment, metrics: Sequence[str]) -> Experiment:
    """The experiment with some metrics only.

    Raises:
        InputError: a metric that does not exist.
    """
    require_known(metrics)
    return experiment.model_copy(update={"metrics": tuple(dict.fromkeys(metrics))})


def metrics_for(experiment: Experiment, options: CompareOptions, tasks: Sequence[str]) -> tuple[str, ...]:
    own = experiment.metrics
    if own is None:
        own = DEFAULT_METRICS + (DEVICE_METRICS if options.provider == "cuda" else ())
    return tuple(dict.fromkeys((*own, *(metric.name for task in tasks for metric in metrics_of(task)))))


def changed(experiment: Experiment, choices: Mapping[str, object]) -> Experiment:
    """The experiment with other prompts, new tokens, or other ways to ask tasks.

    Args:
        experiment: the experiment to change.
        choices: by option: ``prompts``, ``new_tokens``, ``data``, ``num_fewshot``, ``limit``; others are ignored.
    """
    generation = {name: choices[name] for name in ("prompts", "new_tokens") if name in choices}
    asking = {name: choices[name] for name in ("data", "num_fewshot", "limit") if name in choices}
    return experiment.model_copy(
        update={
            "generation": experiment.generation.model_copy(update=generation),
            "tasks": experiment.tasks.model_copy(update=asking),
        }
    )
