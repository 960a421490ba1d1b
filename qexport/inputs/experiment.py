"""Experiments: a TOML file with a model, the rows of its table, and the figures published for them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from qexport.core import InputError, Published, require_known, require_tasks
from qexport.inputs.bundle import CALIBRATION_TEXT, EVALUATION_TEXT, PROMPTS, bundled
from qexport.inputs.figures import Figure, parse_figures
from qexport.inputs.settings import first_reason, read_toml

Positive = Annotated[int, Field(gt=0)]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Limits = Annotated[
    Annotated[Limit, Tag("number")] | Annotated[dict[str, Limit], Tag("table")],
    Discriminator(lambda given: "table" if isinstance(given, dict) else "number"),
]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


@contextlib.contextmanager
def _as_value_error() -> Iterator[None]:
    """Turn an InputError into a ValueError, for which pydantic reports the place in the file."""
    try:
        yield
    except InputError as error:
        raise ValueError(str(error)) from error


def _figures(values: object) -> dict[str, Figure]:
    with _as_value_error():
        return parse_figures(values)


PublishedFigures = Annotated[dict[str, Figure], BeforeValidator(_figures)]
"""Published figures of one row, by metric, in the units of :mod:`qexport.core.metrics`."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedSource(_Value):
    source: str
    """The place of publication, in words."""


class Row(_Value):
    """A row of the table: a recipe and the nodes that it quantizes."""

    recipe: str
    nodes: str | None = None
    """Roles or names; None takes the recipe's default nodes."""
    options: dict[str, bool | int | float | str] = {}
    """The recipe's options by name: ``{ block_size = 64 }``."""
    published: PublishedFigures = {}
    """In the file a figure is a number in the metric's unit, or a text with a unit: ``"486.70 MiB"``, ``"239 ms"``."""


class TextPaths(_Value):
    """Texts that replace the bundled ones."""

    evaluation: Path | None = None
    calibration: Path | None = None


class Generation(_Value):
    """Settings for the speed of generation: greedy, with the same number of new tokens in every row."""

    prompts: Path | None = None
    """Prompts that replace the bundled ones."""
    new_tokens: Annotated[int, Field(ge=2)] = 32
    """New tokens after each prompt; from the second on each has a latency."""
    chat: bool = False
    """True if each prompt is a user's message, put into the tokenizer's chat template."""


class SessionPlan(_Value):
    """The question of a whole session: load, answer, free."""

    prompt: Words
    expected: tuple[Words, ...] = ()
    """The accepted answers; empty if correctness is not judged."""
    max_tokens: Positive = 64
    """The most tokens of the answer."""
    chat: bool = False


class Tasks(_Value):
    """The settings of the tasks among the metrics, with lm-eval's names and defaults."""

    data: Path | None = None
    """A folder of local files; None takes the questions from the hub."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; None takes each task's own number."""
    limit: Limits | None = None
    """Questions of each task, or of each named task; below one a share. MMLU applies it to each subject."""
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    """With a chat template: True if each example is a turn of the conversation."""
    system_instruction: str | None = None
    gen_kwargs: dict[str, bool | int | float | str | list[str]] = {}
    """Settings that replace a task's own: ``{ max_gen_toks = 128 }``."""
    seed: int = 1234
    """The seed for the choice of examples."""

    @field_validator("limit")
    @classmethod
    def _known_tasks(cls, limit: Limits | None) -> Limits | None:
        if isinstance(limit, dict):
            with _as_value_error():
                require_tasks(tuple(limit))
        return limit

    @property
    def sha256(self) -> str:
        """Digest of the settings, for any questions."""
        return hashlib.sha256(self.model_dump_json(exclude={"data", "limit"}).encode()).hexdigest()

    def limit_of(self, task: str) -> float | None:
        """The limit for a task."""
        return self.limit.get(task) if isinstance(self.limit, dict) else self.limit


class StandInArchitecture(BaseModel):
    """The real model's shapes, for a stand-in with random weights if the model is not available."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    model_type: Words

    @property
    def values(self) -> dict[str, Any]:
        """The arguments of ``AutoConfig.for_model``, with ``model_type``."""
        return self.model_dump()


class Experiment(_Value):
    """The description of a table."""

    title: str
    model: str
    """A hub id, the absolute path of a local folder or GGUF file, or a file of a package (``package:``)."""
    revision: str | None = None
    rows: tuple[Row, ...] = Field(min_length=1)
    metrics: tuple[str, ...] | None = None
    """Names of :mod:`qexport.core.metrics`; None leaves the choice to the comparison."""
    published: PublishedSource | None = None
    text: TextPaths = TextPaths()
    generation: Generation = Generation()
    session: SessionPlan | None = None
    """The question of the session; None takes the first of the prompts."""
    tasks: Tasks = Tasks()
    architecture: StandInArchitecture | None = None
    window: Annotated[int, Field(ge=3)] = 512
    """The most tokens of a window, with BOS; cut to the model's context."""
    windows: Positive | None = None
    """The most windows of the evaluation text; None takes the whole text."""
    sentences: Positive = 64
    """The most sentences of the evaluation text."""

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        if not names:
            raise ValueError("no metric is named; name one, or leave the key out")
        with _as_value_error():
            require_known(names)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is there twice; leave one out")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        keys = [(row.recipe, row.nodes, row.options) for row in self.rows]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"the row {' '.join(filter(None, twice[:2]))} is there twice; leave one out")
        if self.published is None and any(row.published for row in self.rows):
            raise ValueError("rows have published figures, but [published] names no source; add source")
        if self.published is not None and not any(row.published for row in self.rows):
            raise ValueError(
                "[published] names a source, and no row has figures; add published to a row, or leave it out"
            )
        idle = next(
            (name for row in self.rows for name in row.published if self.metrics and name not in self.metrics), None
        )
        if idle is not None:
            raise ValueError(f"{idle} is published, and is not among the metrics; add it there, or take its figure out")
        return self

    @property
    def name(self) -> str:
        """A short name for the report's folder."""
        return Path(self.model).name

    @property
    def evaluation_path(self) -> Path:
        """The text for perplexity and latency."""
        return self.text.evaluation or bundled(EVALUATION_TEXT)

    @property
    def calibration_path(self) -> Path:
        """The text for activation ranges."""
        return self.text.calibration or bundled(CALIBRATION_TEXT)

    @property
    def prompts_path(self) -> Path:
        """The prompts for new tokens."""
        return self.generation.prompts or bundled(PROMPTS)

    def published_for(self, row: Row, metric: str) -> Published | None:
        """The figure published for a row and a metric, in that metric's unit."""
        if self.published is None or metric not in row.published:
            return None
        figure = row.published[metric]
        return Published(value=figure.value, text=figure.text, source=self.published.source)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment. Its model, texts and prompts may be given relative to the file.

    Raises:
        InputError: the file is missing or not TOML, or keys are unknown, missing or wrong; the message names the first.
    """
    try:
        experiment = Experiment.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_reason(error, _KEYS)}") from error
    return _resolved(experiment, path.resolve().parent)


def _resolved(experiment: Experiment, folder: Path) -> Experiment:
    model = folder / Path(experiment.model).expanduser()
    text = experiment.text
    paths = {name: folder / value for name in TextPaths.model_fields if (value := getattr(text, name)) is not None}
    update: dict[str, object] = {"text": TextPaths(**paths)}
    if experiment.generation.prompts is not None:
        prompts = folder / experiment.generation.prompts
        update["generation"] = experiment.generation.model_copy(update={"prompts": prompts})
    if experiment.tasks.data is not None:
        update["tasks"] = experiment.tasks.model_copy(update={"data": folder / experiment.tasks.data})
    if model.exists():
        update["model"] = str(model.resolve())
    return experiment.model_copy(update=update)


_KINDS = (Experiment, Row, PublishedSource, TextPaths, Generation, SessionPlan, Tasks, StandInArchitecture)
_KEYS = {name for kind in _KINDS for name in kind.model_fields}
