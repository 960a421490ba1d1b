"""Baselines: the approved state of a gate's rows, in one JSON file that is reviewed like code.

The file has one line for each input that the rows were measured on, and one line for each row. Lines are sorted and
hold no paths of a machine. Log-likelihoods are kept for each window, so that a later run is compared on the same
windows. Format history:

1: first version.
2: ``cpus`` in place of one machine; a row has a digest, the class of the kernels that gave its samples, and samples of
   other classes. A structure may count channels in float; files from before that have no such count.
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

from qexport.core import CATALOGUE, Artifact, InputError, Measurement, QuantizedNode, write_whole

BASELINE_SCHEMA = 2
DECIMALS = 4
"""Decimals of a window's log-likelihood in nats: the error of a perplexity is below one part in a million."""

_COLUMNS = {"corpus": ("nll_nats", "tokens"), "sentences": ("nll_nats", "tokens"), "accuracy": ("correct",)}
_NUMBER = re.compile(r"(?<=\.)(0|[1-9][0-9]*)(?=\.)")


def _compact(names: Iterable[str]) -> list[str | list[str | int]]:
    """Names in the file's form; names of consecutive layers become one entry: ``["h.", 0, 11, ".mlp"]``."""
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
    """Names from the output of :func:`_compact`; pydantic refuses anything else."""
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
    """Right and wrong answers from the file's form, such as ``"1101"``."""
    return [float(bit) for bit in samples] if isinstance(samples, str) and set(samples) <= {"0", "1"} else samples


Names = Annotated[tuple[str, ...], BeforeValidator(_expand), PlainSerializer(_compact)]
Samples = Annotated[tuple[float, ...], BeforeValidator(_bits), Field(min_length=1)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StoredFeed(_Value):
    """The input that a metric was measured on."""

    text: str = ""
    """The source, in words."""
    sequence: str = ""
    """The form of the sequences: ``windows of at most 256 tokens``."""
    sha256: str = ""
    """Digest of all input tokens or questions."""
    plan_sha256: str = ""
    """Digest of the plan of a task."""
    tokens: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Scored tokens of each sequence."""


class FloatChannels(_Value):
    """The channels that an artifact multiplies in float, beside the integers."""

    nodes: int
    """The number of nodes that have such channels."""
    channels: int
    """The channels of all of these nodes together."""

    def __str__(self) -> str:
        nodes = "node" if self.nodes == 1 else "nodes"
        return f"{self.channels} in {self.nodes} {nodes}" if self.channels else ""


class Structure(_Value):
    """The properties of an artifact that two artifacts of a row must share."""

    recipe: str
    selection: str = ""
    """The rules as a user would type them; empty without a selection."""
    engine: str = ""
    calibration: str = ""
    """Digest of the calibration tokens."""
    quantized: dict[str, Names] = {}
    """Nodes by their quantization: ``int8 per channel, static activations``."""
    float_channels: FloatChannels | None = None
    """None if no activation is rounded, and in a baseline that was written before channels were counted."""


class Ran(_Value):
    """The software that scored an artifact."""

    runtime: str = ""
    providers: tuple[str, ...] = ()
    """The execution providers that ran nodes, sorted."""
    kernels: dict[str, int] = {}
    """The number of quantized kernels that ran, by kind."""


class Seen(_Value):
    """The figures of an artifact on one class of kernels."""

    ran: Ran = Ran()
    samples: dict[str, Samples]
    """By metric: log-likelihood of each sequence in nats, right (1) and wrong (0) answers, or one number of bytes."""


class StoredRow(Seen):
    """One artifact, and its figures on the first class of kernels that it was measured on."""

    structure: Structure
    sha256: str = ""
    """Digest of the artifact's files."""
    kernel_class: str = ""
    """The class of kernels, see :mod:`qexport.runtime.kernels`; empty if nothing ran."""
    elsewhere: dict[str, Seen] = {}
    """The same artifact on other classes of kernels; sizes are not repeated."""

    def on(self, kernel_class: str) -> Seen | None:
        """The samples of a class; None if the row has none."""
        return self if kernel_class == self.kernel_class else self.elsewhere.get(kernel_class)


class Cpu(_Value):
    """A processor that has a class of kernels."""

    machine: str
    """CPU model name."""
    isa: tuple[str, ...] = ()


class Baseline(_Value):
    """All rows, and the inputs that they were measured on."""

    schema_: Literal[2] = Field(default=2, alias="schema")
    model: str
    cpus: dict[str, Cpu] = {}
    """CPUs by class of kernels."""
    feeds: dict[str, StoredFeed] = {}
    """Inputs by metric."""
    rows: dict[str, StoredRow] = Field(min_length=1)
    lines: dict[str, int] = Field(default={}, exclude=True)
    """The line of each row in the file that it was read from."""

    @model_validator(mode="after")
    def _whole(self) -> Baseline:
        for name, row in self.rows.items():
            for seen in (row, *row.elsewhere.values()):
                for metric, samples in seen.samples.items():
                    if reason := self._damage(metric, samples):
                        raise ValueError(f"{name}: {metric}: {reason}")
        return self

    def _damage(self, metric: str, samples: Sequence[float]) -> str:
        """The fault of a metric's samples; empty if they have none."""
        form = CATALOGUE[metric].form if metric in CATALOGUE else ""
        if form == "size":
            return "" if len(samples) == 1 and samples[0] > 0 else "is not one number of bytes"
        if form not in _COLUMNS:
            return "is not a metric of a baseline"
        if metric not in self.feeds:
            return "the input that it was measured on is missing"
        tokens = self.feeds[metric].tokens
        if form == "accuracy":
            return "" if set(samples) <= {0.0, 1.0} else "is not right (1) and wrong (0)"
        return "" if len(samples) == len(tokens) else f"{len(samples)} samples, and {len(tokens)} sequences"

    def nearest_class(self, name: str, isa: Collection[str]) -> str:
        """The class of a row whose processor's flags are most like these; the first one of several."""
        row, flags = self.rows[name], set(isa)

        def likeness(kernel_class: str) -> float:
            cpu = self.cpus.get(kernel_class)
            return 0.0 if cpu is None else len(flags & set(cpu.isa)) / max(1, len(flags | set(cpu.isa)))

        return max((row.kernel_class, *row.elsewhere), key=likeness)

    def record(
        self, name: str, metric: str, count: int | None = None, *, kernel_class: str | None = None
    ) -> Measurement | None:
        """The measurement that a row's samples came from; None if there are no samples.

        Args:
            name: the name of the row.
            metric: the metric of the samples.
            count: the number of sequences, from the first; None for all.
            kernel_class: the class of the samples; None for the first class, which alone has sizes.
        """
        row = self.rows.get(name)
        seen = row if row is None or kernel_class is None else row.on(kernel_class)
        samples = None if seen is None else seen.samples.get(metric)
        if row is None or samples is None:
            return None
        form = CATALOGUE[metric].form
        # A baseline of artifacts that were just measured may cover only the first sequences.
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
    """The properties of an artifact according to its manifest."""
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
        float_channels=_float_channels(manifest.quantized),
    )


def _float_channels(quantized: Iterable[QuantizedNode]) -> FloatChannels | None:
    counts = [len(node.float_channels) for node in quantized if node.activation != "none"]
    return FloatChannels(nodes=sum(map(bool, counts)), channels=sum(counts)) if counts else None


def _kind(node: QuantizedNode) -> str:
    activations = "" if node.activation == "none" else f", {node.activation} activations"
    return f"{node.weight_dtype} {node.grain}{activations}"


def stored_samples(record: Measurement) -> tuple[float, ...]:
    """The part of a measurement that a baseline keeps: its first column."""
    return tuple(sample[0] for sample in record.samples)


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline; if that fails, the old file stays.

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
    """Samples in the file's form: whole bytes, or answers as a string of bits."""
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
        InputError: the file is missing, is not a baseline, or has a format that this version cannot read.
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
    """An object whose names are unique: a merge may leave a row twice, and JSON would take the last one.

    Raises:
        ValueError: a name occurs twice.
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
