"""Choices without an effect on a table. Each is refused, since a user expects to see the effect of a choice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from qexport.core import CATALOGUE, InputError
from qexport.measurement.probes import PROBES, Probe, is_timed
from qexport.quantization import Fp32, TorchSchemes

if TYPE_CHECKING:
    from qexport.inputs import Experiment
    from qexport.quantization import Recipe

_TEXT, _WINDOWS, _SENTENCES, _PROMPTS = "text", "windows", "sentences", "prompts"
_TIMED, _QUESTION, _TASKS = "timed", "question", "tasks"
_ENGINE, _CALIBRATED, _EXPORTED = "engine", "calibrated", "exported"

_WORDS: Mapping[str, tuple[str, str]] = {
    _TEXT: ("no metric is measured on text", "add perplexity"),
    _WINDOWS: ("no metric is measured on windows", "add perplexity"),
    _SENTENCES: ("no metric is measured on sentences", "add latency_s"),
    _PROMPTS: ("no metric generates tokens", "add token_latency_s"),
    _TIMED: ("no metric is timed", "add latency_s"),
    _QUESTION: ("no metric is measured in a session", "add total_s"),
    _TASKS: ("no task is run", "add one's metric, such as piqa_acc"),
    _ENGINE: ("no recipe has an engine", "add int8-static"),
    _CALIBRATED: ("no recipe uses calibration text", "add int8-static"),
    _EXPORTED: ("every recipe stays in PyTorch", "add fp32"),
}
"""The reason for a refusal and the way out, by the need of a choice."""

_NEEDS: Mapping[str, str] = {
    "--text": _TEXT,
    "--dataset": _TEXT,
    "text": _TEXT,
    "[text] evaluation": _TEXT,
    "window": _WINDOWS,
    "windows": _WINDOWS,
    "sentences": _SENTENCES,
    "--calibration-text": _CALIBRATED,
    "--calibration-dataset": _CALIBRATED,
    "[text] calibration": _CALIBRATED,
    "--prompts": _PROMPTS,
    "--new-tokens": _PROMPTS,
    "[generation]": _PROMPTS,
    "prompts": _PROMPTS,
    "new_tokens": _PROMPTS,
    "rounds": _TIMED,
    "--rounds": _TIMED,
    "[session]": _QUESTION,
    "--data": _TASKS,
    "--num-fewshot": _TASKS,
    "--limit": _TASKS,
    "tasks": _TASKS,
    "[tasks]": _TASKS,
    "--engine": _ENGINE,
    "--exporter": _EXPORTED,
}


def idle(choices: Iterable[str], metrics: Iterable[str], recipes: Iterable[Recipe]) -> list[str]:
    """The choices that no metric and no recipe uses; see :func:`require_effect`."""
    used = {use for metric in metrics for use in _uses(metric)} | {use for each in recipes for use in _uses_of(each)}
    return [choice for choice in choices if _NEEDS[choice] not in used]


def require_effect(
    choices: Collection[str], metrics: Collection[str], recipes: Iterable[Recipe], *, place: str = ""
) -> None:
    """Refuse a choice that no metric and no recipe uses.

    Args:
        choices: the choices that the user made: options of ``compare``, or keys of an experiment or of a gate's table,
            as in :data:`_NEEDS`.
        metrics: the metrics that are measured.
        recipes: the recipes of the rows.
        place: the place of the choices, for the message.

    Raises:
        InputError: a choice would change nothing.
    """
    for choice in idle(choices, metrics, recipes):
        lack, way_out = _WORDS[_NEEDS[choice]]
        raise InputError(f"{place}{choice}: has no effect, since {lack}; {way_out}, or leave {choice} out")


def choices_in(experiment: Experiment) -> list[str]:
    """The keys of an experiment's file that are choices."""
    given = experiment.model_fields_set
    found: list[str] = [name for name in ("window", "windows", "sentences") if name in given]
    found += [f"[{name}]" for name in ("generation", "session", "tasks") if name in given]
    return found + [f"[text] {name}" for name in ("evaluation", "calibration") if getattr(experiment.text, name)]


def known_choices(names: Iterable[str]) -> list[str]:
    """The names that are choices, in order."""
    return sorted(_NEEDS.keys() & set(names))


def _uses(metric: str) -> set[str]:
    if CATALOGUE[metric].task:
        return {_TASKS}
    probes = {name: probe for name, probe in PROBES.items() if metric in probe.metrics}
    fed: set[str] = {probe.tokens for probe in probes.values() if isinstance(probe, Probe)}
    fed |= {_TEXT} if fed & {_WINDOWS, _SENTENCES} else set()
    fed |= {_TIMED} if any(map(is_timed, probes)) else set()
    return fed | ({_QUESTION} if "session" in probes else set())


def _uses_of(recipe: Recipe) -> set[str]:
    scheme = recipe.scheme
    if isinstance(scheme, TorchSchemes):
        return set()
    found = {_EXPORTED} | ({_ENGINE} if "engine" in scheme.OPTIONS else set())
    return found | ({_CALIBRATED} if not isinstance(scheme, Fp32) and scheme.calibration else set())
