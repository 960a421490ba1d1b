"""Measurements: raw samples with the conditions they were taken under, one JSON object a line.

Statistics are derived (``qexport.core.stats``), never stored. Format history:

1: first version.

2: ``run`` and ``stand_in``; metrics of generation and of whole sessions. Records of version 1 are read unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from qexport.core.display import shown
from qexport.core.errors import InputError
from qexport.core.files import write_whole

RECORD_SCHEMA = 2
OTHERS = "share_of_others"
"""The fact of a timed record with the share of the machine's processors that other processes took meanwhile, 0 to 1."""
RECORDS_NAME = "records.jsonl"
"""The file of records in a report's folder."""


def _one_line(value: object) -> object:
    return shown(value) if isinstance(value, str) else value


def _lines(value: object) -> object:
    return shown(value, lines=True) if isinstance(value, str) else value


# Invisible characters are written out on entry: a control character in a name would abort the drawing of charts.
Name = Annotated[str, BeforeValidator(_one_line)]
Prose = Annotated[str, BeforeValidator(_lines)]
"""A text that may have several lines: a reason, a prompt, an answer."""


class Published(BaseModel):
    """A figure that somebody else published for the same row and metric, and its source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    """The value in the metric's recorded unit."""
    text: Name = ""
    """The published text, if it had another unit: ``486.70 MiB``."""
    source: Name


class Conditions(BaseModel):
    """The conditions of a figure, without the artifact. Records with other conditions are not compared in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Name = ""
    """CPU model name."""
    isa: tuple[Name, ...] = ()
    """The SIMD extensions that decide INT8 kernels (avx2, avx512f, avx512_vnni, avx_vnni, amx_int8), sorted."""
    cores: int = 0
    """Number of processors that this process may use."""
    threads: int = 0
    """Number of threads that the runtime was given."""
    runtime: Name = ""
    """onnxruntime or torch, with its version: ``onnxruntime 1.31.1``."""
    provider: Name = ""
    """The execution provider that ran: ``cpu`` or ``cuda``."""
    device: Name = ""
    """Name of the accelerator, empty on the CPU."""
    kernel_class: Name = ""
    """Class of the kernels that ran, see :mod:`qexport.runtime.kernels`; empty if they were not observed."""
    batch: int = 1
    """Sequences that ran at once; 0 if any number suits, since the figure does not depend on it."""
    sequence: Name = ""
    """The way in which token sequences were made: ``windows of at most 256 tokens``, ``sentences``."""
    text: Name = ""
    """The source of the text, in words."""
    text_sha256: Name = ""
    """Digest of the token ids that were fed."""
    versions: dict[Name, Name] = Field(default_factory=dict)
    commit: Name = ""
    """qexport's version or git commit."""


class Measurement(BaseModel):
    """One metric of one artifact: the raw samples, or the reason why there are none.

    ``samples`` holds one row per sample, and ``columns`` names its columns; :data:`qexport.core.metrics.Form` lists the
    columns of a metric.
    """

    # A broken model scores NaN or infinity: that is a figure to keep, and JSON's null would not read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    schema_: Literal[1, 2] = Field(default=2, alias="schema")
    run: Name = ""
    """The comparison of the record, named by its start in UTC (``2026-11-22T07:35:55Z``). Ratios stay within one
    comparison."""
    row: Name
    """The row of the table: ``fp32``, ``int8-static (attention)``, ``bnb-nf4``."""
    model: Name
    """Model id or folder name."""
    stand_in: bool = False
    """True for random weights of the model's architecture: quality figures say nothing, and published ones are of
    another model."""
    recipe: Name
    selector: Name = ""
    engine: Name = ""
    artifact_sha256: Name = ""
    settings: dict[Name, Name | int | float | bool] = Field(default_factory=dict)
    """The artifact's settings, from its manifest: ``{"bits": 4, "compute": "int8"}``."""
    metric: Name
    columns: tuple[Name, ...] = ()
    samples: tuple[tuple[float, ...], ...] = ()
    warmups: tuple[tuple[float, ...], ...] = ()
    facts: dict[Name, float | int | Prose] = Field(default_factory=dict)
    """Further plain facts of the run: ``baseline_rss_bytes``, ``integer_matmuls_run``."""
    conditions: Conditions = Conditions()
    published: Published | None = None
    skipped: Prose | None = None

    @model_validator(mode="after")
    def _samples_or_reason(self) -> Measurement:
        if (self.skipped is None) == (not self.samples):
            raise ValueError("a measurement has samples, or a reason in `skipped`, and not both")
        if any(len(row) != len(self.columns) for row in (*self.samples, *self.warmups)):
            raise ValueError(f"every sample must have the columns {self.columns}")
        return self


def write_records(path: Path, records: Iterable[Measurement]) -> None:
    """Write records as JSON lines, so that a reader never sees half a file."""
    write_whole(path, "".join(record.model_dump_json(by_alias=True) + "\n" for record in records))


def append_records(path: Path, records: Iterable[Measurement]) -> None:
    """Add records to the end of a file of JSON lines, which is made if it is not there."""
    with path.open("a", encoding="utf-8") as handle:
        handle.writelines(record.model_dump_json(by_alias=True) + "\n" for record in records)


def cut_off(path: Path) -> None:
    """Remove the last line of a file of JSON lines if its end was never written: a kill or a full disk cut it."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as handle:
            handle.truncate(content.rfind(b"\n") + 1)


def read_records(path: Path) -> list[Measurement]:
    """Read JSON lines written by :func:`write_records`.

    Raises:
        InputError: the file cannot be read, or a line is not a record of a known schema.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a file of qexport records (byte {error.start} is not UTF-8); give a records.jsonl"
        ) from error
    records = []
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            records.append(Measurement.model_validate_json(line))
        except ValidationError as error:
            raise InputError(
                f"{path}:{number}: not a qexport record ({error.errors()[0]['msg']}); take the line out, or measure again"
            ) from error
    return records
