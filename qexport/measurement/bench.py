"""Rows side by side: each artifact is probed, asked or skipped in the same way, for ``compare``, ``eval`` and ``gate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import (
    CATALOGUE,
    DISTANCES,
    InputError,
    Measurement,
    Provider,
    Published,
    load_artifact,
    require_known,
    scratch_folder,
)
from qexport.inputs import source_of
from qexport.measurement import probing
from qexport.measurement.answers import Apart
from qexport.measurement.conditions import identity
from qexport.measurement.distributions import DISTRIBUTIONS
from qexport.measurement.feeds import Reader
from qexport.measurement.job import Job
from qexport.measurement.probes import PROBES, Probe, is_timed, probe_of
from qexport.measurement.tasks.evaluate import RowIdentity, evaluate
from qexport.quantization import RECIPES
from qexport.runtime import BATCH_ROWS

if TYPE_CHECKING:
    from qexport.core import Artifact
    from qexport.inputs import Tasks
    from qexport.measurement.feeds import Feed, Texts
    from qexport.measurement.tasks.load import LoadedTask


def timestamp() -> str:
    """The time now in UTC, which names a run."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One row of a table: an artifact, or the reason why there is none."""

    label: str
    artifact: Artifact | None
    model: str = ""
    """Of a row without an artifact."""
    recipe: str = ""
    """Of a row without an artifact."""
    skipped: str = ""
    """Why there is no artifact."""
    stand_in: bool = False
    published: Mapping[str, Published] = field(default_factory=dict)
    """Published figures by metric."""


@dataclass(frozen=True, kw_only=True)
class MeasurableRow(BenchRow):
    """A row that has an artifact."""

    artifact: Artifact


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The conditions that all rows of a run share."""

    run: str
    """The run's name; see :func:`timestamp`."""
    provider: Provider = "cpu"
    threads: int | None = None
    """Threads for the runtime; None takes every processor this process may use."""

    def job(self, row: BenchRow, probe: str, feed: Feed | None, *, metrics: Sequence[str] = ()) -> Job:
        """The job of one probe of one row.

        Args:
            row: a row with an artifact.
            probe: a key of :data:`qexport.measurement.probes.PROBES`.
            feed: tokens; None for a probe that runs nothing.
            metrics: those that are asked for; empty for all that the probe has.
        """
        assert row.artifact is not None, f"{row.label} has no artifact"
        job = Job(
            artifact=row.artifact.path,
            row=row.label,
            probe=probe,
            metrics=tuple(metrics),
            provider=self.provider,
            threads=self.threads,
            published=row.published,
            run=self.run,
            stand_in=row.stand_in,
        )
        if feed is None:
            return job
        return replace(job, tokens=feed.tokens, new_tokens=feed.new_tokens, stop=feed.stop, key=feed.key)

    def probe_beside(
        self,
        baseline: Job | None,
        others: Sequence[Job],
        done: Callable[[list[Measurement]], None] = lambda _: None,
    ) -> list[Measurement]:
        """Run the jobs of one untimed probe, the baseline's first, so that the others are compared with its distributions.

        Args:
            baseline: the job of the row that the others are compared with; None if there is no such row.
            others: the jobs of all other rows.
            done: see :func:`qexport.measurement.probing.measure_rounds`.
        """
        with scratch_folder("baseline") as folder:
            file = Path(folder) / DISTRIBUTIONS
            first = [] if baseline is None else [replace(baseline, distributions=file, is_baseline=True)]
            return self.probe([*first, *(replace(job, distributions=file) for job in others)], done=done)

    def measure(self, job: Job) -> list[Measurement]:
        """Run one job, without rounds; see :func:`qexport.measurement.probing.measure`."""
        return probing.measure(job)

    def probe(
        self, jobs: Sequence[Job], rounds: int = 1, done: Callable[[list[Measurement]], None] = lambda _: None
    ) -> list[Measurement]:
        """Run the jobs of one probe in turn; see :func:`qexport.measurement.probing.measure_rounds`."""
        return [record for records in probing.measure_rounds(jobs, rounds, done=done) for record in records]

    def ask(
        self, row: BenchRow, tasks: Mapping[str, LoadedTask], plan: Tasks, answers: Path, *, rows: int | None = None
    ) -> list[Measurement]:
        """Ask one row the questions of tasks, in a process of its own.

        Args:
            row: a row with an artifact.
            tasks: loaded with the same plan, by name.
            plan: how the tasks are asked.
            answers: file that keeps the answers; those in it are not asked again.
            rows: most requests that are run at once; None takes qexport's choice.
        """
        assert row.artifact is not None, f"{row.label} has no artifact"
        respondent = Apart(
            row.artifact, answers, row=row.label, provider=self.provider, threads=self.threads, rows=rows or BATCH_ROWS
        )
        place = RowIdentity(run=self.run, row=row.label, stand_in=row.stand_in, published=row.published)
        return evaluate(row.artifact, tasks, plan, respondent, place)

    def skip(self, row: BenchRow, metrics: Iterable[str], reason: str = "") -> list[Measurement]:
        """A measurement for each metric that says why there is no figure; without a reason, the row's own."""
        own = {"model": row.model, "recipe": row.recipe} if row.artifact is None else identity(row.artifact)
        return [
            Measurement(
                run=self.run,
                row=row.label,
                stand_in=row.stand_in,
                metric=metric,
                published=row.published.get(metric),
                skipped=reason or row.skipped,
                **own,
            )
            for metric in metrics
        ]


def rows_of_artifacts(paths: Sequence[Path]) -> list[MeasurableRow]:
    """A row for each artifact: its recipe with its nodes, and its folder where two would have the same name.

    Args:
        paths: folders of artifacts of one model.

    Raises:
        InputError: no artifact, artifacts of several models, or an artifact that is named twice.
    """
    artifacts = [load_artifact(path) for path in paths]
    models = sorted({artifact.manifest.model.name for artifact in artifacts})
    if not models:
        raise InputError("no artifact was given; name the folder of one")
    if len(models) > 1:
        raise InputError(f"artifacts of several models, {' and '.join(models)}; evaluate each model by itself")
    plain = []
    for artifact in artifacts:
        manifest = artifact.manifest
        rules = manifest.selection.rules.removeprefix("--nodes ") if manifest.selection else ""
        plain.append(f"{manifest.recipe} ({rules})" if rules else manifest.recipe)
    often, places = Counter(plain), [artifact.path.resolve() for artifact in artifacts]
    for label, place in zip(plain, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{label} in {place.name}: is there twice; name each artifact once")
    # Folders of one name, such as old/int8 and new/int8, differ by the folders that hold them.
    parts = 1 if len({*zip(plain, (place.name for place in places), strict=True)}) == len(places) else 2
    labels = [
        label if often[label] == 1 else f"{label} in {'/'.join(place.parts[-parts:])}"
        for label, place in zip(plain, places, strict=True)
    ]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: two artifacts would have this row; rename a folder")
    return [MeasurableRow(label=label, artifact=artifact) for label, artifact in zip(labels, artifacts, strict=True)]


def measure_artifacts(
    paths: Sequence[Path],
    metrics: Sequence[str],
    texts: Texts,
    *,
    rounds: int,
    provider: Provider = "cpu",
    threads: int | None = None,
) -> list[Measurement]:
    """Measure artifacts of one model side by side: a measurement for each row and metric, in the order of the metrics.

    Args:
        paths: folders of artifacts of one model.
        metrics: names of metrics that a probe yields, without those of sessions.
        texts: see :class:`qexport.measurement.feeds.Texts`.
        rounds: fresh processes per artifact for what is timed.
        provider: see :class:`Bench`.
        threads: see :class:`Bench`.

    Raises:
        InputError: a metric that no probe yields, or see :func:`rows_of_artifacts`.
    """
    require_known(metrics)
    if not metrics:
        raise InputError("no metric is named; name one, such as perplexity")
    for metric in metrics:
        if not probe_of(metric) or CATALOGUE[metric].group == "session":
            raise InputError(f"{metric}: is measured by `qexport compare` or `qexport eval` only; leave it out")
    rows = rows_of_artifacts(paths)
    probing.require_provider(provider)
    bench = Bench(run=timestamp(), provider=provider, threads=threads)
    reader = Reader.of(source_of(rows[0].artifact))
    records: list[Measurement] = []
    for name in dict.fromkeys(probe_of(metric) for metric in CATALOGUE if metric in metrics):
        probe = PROBES[name]
        feed = texts.feed(probe.tokens, reader) if isinstance(probe, Probe) else None
        jobs = [bench.job(row, name, feed, metrics=[each for each in probe.metrics if each in metrics]) for row in rows]
        if set(DISTANCES) & set(probe.metrics):
            base = next((job for job, row in zip(jobs, rows, strict=True) if _is_float(row)), None)
            records += bench.probe_beside(base, [job for job in jobs if job is not base])
        else:
            records += bench.probe(jobs, rounds if is_timed(name) else 1)
    metric_order, row_order = list(CATALOGUE), [row.label for row in rows]
    return sorted(
        (each for each in records if each.metric in metrics),
        key=lambda each: (metric_order.index(each.metric), row_order.index(each.row)),
    )


def _is_float(row: MeasurableRow) -> bool:
    known = RECIPES.get(row.artifact.manifest.recipe)
    return known is not None and known.is_float
