"""The comparison: a model through the rows of an experiment, each measured, and the report written.

Measurements are kept as they come, beside the report's folder, so that a comparison that was cut short can go on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from qexport import fits, measure, pipeline, progress, resume, schedule, targets
from qexport.answering import Apart
from qexport.artifact import Artifact, sweep
from qexport.catalogue import CATALOGUE, metrics_of, require_known, require_tasks
from qexport.effect import choices_in, require_effect
from qexport.errors import InputError, NotComparable, UnsupportedHere, near_names
from qexport.export import Exporter
from qexport.harness.evaluate import Place, evaluate
from qexport.harness.tasks import LoadedTask, load_task, require_plan_used
from qexport.inputs.bundled import find_bundled
from qexport.inputs.experiment import Experiment, Row, default_experiment, load_experiment
from qexport.inputs.models import ModelSource, load_tokenizer, locate_model, stop_ids
from qexport.inputs.prompts import Prompts, encode_prompts, load_prompts
from qexport.inputs.rows import table_rows
from qexport.inputs.shown import shown
from qexport.inputs.sizes import parameter_count, parameters_of
from qexport.inputs.stand_in import Size, make_stand_in, stand_in_config
from qexport.inputs.text import Text, TokenSet, load_text, make_sentences, make_windows
from qexport.interleaved import PROBES_HERE, TIMED, Interleaved
from qexport.measure import PROBES, AnswerKey, Job, Probe
from qexport.pipeline import REFERENCE, Trust
from qexport.recipes import Fp32, Recipe, TorchSchemes, recipe
from qexport.record import Measurement, Published
from qexport.report import check_report_folder, merge, write_report
from qexport.scratch import claimed
from qexport.selection import Selector, parse_selector

if TYPE_CHECKING:
    from qexport.runtime import Provider

_ARTIFACTS = "artifacts"
"""The folder of kept artifacts in a report's folder."""
LATENCY_ROUNDS = 3
"""Fresh processes per artifact where what is timed takes turns of fresh processes."""
DEFAULT_METRICS = (
    "disk_bytes",
    "weight_bytes",
    "loaded_rss_bytes",
    "peak_rss_bytes",
    "final_private_bytes",
    "final_shared_bytes",
    "latency_s",
    "first_token_s",
    "token_latency_s",
    "tokens_per_s",
    "perplexity",
    "sentence_perplexity",
)
"""Of an experiment that names none; on a device those of :data:`DEVICE_METRICS` besides."""
DEVICE_METRICS = ("loaded_device_bytes", "peak_device_bytes")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Choices for a whole comparison."""

    provider: Provider = "cpu"
    threads: int | None = None
    engine: str = "inc"
    """Of the rows that do not name one."""
    exporter: Exporter | None = None
    """None takes the one whose graphs the provider can run."""
    rounds: int | None = None
    """Of fresh processes for what is timed, and a fresh process for each other figure too. None gives each row one
    process, in which what is timed takes turns in short batches; on a device it takes :data:`LATENCY_ROUNDS`."""
    keep_artifacts: bool = False
    trust: Trust = Trust()  # noqa: RUF009  # it is frozen
    stand_in: Size | None = None
    """Random weights of the experiment's architecture instead of the model."""
    resume: bool = False
    """Go on from the records that are there."""
    choices: tuple[str, ...] = ()
    """The options that were typed, each of which must have an effect."""


def experiment_for(spec: str | None, tasks: Sequence[str] = ()) -> Experiment:
    """The experiment meant by a TOML file, a bundled experiment's name, a model, or nothing (the reference model).

    Args:
        spec: see above.
        tasks: of lm-eval, asked besides those of a file's metrics.

    Raises:
        InputError: a file that is no experiment, or that makes a choice that changes nothing.
    """
    spec = spec or REFERENCE
    if spec.endswith(".toml"):
        experiment = load_experiment(Path(spec))
        recipes = [recipe(row.recipe) for row in experiment.rows]
        require_effect(
            choices_in(experiment), _metrics(experiment, CompareOptions(), tasks), recipes, place=f"{spec}: "
        )
        return experiment
    if not Path(spec).exists() and (known := find_bundled(f"models/{spec}.toml")) is not None:
        return load_experiment(known)
    return default_experiment(spec)


def only(experiment: Experiment, recipes: Sequence[str]) -> Experiment:
    """The experiment with the rows of some recipes only.

    Raises:
        InputError: a recipe that does not exist, or that the experiment has no row of.
    """
    for name in recipes:
        if list(recipes).count(name) > 1:
            raise InputError(f"--recipes {name}: is there twice; leave one out")
        if recipe(name).name not in {row.recipe for row in experiment.rows}:
            known = near_names(name, (row.recipe for row in experiment.rows))
            raise InputError(f"{name}: {experiment.title} has no row of this recipe; {known}")
    return experiment.model_copy(update={"rows": tuple(row for row in experiment.rows if row.recipe in recipes)})


def measuring(experiment: Experiment, metrics: Sequence[str]) -> Experiment:
    """The experiment with some metrics only.

    Raises:
        InputError: a metric that does not exist.
    """
    require_known(metrics)
    return experiment.model_copy(update={"metrics": tuple(dict.fromkeys(metrics))})


def report(
    sources: Sequence[Path], folder: Path, *, title: str | None = None, overwrite: bool = False
) -> list[Measurement]:
    """One report of the records of several runs, or machines.

    Args:
        sources: report folders, or files of records.
        folder: the report's folder.
        title: of the report; None names the models.
        overwrite: replace a report that is there.

    Raises:
        InputError: no records, the same ones twice, or ``folder`` must not be replaced.
    """
    check_report_folder(folder, overwrite=overwrite)
    records = merge(sources)
    models = ", ".join(dict.fromkeys(record.model for record in records))
    write_report(records, folder, title=title or f"Quantization of {models}", overwrite=overwrite)
    return records


def compare(
    experiment: Experiment,
    folder: Path,
    *,
    evaluation: Text | None = None,
    calibration: Text | None = None,
    tasks: Sequence[str] = (),
    options: CompareOptions = CompareOptions(),
    overwrite: bool = False,
) -> list[Measurement]:
    """Take a model through the rows of an experiment, measure each, and write the report.

    Args:
        experiment: model, rows, metrics, texts, prompts and published figures.
        folder: the report's folder.
        evaluation: text to measure on; None takes the experiment's.
        calibration: text for activation ranges; None takes the experiment's.
        tasks: of lm-eval, besides those that the experiment's metrics are of.
        options: see :class:`CompareOptions`.
        overwrite: replace a report that is there.

    Returns:
        One measurement for each row and metric, skipped ones included.

    Raises:
        QExportError: see the errors of the parts; a row that this machine cannot run is skipped with its reason.
    """
    check_report_folder(folder, overwrite=overwrite or options.resume)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed(Path(os.path.abspath(folder))):  # noqa: PTH100 (links stay links)
        return _compare(
            experiment,
            folder,
            evaluation=evaluation,
            calibration=calibration,
            tasks=tasks,
            options=options,
            overwrite=overwrite,
        )


def _compare(
    experiment: Experiment,
    folder: Path,
    *,
    evaluation: Text | None,
    calibration: Text | None,
    tasks: Sequence[str],
    options: CompareOptions,
    overwrite: bool,
) -> list[Measurement]:
    resume.check_journal(folder, resume=options.resume, overwrite=overwrite)
    if tasks:
        require_tasks(tasks)
    measure.require_provider(options.provider)
    wanted = _wanted_rows(experiment, options)
    metrics = _metrics(experiment, options, tasks)
    require_effect(options.choices, metrics, [row.recipe for row in wanted])
    for row in wanted:
        pipeline.require_engine(row.recipe)
    evaluation = evaluation or load_text(experiment.evaluation_path)
    calibration = calibration or load_text(experiment.calibration_path)
    _keep_apart(evaluation, calibration)
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (as artifact.whole_folder takes it: links stay links)
    with _work_folder(folder) as work:
        source = _source(experiment, options, work)
        feeds = _feeds(experiment, source, evaluation, metrics)
        if any(row.calibrated for row in wanted):
            pipeline.calibration_windows(source, calibration)  # its defects are found before anything is built
        journal = resume.Journal(folder, resume=options.resume)
        run = _Run(
            experiment=experiment,
            options=options,
            source=source,
            feeds=feeds,
            metrics=metrics,
            journal=journal,
            began=journal.run or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        journal.require_like(run.conditions())
        records = run.measured(wanted, calibration, work)
        progress.stage("writing the report", schedule.expected_s(schedule.REPORT))
        title = experiment.title + (f", stand-in ({options.stand_in})" if options.stand_in else "")
        kept = work if options.keep_artifacts else None
        if options.resume and (folder / _ARTIFACTS).is_dir():
            kept = _carried_over(folder / _ARTIFACTS, work, all_of_them=options.keep_artifacts)
        write_report(records, folder, title=title, overwrite=overwrite or options.resume, artifacts=kept)
        journal.close()
    return records


def _carried_over(before: Path, work: Path, *, all_of_them: bool) -> Path:
    """A folder with the artifacts that an earlier run kept, and with ``all_of_them`` those of this run too."""
    place = work if all_of_them else work / f".{_ARTIFACTS}"
    for artifact in before.iterdir():
        if not (place / artifact.name).exists():
            shutil.copytree(artifact, place / artifact.name)
    return place


def _metrics(experiment: Experiment, options: CompareOptions, tasks: Sequence[str]) -> tuple[str, ...]:
    own = experiment.metrics
    if own is None:
        own = DEFAULT_METRICS + (DEVICE_METRICS if options.provider == "cuda" else ())
    return tuple(dict.fromkeys((*own, *(metric.name for task in tasks for metric in metrics_of(task)))))


def _source(experiment: Experiment, options: CompareOptions, work: Path) -> ModelSource:
    """The model, or what stands in for it, which must fit into memory once it is exported.

    Raises:
        UnsupportedHere: it does not fit.
    """
    if options.stand_in is None:
        source = pipeline.locate(experiment.model, experiment.revision, options.trust)
        if not source.trust_remote_code:
            fits.require_export_fit(parameter_count(source.path), source.name)
        return source
    name = f"{experiment.name}-stand-in"
    fits.require_export_fit(parameters_of(stand_in_config(experiment, size=options.stand_in)), name)
    return locate_model(make_stand_in(experiment, work / name, size=options.stand_in))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A row of the table with what its words stand for."""

    row: Row
    recipe: Recipe
    selector: Selector | None

    @property
    def label(self) -> str:
        """The recipe, with its nodes where it takes a choice of them, and what else was chosen."""
        nodes = [(self.selector or targets.default_selector(self.recipe)).label] if self.recipe.takes_nodes else []
        notes = nodes + [_words(name, value) for name, value in self.row.options.items()]
        return shown(f"{self.recipe.name} ({', '.join(notes)})") if notes else self.recipe.name

    @property
    def calibrated(self) -> bool:
        """Say whether the recipe learns from calibration text."""
        scheme = self.recipe.scheme
        return not isinstance(scheme, Fp32 | TorchSchemes) and bool(scheme.calibration)


def _words(option: str, value: object) -> str:
    """A choice in the words of a label: ``block size 64``, ``no smooth``."""
    name = option.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def _wanted_rows(experiment: Experiment, options: CompareOptions) -> list[_Wanted]:
    """The rows of an experiment, read before any work is done on them."""
    rows: list[_Wanted] = []
    for row in experiment.rows:
        wanted = _Wanted(
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
    """A row's recipe with its options, and with what holds for the whole comparison: engine and target."""
    common: dict[str, object] = {"engine": options.engine, "target": options.provider}
    if "per_token" in row.options:
        del common["engine"]  # no engine writes it
    taken = {name: value for name, value in common.items() if name in chosen.scheme.OPTIONS}
    return chosen.configured(taken | row.options)


@dataclass(frozen=True, kw_only=True)
class _Feed:
    """What a probe is fed."""

    tokens: TokenSet
    new_tokens: int = 0
    stop: tuple[int, ...] = ()
    key: AnswerKey | None = None


def _feeds(experiment: Experiment, source: ModelSource, evaluation: Text, metrics: Collection[str]) -> dict[str, _Feed]:
    """The feed of each probe that yields one of the metrics: windows, sentences, prompts, or a session's one question."""
    tokenizer, context, rows = load_tokenizer(source), source.context_length, table_rows(source)

    def windows() -> _Feed:
        window = min(experiment.window, context)
        return _Feed(tokens=make_windows(evaluation, tokenizer, window=window, limit=experiment.windows, rows=rows))

    def sentences() -> _Feed:
        limit = experiment.sentences
        return _Feed(tokens=make_sentences(evaluation, tokenizer, limit=limit, max_tokens=context, rows=rows))

    def prompts() -> _Feed:
        new_tokens = experiment.generation.new_tokens
        given = load_prompts(experiment.prompts_path, chat=experiment.generation.chat)
        tokens = encode_prompts(given, tokenizer, new_tokens=new_tokens, context=context, rows=rows)
        return _Feed(tokens=tokens, new_tokens=new_tokens)

    def question() -> _Feed:
        plan = experiment.session
        if plan is None:
            given = load_prompts(experiment.prompts_path, chat=experiment.generation.chat)
            asked, new_tokens = replace(given, texts=given.texts[:1]), experiment.generation.new_tokens
        else:
            asked = Prompts(origin="the experiment", texts=(plan.prompt,), chat=plan.chat)
            new_tokens = plan.max_tokens
        return _Feed(
            tokens=encode_prompts(asked, tokenizer, new_tokens=new_tokens, context=context, rows=rows),
            new_tokens=new_tokens,
            stop=stop_ids(source.path, tokenizer),
            key=AnswerKey(
                read=partial(tokenizer.decode, skip_special_tokens=True),
                prompt=asked.texts[0],
                expected=() if plan is None else plan.expected,
            ),
        )

    makers = {"windows": windows, "sentences": sentences, "prompts": prompts}
    return {
        name: question() if name == "session" else makers[probe.tokens]()
        for name, probe in PROBES.items()
        if isinstance(probe, Probe) and set(probe.metrics) & set(metrics)
    }


@dataclass(frozen=True, kw_only=True)
class _Built:
    """A row of the table with its artifact, or the reason why there is none."""

    wanted: _Wanted
    artifact: Artifact | None
    skipped: str = ""


_Exported = Callable[[Exporter], Artifact]
"""The model as an fp32 artifact of an exporter, made when it is first asked for."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A comparison under way."""

    experiment: Experiment
    options: CompareOptions
    source: ModelSource
    feeds: dict[str, _Feed]
    metrics: tuple[str, ...]
    journal: resume.Journal
    began: str

    def conditions(self) -> resume.Expected:
        """What records that are there must have been made under to be kept."""
        return resume.Expected(
            model=self.source.name,
            stand_in=self.options.stand_in is not None,
            provider=self.options.provider,
            threads=self.options.threads,
            texts={metric: feed.tokens.sha256 for name, feed in self.feeds.items() for metric in PROBES[name].metrics},
        )

    def measured(self, wanted: Sequence[_Wanted], calibration: Text, work: Path) -> list[Measurement]:
        """All measurements, in the order of the metrics: those that are there already, and what is missing.

        A timed probe is taken for all rows anew if it is missing for one: ratios are of figures taken in turn.
        """
        probes = [name for name, probe in PROBES.items() if set(probe.metrics) & set(self.metrics)]
        missing = {name: self._missing(name, wanted) for name in probes}
        tasks, away = self._load_tasks()
        unasked = {row.label: self._unasked(row, tasks) for row in wanted}
        unanswered = [row for row in wanted if unasked[row.label]]
        rows = {row.label: row for several in (*missing.values(), unanswered) for row in several}
        with Interleaved(self.journal.add) as interleaved:
            built = self._built(list(rows.values()), missing, interleaved, calibration, work) if rows else {}
        for name, several in missing.items():
            if not self._interleaves(name) or (interleaved.crowded and name in TIMED):
                self._probe(name, [built[row.label] for row in several])
        for row in unanswered:
            self._ask(built[row.label], unasked[row.label])
        for task, reason in away.items():
            for row in wanted:
                names = self._metrics_of([task])
                if not self.journal.has(row.label, names):
                    nothing = _Built(wanted=row, artifact=None, skipped=reason)
                    self.journal.add([self._skipped(nothing, name) for name in names])
        return self._in_order(wanted)

    def _unasked(self, row: _Wanted, tasks: Mapping[str, LoadedTask]) -> dict[str, LoadedTask]:
        return {name: task for name, task in tasks.items() if not self.journal.has(row.label, self._metrics_of([name]))}

    def _metrics_of(self, tasks: Iterable[str]) -> list[str]:
        return [metric.name for task in tasks for metric in metrics_of(task) if metric.name in self.metrics]

    def _load_tasks(self) -> tuple[dict[str, LoadedTask], dict[str, str]]:
        """The tasks that yield one of the metrics, and those whose questions cannot be had, with the reason.

        Raises:
            NotComparable: records that are there are of other questions, or of other examples ahead of them.
        """
        names = dict.fromkeys(CATALOGUE[metric].task for metric in self.metrics if CATALOGUE[metric].task)
        tasks: dict[str, LoadedTask] = {}
        away: dict[str, str] = {}
        for name in names:
            try:
                tasks[name] = load_task(name, self.experiment.tasks)
            except UnsupportedHere as error:
                away[name] = str(error)
        if names:
            require_plan_used(self.experiment.tasks, tasks.values())
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

    def _ask(self, built: _Built, tasks: Mapping[str, LoadedTask]) -> None:
        """One row through all tasks."""
        metrics = [metric.name for task in tasks for metric in metrics_of(task)]
        if built.artifact is None:
            self.journal.add([self._skipped(built, metric) for metric in metrics])
            return
        respondent = Apart(
            built.artifact,
            self.journal.answers(built.artifact.sha256),
            row=built.wanted.label,
            provider=self.options.provider,
            threads=self.options.threads,
        )
        place = Place(
            run=self.began,
            row=built.wanted.label,
            stand_in=self.options.stand_in is not None,
            published=self._published(built.wanted, metrics),
        )
        self.journal.add(evaluate(built.artifact, tasks, self.experiment.tasks, respondent, place))

    def _missing(self, name: str, wanted: Sequence[_Wanted]) -> list[_Wanted]:
        metrics = [metric for metric in PROBES[name].metrics if metric in self.metrics]
        missing = [row for row in wanted if not self.journal.has(row.label, metrics)]
        probe = PROBES[name]
        return list(wanted) if missing and isinstance(probe, Probe) and probe.rounds else missing

    def _interleaves(self, probe: str) -> bool:
        """True if the one process of each row answers a probe."""
        return probe in PROBES_HERE and self.options.rounds is None and self.options.provider == "cpu"

    def _built(
        self,
        wanted: Sequence[_Wanted],
        missing: Mapping[str, Sequence[_Wanted]],
        interleaved: Interleaved,
        calibration: Text,
        work: Path,
    ) -> dict[str, _Built]:
        """The artifacts of rows; while one is made, the rows before it are measured where that disturbs nothing."""

        @cache
        def exported(exporter: Exporter) -> Artifact:
            return pipeline.export_source(self.source, work / f"fp32-{exporter}", exporter)

        own = {name: {row.label for row in several} for name, several in missing.items() if self._interleaves(name)}
        timed = [name for name in TIMED if own.get(name)]
        ordered = sorted(wanted, key=lambda row: schedule.place(row.recipe.name))
        after = schedule.expected_s(schedule.REPORT)
        plan = schedule.Schedule(
            [
                *(schedule.row_s(row.recipe.name, scored=bool(own)) for row in ordered),
                schedule.expected_s(schedule.SCORING),
                *([schedule.expected_s(schedule.TIMING)] * (len(wanted) * len(timed))),
                after,
            ]
        )
        built: dict[str, _Built] = {}
        for number, row in enumerate(ordered, start=1):
            plan.announce(f"row {number} of {len(ordered)}, {row.label}")
            made = built[row.label] = self._build_row(row, exported, calibration, work)
            jobs: dict[str, Job] = {}
            for name in (name for name, rows in own.items() if row.label in rows):
                if made.artifact is None:
                    self.journal.add([self._skipped(made, metric) for metric in PROBES[name].metrics])
                else:
                    jobs[name] = self._job(name, row, made.artifact)
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

    def _build_row(self, wanted: _Wanted, exported: _Exported, calibration: Text, work: Path) -> _Built:
        folder = work / re.sub(r"[^a-z0-9]+", "-", wanted.label.lower()).strip("-")
        try:
            artifact = self._artifact(wanted, exported, calibration, folder)
        except UnsupportedHere as error:
            return _Built(wanted=wanted, artifact=None, skipped=str(error))
        self.journal.require_same_artifact(wanted.label, artifact.sha256)
        return _Built(wanted=wanted, artifact=artifact)

    def _artifact(self, wanted: _Wanted, exported: _Exported, calibration: Text, folder: Path) -> Artifact:
        chosen, options = wanted.recipe, self.options
        exporter = options.exporter or targets.exporter_for(chosen.scheme, options.provider)
        match chosen.scheme:
            case Fp32():
                return exported(exporter)
            case scheme if isinstance(scheme, TorchSchemes):
                on_provider = replace(chosen, scheme=replace(scheme, provider=options.provider))
                return pipeline.apply_torch(self.source, on_provider, folder)
            case scheme:
                targets.require(chosen)
                fp32 = exported(exporter)
                tokens = pipeline.calibration_tokens(fp32, calibration) if scheme.calibration else None
                return pipeline.apply_onnx(fp32, chosen, folder, selector=wanted.selector, tokens=tokens)

    def _probe(self, name: str, rows: Sequence[_Built]) -> None:
        """Measure one probe of all rows that miss it, close to each other in time."""
        probe, jobs = PROBES[name], []
        for row in rows:
            if row.artifact is not None:
                jobs.append(self._job(name, row.wanted, row.artifact))
            else:
                self.journal.add([self._skipped(row, metric) for metric in probe.metrics])
        rounds = (self.options.rounds or LATENCY_ROUNDS) if isinstance(probe, Probe) and probe.rounds else 1
        measure.measure_rounds(jobs, rounds, done=self.journal.add)

    def _job(self, name: str, wanted: _Wanted, artifact: Artifact) -> Job:
        feed = self.feeds.get(name)
        job = Job(
            artifact=artifact.path,
            row=wanted.label,
            probe=name,
            metrics=tuple(metric for metric in PROBES[name].metrics if metric in self.metrics),
            provider=self.options.provider,
            threads=self.options.threads,
            published=self._published(wanted, PROBES[name].metrics),
            run=self.began,
            stand_in=self.options.stand_in is not None,
        )
        if feed is None:
            return job
        return replace(job, tokens=feed.tokens, new_tokens=feed.new_tokens, stop=feed.stop, key=feed.key)

    def _published(self, wanted: _Wanted, metrics: Sequence[str]) -> dict[str, Published]:
        found = {metric: self.experiment.published_for(wanted.row, metric) for metric in metrics}
        return {metric: figure for metric, figure in found.items() if figure is not None}

    def _skipped(self, built: _Built, metric: str) -> Measurement:
        return Measurement(
            run=self.began,
            row=built.wanted.label,
            model=self.source.name,
            stand_in=self.options.stand_in is not None,
            recipe=built.wanted.recipe.name,
            metric=metric,
            published=self.experiment.published_for(built.wanted.row, metric),
            skipped=built.skipped,
        )

    def _in_order(self, wanted: Sequence[_Wanted]) -> list[Measurement]:
        order = {row.label: index for index, row in enumerate(wanted)}
        names = list(CATALOGUE)
        kept = [record for record in self.journal.records if record.metric in self.metrics and record.row in order]
        return sorted(kept, key=lambda record: (names.index(record.metric), order[record.row]))


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A folder for artifacts beside the report, on the same disk; removed at the end, or by the next run if killed."""
    place = folder.with_name(f"{folder.name}.work")
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(place)
    work = folder.parent / f".{place.name}.new-{os.getpid()}"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _keep_apart(evaluation: Text, calibration: Text) -> None:
    both = set(evaluation.documents) & set(calibration.documents)
    if both:
        raise InputError(
            f"{evaluation.origin} and {calibration.origin}: {len(both)} documents are in both; "
            "quality must be measured on text that calibration never saw"
        )
