"""Budgets: the changes that a gate allows, from ``[tool.qexport.gate]`` of a pyproject.toml or from a TOML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from qexport import core
from qexport.core import CATALOGUE, InputError, Metric, near_names
from qexport.gating.verdict import Base, Bounds
from qexport.inputs import EVALUATION_TEXT, PROMPTS, Tasks, bundled, first_reason, read_toml
from qexport.measurement import PROBES, Stored, probe_of

DRIFT = "drift"
"""Not a metric but the change of one: see :func:`qexport.core.stats.drift`."""
Kind = Literal["likelihood", "distance", "accuracy", "size", "speed", "memory"]


def _kind(metric: Metric) -> Kind | None:
    """A gate's kind of a metric, by the probe that yields the metric. A gate has no session metrics and no quantiles."""
    if metric.task:
        return "accuracy"
    if metric.form in {"corpus", "sentences"}:
        return "likelihood"
    if metric.form in {"token_mean", "token_rms"}:
        return "distance"
    if metric.group == "session" or metric.name in core.DISTANCES:
        return None
    probe = PROBES[probe_of(metric.name)]
    if isinstance(probe, Stored):
        return "size"
    return "speed" if probe.rounds else "memory"


def _of_kind(kind: Kind) -> tuple[str, ...]:
    return tuple(metric.name for metric in CATALOGUE.values() if _kind(metric) == kind)


LIKELIHOODS, ACCURACIES, SIZES = _of_kind("likelihood"), _of_kind("accuracy"), _of_kind("size")
SPEEDS, MEMORY = _of_kind("speed"), _of_kind("memory")
DISTANCES = _of_kind("distance")
"""Distances from fp32, which are measured in the pass that scores perplexity."""
SAME_RUN = (*SPEEDS, *MEMORY, *DISTANCES)
"""Metrics that are compared with fp32 of the same run only: they change with the machine and the moment, or need the
distributions of fp32, which no baseline holds."""
GATED = (*LIKELIHOODS, DRIFT, *DISTANCES, *ACCURACIES, *SIZES, *SPEEDS, *MEMORY)
"""The metrics that a budget may be for."""

PYPROJECT = "pyproject.toml"
TABLE = "[tool.qexport.gate]"
_EXAMPLE = 'budgets.perplexity = { at_most = 1.01, of = "baseline" }'

Positive = Annotated[int, Field(gt=0, strict=True)]
Bound = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Value):
    """The allowed range of a ratio, or of a distance."""

    of: Base
    """The divisor of a figure, or the row that a distance is from."""
    at_least: Bound | None = None
    at_most: Bound | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Budget:
        if self.at_least is None and self.at_most is None:
            raise ValueError("has no bound; give at_most or at_least")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is above at_most {self.at_most:g}; nothing could pass")
        return self

    @property
    def bounds(self) -> Bounds:
        return Bounds(at_least=self.at_least, at_most=self.at_most)


def _several(value: object) -> object:
    return value if isinstance(value, list) else [value]


Budgets = dict[str, Annotated[tuple[Budget, ...], BeforeValidator(_several), Field(min_length=1)]]
"""Budgets by metric, one or several each."""


class GatePlan(_Value):
    """The measurements of a gate, and the budgets of each recipe."""

    budgets: Budgets = {}
    """Budgets of every recipe."""
    recipes: dict[str, Budgets] = {}
    """Budgets of one recipe; each replaces the common ones of the same metric and base."""
    text: Path | None = None
    """Evaluation text, relative to the file; None takes the bundled text."""
    window: Annotated[int, Field(ge=3, strict=True)] = 512
    """The most tokens of a window, with BOS; cut to the model's context."""
    windows: Positive | None = None
    """The number of windows that are scored at first; None takes all of the text."""
    sentences: Positive | None = 64
    """The number of sentences that are scored at first, or timed; None takes all of the text."""
    prompts: Path | None = None
    """Prompts for the timing of new tokens, relative to the file; None takes the bundled prompts."""
    new_tokens: Annotated[int, Field(ge=2, strict=True)] = 32
    rounds: Positive = 3
    """Fresh processes per artifact for timed metrics."""
    tasks: Tasks = Tasks()
    """The settings of the tasks whose accuracies have budgets."""

    @model_validator(mode="after")
    def _fitting(self) -> GatePlan:
        for place, budgets in {"budgets": self.budgets, **self.recipes}.items():
            for metric, several in budgets.items():
                _check(place, metric, several)
        if not any((self.budgets, *self.recipes.values())):
            raise ValueError(f"has no budgets; add {_EXAMPLE}")
        return self

    @property
    def text_path(self) -> Path:
        return self.text or bundled(EVALUATION_TEXT)

    @property
    def prompts_path(self) -> Path:
        return self.prompts or bundled(PROMPTS)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that has a budget, in the order of :data:`GATED`; drift and distances need perplexity."""
        named = {metric for budgets in (self.budgets, *self.recipes.values()) for metric in budgets}
        if named & {DRIFT, *DISTANCES}:
            named.add("perplexity")
        return tuple(metric for metric in GATED if metric in named and metric != DRIFT)

    def of(self, recipe: str) -> Mapping[str, tuple[Budget, ...]]:
        """The budgets of a recipe by metric: its own, and the common ones that its own do not replace.

        A budget replaces another one of the same metric and base. fp32 has no budgets with fp32 as base.
        """
        found: dict[str, tuple[Budget, ...]] = {}
        own = self.recipes.get(recipe, {})
        for metric in dict.fromkeys((*self.budgets, *own)):
            mine = own.get(metric, ())
            bases = {budget.of for budget in mine}
            common = (budget for budget in self.budgets.get(metric, ()) if budget.of not in bases)
            several = tuple(budget for budget in (*mine, *common) if (recipe, budget.of) != ("fp32", "fp32"))
            if several:
                found[metric] = several
        return found


def _check(place: str, metric: str, budgets: Iterable[Budget]) -> None:
    if metric not in GATED:
        raise ValueError(f"{place}.{metric}: not a metric that can have a budget; {near_names(metric, GATED)}")
    for budget in budgets:
        if metric in SAME_RUN and budget.of == "baseline":
            raise ValueError(
                f'{place}.{metric}: a figure of another run cannot be compared with this one; write of = "fp32", measured in the same run'
            )
        if metric == DRIFT and (budget.of != "baseline" or budget.at_least is not None):
            raise ValueError(
                f'{place}.{metric}: is the distance of a row from the baseline; write at_most and of = "baseline"'
            )


def load_gate_plan(path: Path) -> GatePlan:
    """Read budgets from a pyproject.toml, or from a TOML file that has the same keys at its top.

    Raises:
        InputError: the file or its table is missing, keys are unknown or missing, or budgets are impossible.
    """
    values = _table(path)
    try:
        plan = GatePlan.model_validate(values)
    except ValidationError as error:
        keys = {name for kind in (GatePlan, Budget, Tasks) for name in kind.model_fields}
        raise InputError(f"{path}: {TABLE} {first_reason(error, keys)}") from error
    folder = path.resolve().parent
    given = {name: folder / value for name in ("text", "prompts") if (value := getattr(plan, name)) is not None}
    if plan.tasks.data is not None:
        given["tasks"] = plan.tasks.model_copy(update={"data": folder / plan.tasks.data})
    return plan.model_copy(update=given)


def _table(path: Path) -> Mapping[str, Any]:
    values = read_toml(path, otherwise="name the file with --config")
    if path.name != PYPROJECT:
        if "tool" in values:
            raise InputError(
                f"{path}: {TABLE} is a table of {PYPROJECT}; this file has the keys at its top: write [budgets] for "
                "[tool.qexport.gate.budgets]"
            )
        return values
    found: object = values
    for key in ("tool", "qexport", "gate"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{path}: has no {TABLE}; add the table, and in it {_EXAMPLE}")
    return found
