"""Experiments: a TOML file that names a model, the rows of its table, and figures published for them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qexport.errors import InputError, near_names
from qexport.inputs.bundled import bundled
from qexport.record import Published

MIB = 1 << 20
Positive = Annotated[int, Field(gt=0)]
PositiveFigure = Annotated[float, Field(gt=0)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedFigures(_Value):
    """What somebody else published for one row, in the units they used."""

    memory_mib: PositiveFigure | None = None
    """Mebibytes of the weights (and of what else the source counted with them); shown beside ``weight_bytes``."""
    disk_bytes: PositiveFigure | None = None
    latency_s: PositiveFigure | None = None
    perplexity: PositiveFigure | None = None
    sentence_perplexity: PositiveFigure | None = None


class PublishedSource(_Value):
    source: str
    """Where the figures were published, in words."""


class Row(_Value):
    """A row of the table: a recipe and the nodes it is applied to."""

    recipe: str
    nodes: str | None = None
    """Roles or names; None takes the nodes that the recipe is for."""
    options: dict[str, bool | int | float | str] = {}
    """Choices among the options of the recipe, by name: ``{ block_size = 64 }``."""
    published: PublishedFigures = PublishedFigures()


class TextPaths(_Value):
    """Text instead of the bundled one."""

    evaluation: Path | None = None
    calibration: Path | None = None


class Experiment(_Value):
    """A table to be made."""

    title: str
    model: str
    """A hub id, or the absolute path of a local folder."""
    revision: str | None = None
    rows: tuple[Row, ...] = Field(min_length=1)
    published: PublishedSource | None = None
    text: TextPaths = TextPaths()
    window: Annotated[int, Field(ge=3)] = 512
    """Most tokens of a window, BOS included; cut to the model's context."""
    windows: Positive | None = None
    """Most windows of the evaluation text; None takes all of it."""
    sentences: Positive = 64
    """Most sentences of the evaluation text."""

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        keys = [(row.recipe, row.nodes, row.options) for row in self.rows]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"the row {' '.join(filter(None, twice[:2]))} is there twice")
        if self.published is None and any(row.published.model_fields_set for row in self.rows):
            raise ValueError("rows have published figures, but [published] names no source")
        return self

    @property
    def name(self) -> str:
        """A short name for the report's folder."""
        return Path(self.model).name

    @property
    def evaluation_path(self) -> Path:
        """The text that perplexity and latency are measured on."""
        return self.text.evaluation or bundled("calibration/evaluation.jsonl")

    @property
    def calibration_path(self) -> Path:
        """The text that activation ranges are taken from."""
        return self.text.calibration or bundled("calibration/calibration.jsonl")

    def published_for(self, row: Row, metric: str) -> Published | None:
        """The figure published for a row and a metric, in that metric's unit."""
        if self.published is None:
            return None
        if metric == "weight_bytes":
            value = None if row.published.memory_mib is None else row.published.memory_mib * MIB
        else:
            value = row.published.model_dump().get(metric)
        return None if value is None else Published(value=value, source=self.published.source)


DEFAULT_ROWS = (
    Row(recipe="fp32"),
    Row(recipe="fp16"),
    Row(recipe="bf16"),
    Row(recipe="int8-dynamic"),
    Row(recipe="int8-dynamic", nodes="attention"),
    Row(recipe="int8-static"),
    Row(recipe="int8-static", nodes="attention"),
    Row(recipe="fp8"),
    Row(recipe="w8a16-rtn"),
    Row(recipe="w4a16-rtn"),
    Row(recipe="w4a16-hqq"),
    Row(recipe="w4a16-gptq"),
    Row(recipe="w4a16-awq"),
    Row(recipe="nf4"),
    Row(recipe="fp4"),
    Row(recipe="bnb-int8"),
    Row(recipe="bnb-nf4"),
    Row(recipe="bnb-fp4"),
)


def default_experiment(model_spec: str) -> Experiment:
    """Every recipe for any model, INT8 on attention only besides, with no published figures."""
    folder = Path(model_spec).expanduser()
    model = str(folder.resolve()) if folder.is_dir() else model_spec
    return Experiment(title=f"Quantization of {folder.resolve().name}", model=model, rows=DEFAULT_ROWS)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment. Its model and texts may be given relative to the file.

    Raises:
        InputError: no TOML file, unknown or missing keys, or values of the wrong kind; the message names the first.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML ({error}); correct it there") from error
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_reason(error)}") from error
    return _resolved(experiment, path.resolve().parent)


def _resolved(experiment: Experiment, folder: Path) -> Experiment:
    model = folder / Path(experiment.model).expanduser()
    text = experiment.text
    paths = {name: folder / value for name in TextPaths.model_fields if (value := getattr(text, name)) is not None}
    update: dict[str, object] = {"text": TextPaths(**paths)}
    if model.is_dir():
        update["model"] = str(model.resolve())
    return experiment.model_copy(update=update)


_KEYS = {name for kind in (Experiment, Row, PublishedFigures, PublishedSource, TextPaths) for name in kind.model_fields}


def _first_reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {place}; {near_names(str(first['loc'][-1]), _KEYS)}"
    if first["type"] == "missing":
        return f"the key {place} is missing; add it"
    return f"{place}: {first['msg']}; correct it" if place else f"{first['msg']}; correct it"
