"""Budgets: the changes that a gate allows, from ``[tool.qexport.gate]`` of a pyproject.toml or from a TOML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from qexport.catalogue import CATALOGUE
from qexport.errors import InputError, near_names
from qexport.inputs.bundled import EVALUATION_TEXT, PROMPTS, bundled
from qexport.inputs.experiment import Tasks
from qexport.inputs.settings import first_reason, read_toml
from qexport.verdict import Base, Bounds

DRIFT = "drift"
"""Not a metric but what became of one: see :func:`qexport.stats.drift`."""
SIZES = ("disk_bytes", "weight_bytes")
LIKELIHOODS = ("perplexity", "sentence_perplexity")
ACCURACIES = tuple(metric.name for metric in CATALOGUE.values() if metric.task)
SPEEDS = ("latency_s", "first_token_s", "token_latency_s", "tokens_per_s")
GATED = (*LIKELIHOODS, DRIFT, *ACCURACIES, *SIZES, *SPEEDS)
"""What a budget may be of."""

PYPROJECT = "pyproject.toml"
TABLE = "[tool.qexport.gate]"
_EXAMPLE = 'budgets.perplexity = { at_most = 1.01, of = "baseline" }'

Positive = Annotated[int, Field(gt=0, strict=True)]
Bound = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Value):
    """Where a ratio must lie."""

    of: Base
    """What a figure is divided by."""
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
"""By metric, one or several each."""


class GatePlan(_Value):
    """What a gate measures, and the budgets of each recipe."""

    budgets: Budgets = {}
    """Of every recipe."""
    recipes: dict[str, Budgets] = {}
    """Of one recipe: instead of the common ones of the same metric and base."""
    text: Path | None = None
    """Evaluation text; None takes the bundled one. Given relative to the file."""
    window: Annotated[int, Field(ge=3, strict=True)] = 512
    """Most tokens of a window, BOS included; cut to the model's context."""
    windows: Positive | None = None
    """Windows that are scored at first; None takes all of the text."""
    sentences: Positive | None = 64
    """Sentences that are scored at first, or timed; None takes all of the text."""
    prompts: Path | None = None
    """Prompts that new tokens are timed after; None takes the bundled ones. Given relative to the file."""
    new_tokens: Annotated[int, Field(ge=2, strict=True)] = 32
    rounds: Positive = 3
    """Fresh processes per artifact for what is timed."""
    tasks: Tasks = Tasks()
    """How tasks are asked whose accuracies have budgets."""

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
        """Every metric that a budget is of, in the order of :data:`GATED`; drift is of perplexity."""
        named = {metric for budgets in (self.budgets, *self.recipes.values()) for metric in budgets}
        if DRIFT in named:
            named.add("perplexity")
        return tuple(metric for metric in GATED if metric in named and metric != DRIFT)

    def of(self, recipe: str) -> Mapping[str, tuple[Budget, ...]]:
        """The budgets of a recipe by metric: its own, and the common ones that none of its own stands for.

        A budget stands for another of the same metric and base. fp32 has none of itself.
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
        raise ValueError(f"{place}.{metric}: nothing that a budget can be of; {near_names(metric, GATED)}")
    for budget in budgets:
        if metric in SPEEDS and budget.of == "baseline":
            raise ValueError(
                f'{place}.{metric}: times of another run say nothing of this one; write of = "fp32", timed in the same run'
            )
        if metric == DRIFT and (budget.of != "baseline" or budget.at_least is not None):
            raise ValueError(
                f'{place}.{metric}: is how far a row is from what it was; write at_most and of = "baseline"'
            )


def load_gate_plan(path: Path) -> GatePlan:
    """Read budgets from a pyproject.toml, or from a TOML file that has the same keys at its top.

    Raises:
        InputError: no such file, no table in it, unknown or missing keys, or budgets that cannot be.
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
