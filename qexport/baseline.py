"""Baselines: what the rows of a gate were when somebody approved of them, in one JSON file that is reviewed like code.

A line for each thing they were measured on, and a line for each row; sorted, without paths of a machine. Log-likelihoods
are kept for each window, so that a later run is compared with the same windows. Format history:

1: first version.
2: ``cpus`` in place of one machine; a row has a digest, the class of the kernels that gave its samples, and samples of
   other classes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator
from pydantic.functional_validators import BeforeValidator

from qexport.artifact import Artifact, QuantizedNode
from qexport.catalogue import CATALOGUE
from qexport.errors import InputError
from qexport.files import write_whole
from qexport.record import Measurement

BASELINE_SCHEMA = 2
DECIMALS = 4
"""Of a window's log-likelihood in nats: a perplexity is off by less than a part in a million."""

_COLUMNS = {"corpus": ("nll_nats", "tokens"), "sentences": ("nll_nats", "tokens"), "accuracy": ("correct",)}
_NUMBER = re.compile(r"(?<=\.)(0|[1-9][0-9]*)(?=\.)")


def _compact(names: Iterable[str]) -> list[str | list[str | int]]:
    """Names as the file holds them, those of consecutive layers as one: ``["h.", 0, 11, ".mlp"]``."""
    layers: dict[tuple[str, str], list[int]] = defaultdict(list)
    short: list[str | list[str | int]] = []
    for name in names:
        number = _NUMBER.search(name)
        if number is None:
            short.append(name)
        else:
            layers[name[: number.start()], name[number.end() :]].append(int(number[0]))
    for (before, after), numbers in layers.items():
        for first, last in _runs(sorted(numbers)):
            short.append(f"{before}{first}{after}" if first == last else [before, first, last, after])
    return sorted(short, key=str)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


def _expand(names: object) -> object:
    """Names of what :func:`_compact` made of them; anything else is left for pydantic to refuse."""
    if not isinstance(names, list | tuple):
        return names
    found: list[object] = []
    for name in names:
        match name:
            case [str() as before, int() as first, int() as last, str() as after] if first <= last:
                found += [f"{before}{number}{after}" for number in range(first, last + 1)]
            case _:
                found.append(name)
    return tuple(sorted(found, key=str))


def _bits(samples: object) -> object:
    """Right and wrong answers, in the file ``"1101"``."""
    return [float(bit) for bit in samples] if isinstance(samples, str) and set(samples) <= {"0", "1"} else samples


Names = Annotated[tuple[str, ...], BeforeValidator(_expand), PlainSerializer(_compact)]
Samples = Annotated[tuple[float, ...], BeforeValidator(_bits), Field(min_length=1)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Feed(_Value):
    """What a metric was measured on."""

    text: str = ""
    """Where it came from, in words."""
    sequence: str = ""
    """How sequences were made of it: ``windows of at most 256 tokens``."""
    sha256: str = ""
    """Digest of all that was fed, or asked."""
    plan_sha256: str = ""
    """Digest of how a task was asked."""
    tokens: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Scored tokens of each sequence."""


class Structure(_Value):
    """What an artifact is, as far as two of a row must be alike."""

    recipe: str
    selection: str = ""
    """The rules as one would type them; empty where there was no choice."""
    engine: str = ""
    calibration: str = ""
    """Digest of the tokens that ranges were taken from."""
    quantized: dict[str, Names] = {}
    """Nodes by what was made of them: ``int8 per channel, static activations``."""


class Ran(_Value):
    """What ran when an artifact was scored."""

    runtime: str = ""
    providers: tuple[str, ...] = ()
    """Those that ran nodes, sorted."""
    kernels: dict[str, int] = {}
    """Quantized kernels by kind, those that ran."""


class Seen(_Value):
    """The figures of an artifact on one class of kernels."""

    ran: Ran = Ran()
    samples: dict[str, Samples]
    """By metric: log-likelihoods in nats of each sequence, right (1) and wrong (0) answers, or one number of bytes."""


class StoredRow(Seen):
    """One artifact, and what it gave on the first class of kernels that it was measured on."""

    structure: Structure
    sha256: str = ""
    """Digest of the artifact's files."""
    kernel_class: str = ""
    """See :mod:`qexport.kernels`; empty where nothing ran."""
    elsewhere: dict[str, Seen] = {}
    """The same artifact on other classes of kernels; sizes are not repeated."""

    def on(self, kernel_class: str) -> Seen | None:
        """The samples of a class; None where there are none."""
        return self if kernel_class == self.kernel_class else self.elsewhere.get(kernel_class)


class Cpu(_Value):
    """A processor on which a class of kernels was met."""

    machine: str
    """CPU model name."""
    isa: tuple[str, ...] = ()


class Baseline(_Value):
    """All rows, and what they were measured on."""

    schema_: Literal[2] = Field(default=2, alias="schema")
    model: str
    cpus: dict[str, Cpu] = {}
    """By class of kernels."""
    feeds: dict[str, Feed] = {}
    """By metric."""
    rows: dict[str, StoredRow] = Field(min_length=1)
    lines: dict[str, int] = Field(default={}, exclude=True)
    """Where each row stands in the file that it was read from."""

    @model_validator(mode="after")
    def _whole(self) -> Baseline:
        for name, row in self.rows.items():
            for seen in (row, *row.elsewhere.values()):
                for metric, samples in seen.samples.items():
                    if reason := self._damage(metric, samples):
                        raise ValueError(f"{name}: {metric}: {reason}")
        return self

    def _damage(self, metric: str, samples: Sequence[float]) -> str:
        """What is wrong with the samples of a metric; empty where nothing is."""
        form = CATALOGUE[metric].form if metric in CATALOGUE else ""
        if form == "size":
            return "" if len(samples) == 1 and samples[0] > 0 else "is not one number of bytes"
        if form not in _COLUMNS:
            return "is nothing that a baseline holds"
        if metric not in self.feeds:
            return "nothing says what it was measured on"
        tokens = self.feeds[metric].tokens
        if form == "accuracy":
            return "" if set(samples) <= {0.0, 1.0} else "is not right (1) and wrong (0)"
        return "" if len(samples) == len(tokens) else f"{len(samples)} samples, and {len(tokens)} sequences"

    def nearest_class(self, name: str, isa: Collection[str]) -> str:
        """The class that a row was measured on whose processor has the flags most like these; the first of several."""
        row, flags = self.rows[name], set(isa)

        def likeness(kernel_class: str) -> float:
            cpu = self.cpus.get(kernel_class)
            return 0.0 if cpu is None else len(flags & set(cpu.isa)) / max(1, len(flags | set(cpu.isa)))

        return max((row.kernel_class, *row.elsewhere), key=likeness)

    def record(
        self, name: str, metric: str, count: int | None = None, *, kernel_class: str | None = None
    ) -> Measurement | None:
        """The measurement that a row's samples were; None where there is none.

        Args:
            name: of the row.
            metric: of the samples.
            count: sequences, the first of all; None for all.
            kernel_class: whose samples; None for those of the first class, which alone has sizes.
        """
        row = self.rows.get(name)
        seen = row if row is None or kernel_class is None else row.on(kernel_class)
        samples = None if seen is None else seen.samples.get(metric)
        if row is None or samples is None:
            return None
        form = CATALOGUE[metric].form
        # A baseline of artifacts that were measured just now may be of the first sequences only.
        beside = (self.feeds[metric].tokens[: len(samples)],) if form in {"corpus", "sentences"} else ()
        return Measurement(
            row=name,
            model=self.model,
            recipe=row.structure.recipe,
            metric=metric,
            columns=_COLUMNS.get(form, (metric,)),
            samples=tuple(zip(samples, *beside, strict=True))[:count],
        )


def structure_of(artifact: Artifact) -> Structure:
    """What an artifact's manifest says it is."""
    manifest = artifact.manifest
    kinds: dict[str, list[str]] = defaultdict(list)
    for node in manifest.quantized:
        kinds[_kind(node)].append(node.name)
    return Structure(
        recipe=manifest.recipe,
        selection=manifest.selection.rules if manifest.selection else "",
        engine=manifest.engine,
        calibration=manifest.calibration.tokens_sha256 if manifest.calibration else "",
        quantized={kind: tuple(sorted(names)) for kind, names in kinds.items()},
    )


def _kind(node: QuantizedNode) -> str:
    grain = f"blocks of {node.block_size}" if node.block_size else "per channel" if node.per_channel else "per tensor"
    activations = "" if node.activation == "none" else f", {node.activation} activations"
    return f"{node.weight_dtype} {grain}{activations}"


def stored_samples(record: Measurement) -> tuple[float, ...]:
    """What a baseline keeps of a measurement: its first column."""
    return tuple(sample[0] for sample in record.samples)


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline; what is there stays where that fails.

    Raises:
        InputError: the file cannot be written there.
    """
    try:
        write_whole(path, _dump(baseline))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _dump(baseline: Baseline) -> str:
    values = baseline.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"schema": BASELINE_SCHEMA}
    for row in values["rows"].values():
        for seen in (row, *row.get("elsewhere", {}).values()):
            seen["samples"] = {metric: _short(metric, samples) for metric, samples in sorted(seen["samples"].items())}
    tables = {name: values.pop(name, {}) for name in ("feeds", "rows")}
    lines = [f"{_line(name)}: {_line(value)}," for name, value in sorted(values.items())]
    for name, table in tables.items():
        entries = ",\n".join(f"  {_line(key)}: {_line(value)}" for key, value in sorted(table.items()))
        lines.append(f"{_line(name)}: {{\n{entries}\n }}" + ("," if name == "feeds" else ""))
    return "{\n" + "".join(f" {line}\n" for line in lines) + "}\n"


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _short(metric: str, samples: list[float]) -> object:
    """Samples as the file holds them: whole bytes, answers as a word of bits."""
    match CATALOGUE[metric].form:
        case "accuracy":
            return "".join("1" if right else "0" for right in samples)
        case "size":
            return [round(size) for size in samples]
        case _:
            return samples


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InputError: no such file, not a baseline, or of a format that this version does not read.
    """
    again = "write it anew with `qexport gate --update`"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no baseline there; write one with `qexport gate --update`") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a baseline (byte {error.start} is not UTF-8); {again}") from error
    try:
        values = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a baseline ({error}); {again}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != BASELINE_SCHEMA:
        way = "install a newer qexport" if isinstance(schema, int) and schema > BASELINE_SCHEMA else again
        raise InputError(f"{path}: not a baseline of format {BASELINE_SCHEMA}, which this qexport reads; {way}")
    try:
        baseline = Baseline.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: damaged baseline ({place}: {reason}); {again}") from error
    return baseline.model_copy(update={"lines": _places(text, baseline.rows)})


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are there once: a merge may leave a row twice, and JSON would take the last.

    Raises:
        ValueError: one is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is there twice")
    return found


def _places(text: str, rows: Mapping[str, Any]) -> dict[str, int]:
    """The line of each row in the file."""
    starts = {f"{_line(name)}:": name for name in rows}
    found = {}
    for number, line in enumerate(text.split("\n"), start=1):
        for start, name in starts.items():
            if line.strip().startswith(start):
                found[name] = number
    return found
