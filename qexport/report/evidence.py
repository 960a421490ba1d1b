"""Finds an artifact in the records of a comparison: its perplexity, and the ratio to the baseline of the same run.

The figures are those of the report on the same records: both come from ``qexport.report.table``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from qexport.core import InputError, Interval, Measurement
from qexport.report.figures import Estimate
from qexport.report.merge import merge_runs
from qexport.report.table import build_table

_METRIC = "perplexity"


class _Value(BaseModel):
    # A broken model scores NaN or infinity. JSON's null would lose them, and JavaScript reads no NaN.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class EvidenceFigure(_Value):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Evidence(_Value):
    """The perplexity of one artifact, and the input that it was measured on."""

    row: str
    """The artifact's row in the report."""
    perplexity: EvidenceFigure
    baseline: str
    """The row that the ratio refers to: ``fp32``."""
    ratio: EvidenceFigure | None
    """The ratio, paired over the same windows; None if the artifact is the baseline itself."""
    text: str
    sequence: str
    """The form of the sequences: ``windows of at most 384 tokens``."""
    text_sha256: str
    """Digest of the token ids."""
    windows: int
    tokens: int
    """The number of scored tokens."""
    runtime: str
    machine: str
    threads: int
    provider: str
    device: str
    """The name of the accelerator; empty on the CPU."""


def find_evidence(records: Path, artifact_sha256: str) -> Evidence:
    """Find an artifact's perplexity in the records of a comparison.

    Args:
        records: a report's folder, or a file of records.
        artifact_sha256: the artifact's :attr:`qexport.core.artifact.Artifact.sha256`.

    Raises:
        InputError: the records have no perplexity of this artifact, or one without meaning: skipped, of random weights,
                without a baseline, or in several runs.
        NotComparable: the run's rows were measured under different conditions.
    """
    merged = merge_runs([records])
    own = _own(merged, artifact_sha256, records)
    run = build_table([record for record in merged if record.run == own.run]).runs[0]
    rows = {row.name: row.figure(_METRIC) for row in run.rows}
    baseline = None if run.baseline is None else run.baseline.name
    if baseline is None or not isinstance(rows[baseline], Estimate):
        raise InputError(
            f"{records}: no fp32 row with a perplexity to compare {own.row} with; "
            "run `qexport compare` with the row fp32 and the metric perplexity too"
        )
    figure = rows[own.row]
    assert isinstance(figure, Estimate)  # its record has samples
    conditions = own.conditions
    return Evidence(
        row=own.row,
        perplexity=_figure(figure.interval),
        baseline=baseline,
        ratio=None if figure.ratio is None else _figure(figure.ratio),
        text=conditions.text,
        sequence=conditions.sequence,
        text_sha256=conditions.text_sha256,
        windows=figure.sequences,
        tokens=figure.tokens,
        runtime=conditions.runtime,
        machine=conditions.machine,
        threads=conditions.threads,
        provider=conditions.provider,
        device=conditions.device,
    )


def _own(records: Sequence[Measurement], artifact_sha256: str, source: Path) -> Measurement:
    """The one record of the artifact's perplexity."""
    of_artifact = [record for record in records if record.artifact_sha256 == artifact_sha256]
    if not of_artifact:
        there = ", ".join(dict.fromkeys(record.row for record in records))
        raise InputError(
            f"{source}: no record of this artifact ({artifact_sha256[:12]}), only of {there} as they were then; "
            "give the records of the comparison that measured it, or measure again with `qexport compare --keep-artifacts`"
        )
    row = of_artifact[0].row
    found = [record for record in of_artifact if record.metric == _METRIC]
    if not found:
        raise InputError(f"{source}: {row} has no perplexity; run `qexport compare` with the metric perplexity too")
    if found[0].stand_in:
        raise InputError(
            f"{source}: {row} is of a stand-in with random weights, whose perplexity means nothing; measure the model itself"
        )
    runs = dict.fromkeys(record.run for record in found)
    if len(runs) > 1:
        raise InputError(
            f"{source}: {row} was measured in {len(runs)} runs ({', '.join(runs)}); give the records of one"
        )
    measured = next((record for record in found if record.skipped is None), None)
    if measured is None:
        raise InputError(f"{source}: the perplexity of {row} was skipped ({found[0].skipped}); measure it again")
    return measured


def _figure(interval: Interval) -> EvidenceFigure:
    return EvidenceFigure(value=interval.value, low=interval.low, high=interval.high)
