"""A comparison under way: artifacts are made, measured, and kept in the journal."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from qexport import exporting, quantization
from qexport.comparison import schedule
from qexport.comparison.journal import Expected, Journal
from qexport.comparison.rows import LATENCY_ROUNDS, CompareOptions, WantedRow
from qexport.core import (
    CATALOGUE,
    DISTANCES,
    Artifact,
    Exporter,
    Measurement,
    NotComparable,
    UnsupportedHere,
    metrics_of,
)
from qexport.inputs import Experiment, ModelSource, Prompts, Text, load_prompts, stop_ids
from qexport.measurement import (
    PROBES,
    PROBES_HERE,
    TIMED,
    AnswerKey,
    Bench,
    BenchRow,
    Feed,
    Interleaved,
    Job,
    LoadedTask,
    Probe,
    Reader,
    Texts,
    is_timed,
    load_tasks,
)
from qexport.quantization import Fp32, TorchSchemes


def feeds_of(
    experiment: Experiment, source: ModelSource, evaluation: Text, metrics: Collection[str]
) -> dict[str, Feed]:
    """The feed of each probe that yields one of the metrics, by the probe's name.

    Raises:
        InputError: a text is too short, or the model has no row for a token.
    """
    reader, chat = Reader.of(source), experiment.generation.chat
    asked = {
        name: probe.tokens
        for name, probe in PROBES.items()
        if isinstance(probe, Probe) and set(probe.metrics) & set(metrics)
    }
    own_prompt = experiment.session is not None
    prompted = any(kind == "prompts" and not (own_prompt and name == "session") for name, kind in asked.items())
    texts = Texts(
        text=evaluation,
        prompts=load_prompts(experiment.prompts_path, chat=chat) if prompted else None,
        window=experiment.window,
        windows=experiment.windows,
        sentences=experiment.sentences,
        new_tokens=experiment.generation.new_tokens,
    )
    return {
        name: _question(experiment, source, texts, reader) if name == "session" else texts.feed(kind, reader)
        for name, kind in asked.items()
    }


def _question(experiment: Experiment, source: ModelSource, texts: Texts, reader: Reader) -> Feed:
    """The one question of a session: the experiment's, or else the first prompt."""
    plan = experiment.session
    if plan is None:
        assert texts.prompts is not None, "the prompts were not loaded"
        asked, new_tokens = replace(texts.prompts, texts=texts.prompts.texts[:1]), texts.new_tokens
    else:
        asked = Prompts(origin="the experiment", texts=(plan.prompt,), chat=plan.chat)
        new_tokens = plan.max_tokens
    return Feed(
        tokens=texts.encoded(asked, reader, new_tokens),
        new_tokens=new_tokens,
        stop=stop_ids(source.path, reader.tokenizer),
        key=AnswerKey(
            read=partial(reader.tokenizer.decode, skip_special_tokens=True),
            prompt=asked.texts[0],
            expected=() if plan is None else plan.expected,
        ),
    )


def _baseline(wanted: Sequence[WantedRow]) -> str:
    """The label of the row that the others are compared with; empty without a row in floating point."""
    return next((row.label for row in wanted if row.recipe.is_float), "")


_Exported = Callable[[Exporter], Artifact]
"""Gives the fp32 artifact of an exporter, which is made on the first call."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A comparison under way."""

    experiment: Experiment
    options: CompareOptions
    source: ModelSource
    feeds: dict[str, Feed]
    metrics: tuple[str, ...]
    journal: Journal
    bench: Bench

    def conditions(self) -> Expected:
        """The conditions that a kept record must have been made under."""
        return Expected(
            model=self.source.name,
            stand_in=self.options.stand_in is not None,
            provider=self.options.provider,
            threads=self.options.threads,
            texts={metric: feed.tokens.sha256 for name, feed in self.feeds.items() for metric in PROBES[name].metrics},
        )

    def measured(self, wanted: Sequence[WantedRow], calibration: Text, work: Path) -> list[Measurement]:
        """All measurements in the order of the metrics: those of the journal, and those that it misses.

        A timed probe is taken for all rows anew if it is missing for one: ratios are of figures taken in turn.
        """
        probes = [name for name, probe in PROBES.items() if set(probe.metrics) & set(self.metrics)]
        missing = {name: self._missing(name, wanted) for name in probes}
        tasks, away = self._load_tasks()
        unasked = {row.label: self._unasked(row, tasks) for row in wanted}
        unanswered = [row for row in wanted if unasked[row.label]]
        rows = {row.label: row for several in (*missing.values(), unanswered) for row in several}
        base = _baseline(wanted)
        with Interleaved(self.journal.add) as interleaved:
            built = self._built(list(rows.values()), missing, interleaved, calibration, work) if rows else {}
        for name, several in missing.items():
            if not self._interleaves(name) or (interleaved.crowded and name in TIMED):
                self._probe(name, [built[row.label] for row in several], base)
        for row in unanswered:
            self._ask(built[row.label], unasked[row.label])
        for task, reason in away.items():
            for row in wanted:
                names = self._metrics_of([task])
                if not self.journal.has(row.label, names):
                    self._skip(self._row(row, None, reason), names)
        return self._in_order(wanted)

    def _unasked(self, row: WantedRow, tasks: Mapping[str, LoadedTask]) -> dict[str, LoadedTask]:
        return {name: task for name, task in tasks.items() if not self.journal.has(row.label, self._metrics_of([name]))}

    def _metrics_of(self, tasks: Iterable[str]) -> list[str]:
        return [metric.name for task in tasks for metric in metrics_of(task) if metric.name in self.metrics]

    def _load_tasks(self) -> tuple[dict[str, LoadedTask], dict[str, str]]:
        """The tasks that yield one of the metrics, and those whose questions cannot be had, with the reason.

        Raises:
            NotComparable: records that are there are of other questions, or of other examples ahead of them.
        """
        names = dict.fromkeys(CATALOGUE[metric].task for metric in self.metrics if CATALOGUE[metric].task)
        tasks, away = load_tasks(names, self.experiment.tasks)
        for record in self.journal.records:
            task = tasks.get(CATALOGUE[record.metric].task)
            if (
                task
                and record.skipped is None
                and (
                    record.facts.get("data_sha256") != task.data_sha256
                    or record.facts.get("plan_sha256") != self.experiment.tasks.sha256
                )
            ):
                raise NotComparable(
                    f"{record.metric} of {record.row}: cannot be resumed, the questions or examples, or how they are asked, have changed; "
                    "start anew with --overwrite"
                )
        return tasks, away

    def _ask(self, row: BenchRow, tasks: Mapping[str, LoadedTask]) -> None:
        """Ask one row all tasks."""
        if row.artifact is None:
            self._skip(row, [metric.name for task in tasks for metric in metrics_of(task)])
            return
        answers = self.journal.answers(row.artifact.sha256)
        self.journal.add(self.bench.ask(row, tasks, self.experiment.tasks, answers))

    def _skip(self, row: BenchRow, metrics: Iterable[str]) -> None:
        self.journal.add(self.bench.skip(row, metrics))

    def _missing(self, name: str, wanted: Sequence[WantedRow]) -> list[WantedRow]:
        metrics = self._asked(name)
        missing = [row for row in wanted if not self.journal.has(row.label, metrics)]
        if missing and is_timed(name):
            return list(wanted)
        again = _baseline(wanted) if missing and self._compares(name) else ""
        return [row for row in wanted if row in missing or row.label == again]

    def _asked(self, probe: str) -> list[str]:
        return [metric for metric in PROBES[probe].metrics if metric in self.metrics]

    def _compares(self, probe: str) -> bool:
        """True if rows are compared with the baseline's distributions."""
        return not set(DISTANCES).isdisjoint(self._asked(probe))

    def _interleaves(self, probe: str) -> bool:
        """True if each row's own process answers the probe, and no fresh process."""
        return probe in PROBES_HERE and self.options.rounds is None and self.options.provider == "cpu"

    def _built(
        self,
        wanted: Sequence[WantedRow],
        missing: Mapping[str, Sequence[WantedRow]],
        interleaved: Interleaved,
        calibration: Text,
        work: Path,
    ) -> dict[str, BenchRow]:
        """The artifacts of rows. While one is made, earlier rows are measured where this disturbs no figure."""

        @cache
        def exported(exporter: Exporter) -> Artifact:
            return exporting.export_source(self.source, work / f"fp32-{exporter}", exporter)

        own = {name: {row.label for row in several} for name, several in missing.items() if self._interleaves(name)}
        timed = [name for name in TIMED if own.get(name)]
        base = _baseline(wanted) if any(map(self._compares, own)) else ""
        # The other rows are compared with the baseline's distributions, so its text is scored first.
        ordered = sorted(wanted, key=lambda row: (row.label != base, schedule.place(row.recipe)))
        after = schedule.expected_s(schedule.REPORT)
        plan = schedule.Schedule(
            [
                *(schedule.row_s(row.recipe, scored=bool(own)) for row in ordered),
                schedule.expected_s(schedule.SCORING),
                *([schedule.expected_s(schedule.TIMING)] * (len(wanted) * len(timed))),
                after,
            ]
        )
        built: dict[str, BenchRow] = {}
        for number, row in enumerate(ordered, start=1):
            plan.announce(f"row {number} of {len(ordered)}, {row.label}")
            made = built[row.label] = self._build_row(row, exported, calibration, work)
            jobs: dict[str, Job] = {}
            for name in (name for name, rows in own.items() if row.label in rows):
                if made.artifact is None:
                    self._skip(made, PROBES[name].metrics)
                else:
                    jobs[name] = self._job(name, made)
                    if self._compares(name):
                        jobs[name] = interleaved.compared(jobs[name], is_baseline=row.label == base)
            if jobs:
                interleaved.start(jobs)
            interleaved.collect()
            plan.done()
        plan.announce("scoring text")
        interleaved.collect(wait=True)
        plan.done()
        if timed and not interleaved.crowded:
            interleaved.time(left_s=after * plan.pace)
        return built

    def _build_row(self, wanted: WantedRow, exported: _Exported, calibration: Text, work: Path) -> BenchRow:
        folder = work / re.sub(r"[^a-z0-9]+", "-", wanted.label.lower()).strip("-")
        try:
            artifact = self._artifact(wanted, exported, calibration, folder)
        except UnsupportedHere as error:
            return self._row(wanted, None, str(error))
        self.journal.require_same_artifact(wanted.label, artifact.sha256)
        return self._row(wanted, artifact)

    def _artifact(self, wanted: WantedRow, exported: _Exported, calibration: Text, folder: Path) -> Artifact:
        chosen, options = wanted.recipe, self.options
        exporter = options.exporter or chosen.exporter_for(options.provider)
        match chosen.scheme:
            case Fp32():
                return exported(exporter)
            case scheme if isinstance(scheme, TorchSchemes):
                on_provider = replace(chosen, scheme=replace(scheme, provider=options.provider))
                return quantization.apply_torch(self.source, on_provider, folder)
            case scheme:
                chosen.require_target()
                fp32 = exported(exporter)
                tokens = quantization.calibration_tokens(fp32, calibration) if scheme.calibration else None
                return quantization.apply_onnx(fp32, chosen, folder, selector=wanted.selector, tokens=tokens)

    def _probe(self, name: str, rows: Sequence[BenchRow], base: str) -> None:
        """Measure one probe of all rows that miss it, close to each other in time."""
        jobs = []
        for row in rows:
            if row.artifact is not None:
                jobs.append(self._job(name, row))
            else:
                self._skip(row, PROBES[name].metrics)
        if self._compares(name):
            first = next((job for job in jobs if job.row == base), None)
            self.bench.probe_beside(first, [job for job in jobs if job is not first], done=self.journal.add)
            return
        rounds = (self.options.rounds or LATENCY_ROUNDS) if is_timed(name) else 1
        self.bench.probe(jobs, rounds, done=self.journal.add)

    def _job(self, name: str, row: BenchRow) -> Job:
        return self.bench.job(row, name, self.feeds.get(name), metrics=self._asked(name))

    def _row(self, wanted: WantedRow, artifact: Artifact | None, skipped: str = "") -> BenchRow:
        published = {metric: self.experiment.published_for(wanted.row, metric) for metric in CATALOGUE}
        return BenchRow(
            label=wanted.label,
            artifact=artifact,
            model=self.source.name,
            recipe=wanted.recipe.name,
            skipped=skipped,
            stand_in=self.options.stand_in is not None,
            published={metric: figure for metric, figure in published.items() if figure is not None},
        )

    def _in_order(self, wanted: Sequence[WantedRow]) -> list[Measurement]:
        order = {row.label: index for index, row in enumerate(wanted)}
        names = list(CATALOGUE)
        kept = [record for record in self.journal.records if record.metric in self.metrics and record.row in order]
        return sorted(kept, key=lambda record: (names.index(record.metric), order[record.row]))
