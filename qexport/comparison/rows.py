"""The rows that a comparison is asked for, read before any work is done on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexport.core import Exporter, InputError, Selector, parse_selector, shown
from qexport.inputs import NO_TRUST, Experiment, Row, Size, Trust
from qexport.quantization import Fp32, Recipe, TorchSchemes, recipe

if TYPE_CHECKING:
    from qexport.core import Provider

LATENCY_ROUNDS = 3
"""Fresh processes per artifact for timed metrics, where each round has a fresh process."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Choices for a whole comparison."""

    provider: Provider = "cpu"
    threads: int | None = None
    engine: str = "inc"
    """The INT8 engine of rows that name none."""
    exporter: Exporter | None = None
    """None takes the exporter whose graphs the provider can run."""
    rounds: int | None = None
    """Fresh processes for each timed metric; each other figure has a fresh process too. None gives each row one process, in
    which timed metrics take turns in short batches; on a device None takes :data:`LATENCY_ROUNDS`."""
    keep_artifacts: bool = False
    trust: Trust = NO_TRUST
    stand_in: Size | None = None
    """Random weights of the experiment's architecture instead of the model."""
    resume: bool = False
    """Go on from the records in the journal."""
    choices: tuple[str, ...] = ()
    """The options that were typed, each of which must have an effect."""


DEFAULT_OPTIONS = CompareOptions()


@dataclass(frozen=True, kw_only=True)
class WantedRow:
    """A row of an experiment with its recipe and its selection."""

    row: Row
    recipe: Recipe
    selector: Selector | None

    @property
    def label(self) -> str:
        """The recipe, with its nodes if the recipe takes a selection, and with its options."""
        nodes = [(self.selector or self.recipe.default_selector).label] if self.recipe.takes_nodes else []
        notes = nodes + [_words(name, value) for name, value in self.row.options.items()]
        return shown(f"{self.recipe.name} ({', '.join(notes)})") if notes else self.recipe.name

    @property
    def calibrated(self) -> bool:
        """True if the recipe learns from calibration text."""
        scheme = self.recipe.scheme
        return not isinstance(scheme, Fp32 | TorchSchemes) and bool(scheme.calibration)


def _words(option: str, value: object) -> str:
    """A choice in the words of a label: ``block size 64``, ``no smooth``."""
    name = option.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def wanted_rows(experiment: Experiment, options: CompareOptions) -> list[WantedRow]:
    """The rows of an experiment, read before any work is done on them."""
    rows: list[WantedRow] = []
    for row in experiment.rows:
        wanted = WantedRow(
            row=row,
            recipe=_configured(recipe(row.recipe), row, options),
            selector=None if row.nodes is None else parse_selector(row.nodes),
        )
        if wanted.selector is not None and not wanted.recipe.takes_nodes:
            raise InputError(f"{row.recipe}: has no choice of nodes; leave nodes out of its row")
        if wanted.label in (other.label for other in rows):
            raise InputError(f"{experiment.title}: two rows would be called {wanted.label}; leave one out")
        rows.append(wanted)
    return rows


def _configured(chosen: Recipe, row: Row, options: CompareOptions) -> Recipe:
    """A row's recipe with the row's options, and with engine and target of the whole comparison."""
    common: dict[str, object] = {"engine": options.engine, "target": options.provider}
    taken = {name: value for name, value in common.items() if name in chosen.scheme.OPTIONS}
    return chosen.configured(taken | row.options)
