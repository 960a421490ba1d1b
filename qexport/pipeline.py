"""The verbs, as plain functions: the only module that knows in which order things happen."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from qexport import __version__, engines, progress, runtime, targets
from qexport.artifact import (
    MANIFEST_NAME,
    ONNX_DATA_NAME,
    ONNX_NAME,
    Artifact,
    CalibrationInfo,
    Manifest,
    ModelInfo,
    check_output,
    load_artifact,
    new_artifact,
    sweep,
)
from qexport.errors import InputError, SelectionError, UnsupportedHere
from qexport.export import Exporter, export_model
from qexport.inputs.bundled import bundled, find_bundled
from qexport.inputs.experiment import Experiment, Row, default_experiment, load_experiment
from qexport.inputs.models import ModelSource, load_tokenizer, locate_model
from qexport.inputs.text import Text, TokenSet, load_text, make_sentences, make_windows
from qexport.measure import METRICS, Job, RunMetric, measure_rounds
from qexport.recipes import Fp32, OnnxSchemes, Recipe, recipe
from qexport.record import Measurement
from qexport.report import check_report_folder, write_report
from qexport.schemes import SchemeResult
from qexport.schemes.bnb import Bnb
from qexport.schemes.int8 import Int8
from qexport.selection import Selection, Selector, WeightNode, parse_selector, weight_nodes
from qexport.torch_runtime import parameter_count

if TYPE_CHECKING:
    from qexport.runtime import Provider

REFERENCE = "reference"
"""The name of the bundled, really trained model."""
CALIBRATION_TEXT = "calibration/calibration.jsonl"
CALIBRATION_WINDOW = 512
"""Most tokens of a calibration window, BOS included; cut to the model's context."""
CALIBRATION_WINDOWS = 64
NO_OPTIONS: Mapping[str, object] = MappingProxyType({})
LATENCY_ROUNDS = 3
"""Fresh processes per artifact whose sentences are timed, the artifacts in turn."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a model may bring along that can run code."""

    allow_pickle: bool = False
    remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be quantized, before anything is."""

    selection: Selection
    nodes: tuple[WeightNode, ...]
    """All weight nodes of the graph, selected or not."""
    recipe: Recipe

    @property
    def parameters(self) -> int:
        """Parameters of the selected weights, a tied one counted once."""
        return sum(node.parameters for node in self._stored())

    @property
    def total_bytes(self) -> tuple[int, int]:
        """Bytes of the selected weights before and after, a tied one counted once."""
        stored = self._stored()
        return sum(map(self.bytes_before, stored)), sum(map(self.bytes_after, stored))

    def _stored(self) -> tuple[WeightNode, ...]:
        return tuple({node.weight: node for node in self.selection.nodes}.values())

    def bytes_before(self, node: WeightNode) -> int:
        """Bytes of fp32 that quantizing the node frees: none where a node that is not selected reads the weight too."""
        stays = any(other.weight == node.weight and other not in self.selection.nodes for other in self.nodes)
        return 0 if stays else 4 * node.parameters

    def bytes_after(self, node: WeightNode) -> int:
        """Bytes of the node's weight once quantized."""
        return _onnx_scheme(self.recipe).stored_bytes(node)


def export(
    model: str,
    folder: Path,
    *,
    exporter: Exporter = "fused",
    revision: str | None = None,
    trust: Trust = Trust(),
    overwrite: bool = False,
) -> Artifact:
    """Export a model to ONNX as an fp32 artifact, once its logits have been compared with torch's.

    Args:
        model: hub id, local folder, or ``reference`` for the bundled model.
        folder: the artifact to be made.
        exporter: ``fused`` or ``optimum``.
        revision: of a hub id.
        trust: see :class:`Trust`.
        overwrite: replace an artifact that is there.

    Raises:
        InputError: the model cannot be used, or ``folder`` must not be replaced.
        ParityError: the graph does not compute what torch computes.
        UnsupportedHere: the exporter cannot do this architecture.
    """
    check_output(folder, overwrite=overwrite)
    return _export(_locate(model, revision, trust), folder, exporter, overwrite=overwrite)


def _export(source: ModelSource, folder: Path, exporter: Exporter, *, overwrite: bool = False) -> Artifact:
    with new_artifact(folder, overwrite=overwrite) as draft:
        report = export_model(source, draft.path, exporter=exporter)
        draft.finish(
            Manifest(
                kind="onnx",
                model=_model_info(source, report.parameters),
                exporter=exporter,
                recipe="fp32",
                weight_bytes=report.weight_bytes,
                settings={"parity_max_logit_difference": max(report.parity.values())},
                versions=_versions("torch", "transformers", "onnx", "onnxruntime"),
            )
        )
    return load_artifact(folder)


def plan(
    model: str,
    selector: Selector | None = None,
    *,
    recipe_name: str = "int8-static",
    options: Mapping[str, object] = NO_OPTIONS,
    exporter: Exporter | None = None,
    revision: str | None = None,
    trust: Trust = Trust(),
) -> Plan:
    """Which nodes a selector chooses from a model, or from an fp32 artifact; None takes those the recipe is for.

    Raises:
        SelectionError: a rule matches nothing, or a node that the recipe has no form for.
        InputError: the model cannot be used, or the recipe does not take a selection of nodes.
        UnsupportedHere: the target cannot run the recipe.
    """
    import onnx_ir as ir

    chosen = recipe(recipe_name).configured(options)
    if not chosen.takes_nodes:
        raise InputError(f"{chosen.name}: has no choice of nodes; choose int8-static or another recipe that has")
    with _fp32(model, _exporter(exporter, chosen), revision, trust) as parent:
        nodes = weight_nodes(ir.load(parent.onnx_path))
    return Plan(selection=_select(chosen, selector, nodes), nodes=nodes, recipe=chosen)


def _onnx_scheme(chosen: Recipe) -> OnnxSchemes:
    assert not isinstance(chosen.scheme, Fp32 | Bnb), f"{chosen.name} rewrites no graph"
    return chosen.scheme


def _exporter(exporter: Exporter | None, chosen: Recipe) -> Exporter:
    """The exporter asked for, or the one whose graphs the recipe's target can run."""
    if exporter is not None or isinstance(chosen.scheme, Fp32 | Bnb):
        return exporter or "fused"
    return targets.exporter_for(chosen.scheme.target)


def _select(chosen: Recipe, selector: Selector | None, nodes: tuple[WeightNode, ...]) -> Selection:
    """The nodes that are asked for, each of which the recipe must have a form for.

    Raises:
        SelectionError: a rule matches nothing, or a node that the recipe has no form for.
    """
    selection = (selector or targets.default_selector(chosen)).select(nodes)
    for node in selection.nodes:
        if reason := _onnx_scheme(chosen).refusal(node):
            raise SelectionError(f"{chosen.name}: {node.name}: {reason}")
    return selection


def quantize(
    model: str,
    folder: Path,
    *,
    recipe_name: str = "int8-static",
    selector: Selector | None = None,
    options: Mapping[str, object] = NO_OPTIONS,
    text: Text | None = None,
    exporter: Exporter | None = None,
    revision: str | None = None,
    trust: Trust = Trust(),
    overwrite: bool = False,
) -> Artifact:
    """Make a quantized artifact from a model, or from an fp32 artifact.

    Args:
        model: hub id, local folder, ``reference``, or the folder of an fp32 artifact.
        folder: the artifact to be made.
        recipe_name: a key of ``RECIPES``.
        selector: which nodes; None takes those that the recipe is for.
        options: choices among the options of the recipe's scheme, by name.
        text: calibration text; None takes the bundled one.
        exporter: used where ``model`` is not an artifact yet; None takes the one that the target can run.
        revision: of a hub id.
        trust: see :class:`Trust`.
        overwrite: replace an artifact that is there.

    Raises:
        QExportError: see the errors of the parts.
    """
    chosen = recipe(recipe_name).configured(options)
    check_output(folder, overwrite=overwrite)
    if selector is not None and not chosen.takes_nodes:
        raise InputError(f"{recipe_name}: takes the model as a whole; leave --nodes out")
    match chosen.scheme:
        case Fp32():
            raise InputError("fp32 is no quantization; use `qexport export`")
        case Bnb():
            _refuse_text(chosen, text)
            if _is_artifact(model):
                raise InputError(
                    f"{model}: bitsandbytes recipes start from the model itself, not from an ONNX artifact"
                )
            source = _locate(model, revision, trust)
            info = _model_info(source, parameter_count(source.path))
            return _apply_bnb(source, info, chosen, folder, overwrite=overwrite)
        case scheme:
            targets.require(chosen)
            _require_engine(chosen)
            if not scheme.calibration:
                _refuse_text(chosen, text)
            with _fp32(model, _exporter(exporter, chosen), revision, trust) as parent:
                tokens = _calibration_tokens(parent, text) if scheme.calibration else None
                return _apply_onnx(parent, chosen, folder, selector=selector, tokens=tokens, overwrite=overwrite)


def _require_engine(chosen: Recipe) -> None:
    if isinstance(chosen.scheme, Int8):
        engines.require(chosen.scheme.engine)


def _refuse_text(chosen: Recipe, text: Text | None) -> None:
    if text is not None:
        raise InputError(f"{chosen.name}: learns nothing from calibration text; leave it out")


def _apply_bnb(
    source: ModelSource, info: ModelInfo, chosen: Recipe, folder: Path, *, overwrite: bool = False
) -> Artifact:
    assert isinstance(chosen.scheme, Bnb)
    with new_artifact(folder, overwrite=overwrite) as draft, progress.task(f"quantizing {chosen.name}"):
        result = chosen.scheme.apply(source, draft.path)
        draft.finish(
            Manifest(
                kind="torch",
                model=info,
                recipe=chosen.name,
                engine="bitsandbytes",
                quantized=result.quantized,
                settings=result.settings,
                weight_bytes=result.weight_bytes,
                versions=result.versions,
            )
        )
    return load_artifact(folder)


def _apply_onnx(
    parent: Artifact,
    chosen: Recipe,
    folder: Path,
    *,
    selector: Selector | None,
    tokens: TokenSet | None,
    overwrite: bool = False,
) -> Artifact:
    import onnx_ir as ir

    scheme = _onnx_scheme(chosen)
    graph = ir.load(parent.onnx_path)
    targets.check(graph, scheme.target, "the fp32 artifact")
    selection = _select(chosen, selector, weight_nodes(graph))
    del graph
    gc.collect()  # a graph is a ring of references: GPT-2's float weights would be held twice, 0.5 GB
    with new_artifact(folder, overwrite=overwrite) as draft:
        with progress.task(f"quantizing {chosen.name} ({selection.selector.label})"):
            result = scheme.apply(parent, selection, draft.path, tokens=tokens)
        targets.check(ir.load(draft.path / ONNX_NAME), scheme.target, chosen.name)
        _copy_side_files(parent, draft.path)
        draft.finish(_manifest(parent, chosen, selection, result, tokens))
    return load_artifact(folder)


def _manifest(
    parent: Artifact, chosen: Recipe, selection: Selection, result: SchemeResult, tokens: TokenSet | None
) -> Manifest:
    scheme = _onnx_scheme(chosen)
    calibration = None
    if tokens is not None:
        calibration = CalibrationInfo(
            method=scheme.calibration,
            text=tokens.origin,
            tokens_sha256=tokens.sha256,
            windows=len(tokens.sequences),
            tokens=tokens.tokens,
        )
    return Manifest(
        kind="onnx",
        model=parent.manifest.model,
        exporter=parent.manifest.exporter,
        recipe=chosen.name,
        engine=scheme.engine,
        parent_sha256=parent.sha256,
        selection=selection.info() if chosen.takes_nodes else None,
        quantized=result.quantized,
        settings=result.settings | {"target": scheme.target},
        calibration=calibration,
        weight_bytes=result.weight_bytes,
        versions=_versions("onnx", "onnxruntime", *(["neural-compressor"] if scheme.engine == "inc" else []))
        | result.versions,
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Choices for a whole comparison."""

    provider: Provider = "cpu"
    threads: int | None = None
    engine: str = "inc"
    """Of the rows that do not name one."""
    exporter: Exporter | None = None
    """None takes the one whose graphs the provider can run."""
    rounds: int = LATENCY_ROUNDS
    keep_artifacts: bool = False
    trust: Trust = Trust()


def experiment_for(spec: str | None) -> Experiment:
    """The experiment meant by a TOML file, a bundled experiment's name, a model, or nothing (the reference model).

    Raises:
        InputError: a file that is no experiment.
    """
    spec = spec or REFERENCE
    if spec.endswith(".toml"):
        return load_experiment(Path(spec))
    if not Path(spec).exists() and (known := find_bundled(f"models/{spec}.toml")) is not None:
        return load_experiment(known)
    return default_experiment(spec)


def only(experiment: Experiment, recipes: Sequence[str]) -> Experiment:
    """The experiment with the rows of some recipes only.

    Raises:
        InputError: a recipe that does not exist, or that the experiment has no row of.
    """
    for name in recipes:
        if recipe(name).name not in {row.recipe for row in experiment.rows}:
            raise InputError(f"{name}: {experiment.title} has no row of this recipe")
    return experiment.model_copy(update={"rows": tuple(row for row in experiment.rows if row.recipe in recipes)})


def compare(
    experiment: Experiment,
    folder: Path,
    *,
    evaluation: Text | None = None,
    calibration: Text | None = None,
    options: CompareOptions = CompareOptions(),
    overwrite: bool = False,
) -> list[Measurement]:
    """Take a model through the rows of an experiment, measure each, and write the report.

    Args:
        experiment: model, rows, texts and published figures.
        folder: the report's folder.
        evaluation: text to measure on; None takes the experiment's.
        calibration: text for activation ranges; None takes the experiment's.
        options: see :class:`CompareOptions`.
        overwrite: replace a report that is there.

    Returns:
        One measurement for each row and metric, skipped ones included.

    Raises:
        QExportError: see the errors of the parts; a row that this machine cannot run is skipped with its reason.
    """
    check_report_folder(folder, overwrite=overwrite)
    runtime.require_provider(options.provider)
    wanted = _wanted_rows(experiment, options)
    for row in wanted:
        _require_engine(row.recipe)
    evaluation = evaluation or load_text(experiment.evaluation_path)
    calibration = calibration or load_text(experiment.calibration_path)
    _keep_apart(evaluation, calibration)
    source = _locate(experiment.model, experiment.revision, options.trust)
    tokens = _evaluation_tokens(experiment, source, evaluation)
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (as artifact.whole_folder takes it: links stay links)
    with _work_folder(folder) as work:
        fp32 = _export(source, work / "fp32", options.exporter or targets.exporter_for(options.provider))
        rows = [_build_row(row, source, fp32, calibration, work=work, provider=options.provider) for row in wanted]
        records = _measure_rows(experiment, rows, tokens, source.name, options)
        write_report(records, folder, title=experiment.title, overwrite=overwrite)
        if options.keep_artifacts:
            work.rename(folder / "artifacts")
    return records


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
        return f"{self.recipe.name} ({', '.join(notes)})" if notes else self.recipe.name


def _words(option: str, value: object) -> str:
    """A choice in the words of a label: ``block size 64``, ``no smooth``."""
    name = option.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


@dataclass(frozen=True, kw_only=True)
class _Built:
    """A row of the table with its artifact, or the reason why there is none."""

    wanted: _Wanted
    artifact: Artifact | None
    skipped: str = ""

    @property
    def label(self) -> str:
        return self.wanted.label


def _wanted_rows(experiment: Experiment, options: CompareOptions) -> list[_Wanted]:
    """The rows of an experiment, read before any work is done on them."""
    rows: list[_Wanted] = []
    for row in experiment.rows:
        wanted = _Wanted(
            row=row,
            recipe=_configured(recipe(row.recipe).configured(row.options), row, options),
            selector=None if row.nodes is None else parse_selector(row.nodes),
        )
        if wanted.selector is not None and not wanted.recipe.takes_nodes:
            raise InputError(f"{row.recipe}: has no choice of nodes; leave nodes out of its row")
        if wanted.label in (other.label for other in rows):
            raise InputError(f"{experiment.title}: two rows would be called {wanted.label}; leave one out")
        rows.append(wanted)
    return rows


def _configured(chosen: Recipe, row: Row, options: CompareOptions) -> Recipe:
    """A row's recipe with what holds for the whole comparison: engine and target."""
    known = {"engine": options.engine, "target": options.provider}
    if "per_token" in row.options:
        del known["engine"]  # no engine writes it
    more = {name: value for name, value in known.items() if name in chosen.scheme.OPTIONS and name not in row.options}
    return chosen.configured(more)


def _build_row(
    wanted: _Wanted, source: ModelSource, fp32: Artifact, calibration: Text, *, work: Path, provider: Provider
) -> _Built:
    folder = work / re.sub(r"[^a-z0-9]+", "-", wanted.label.lower()).strip("-")
    try:
        artifact = _row_artifact(
            wanted.recipe, wanted.selector, source, fp32, calibration, folder=folder, provider=provider
        )
    except UnsupportedHere as error:
        return _Built(wanted=wanted, artifact=None, skipped=str(error))
    return _Built(wanted=wanted, artifact=artifact)


def _row_artifact(
    chosen: Recipe,
    selector: Selector | None,
    source: ModelSource,
    fp32: Artifact,
    calibration: Text,
    *,
    folder: Path,
    provider: Provider,
) -> Artifact:
    match chosen.scheme:
        case Fp32():
            return fp32
        case Bnb() as scheme:
            on_provider = replace(chosen, scheme=replace(scheme, provider=provider))
            return _apply_bnb(source, fp32.manifest.model, on_provider, folder)
        case scheme:
            targets.require(chosen)
            tokens = _calibration_tokens(fp32, calibration) if scheme.calibration else None
            return _apply_onnx(fp32, chosen, folder, selector=selector, tokens=tokens)


def _measure_rows(
    experiment: Experiment, rows: list[_Built], tokens: dict[str, TokenSet], model: str, options: CompareOptions
) -> list[Measurement]:
    """Measure metric by metric, so that figures that are compared are taken close to each other."""
    records = []
    for name, metric in METRICS.items():
        fed = tokens[metric.tokens] if isinstance(metric, RunMetric) else None
        jobs = [
            Job(
                artifact=built.artifact.path,
                row=built.label,
                metric=name,
                tokens=fed,
                provider=options.provider,
                threads=options.threads,
                published=experiment.published_for(built.wanted.row, name),
            )
            for built in rows
            if built.artifact is not None
        ]
        measured = measure_rounds(jobs, options.rounds if name == "latency_s" else 1)
        by_row = {record.row: record for record in measured}
        records += [by_row.get(built.label) or _skipped(built, name, model) for built in rows]
    return records


def _skipped(built: _Built, metric: str, model: str) -> Measurement:
    return Measurement(
        row=built.label, model=model, recipe=built.wanted.recipe.name, metric=metric, skipped=built.skipped
    )


def _locate(spec: str, revision: str | None, trust: Trust) -> ModelSource:
    bundled_model = find_bundled(f"models/{REFERENCE}") if spec == REFERENCE and not Path(spec).exists() else None
    return locate_model(
        bundled_model or spec, revision=revision, allow_pickle=trust.allow_pickle, trust_remote_code=trust.remote_code
    )


@contextlib.contextmanager
def _fp32(model: str, exporter: Exporter, revision: str | None, trust: Trust) -> Iterator[Artifact]:
    """The fp32 artifact that ``model`` is, or one made from it for the time being."""
    if _is_artifact(model):
        artifact = load_artifact(Path(model), verify=True)
        if artifact.manifest.recipe != "fp32":
            raise InputError(f"{model}: is quantized already ({artifact.manifest.recipe}); start from an fp32 artifact")
        yield artifact
        return
    source = _locate(model, revision, trust)
    with tempfile.TemporaryDirectory(prefix="qexport-") as work:
        yield _export(source, Path(work) / "fp32", exporter)


def _is_artifact(model: str) -> bool:
    return (Path(model) / MANIFEST_NAME).is_file()


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


def _source_of(artifact: Artifact) -> ModelSource:
    """An artifact's own folder as the place of its tokenizer and configuration."""
    return ModelSource(
        name=artifact.manifest.model.name,
        revision=artifact.manifest.model.revision,
        path=artifact.path,
        config=json.loads((artifact.path / "config.json").read_text()),
        weight_files=(),
        weights_sha256=artifact.manifest.model.weights_sha256,
        trust_remote_code=False,
    )


def _calibration_tokens(parent: Artifact, text: Text | None) -> TokenSet:
    source = _source_of(parent)
    text = text or load_text(bundled(CALIBRATION_TEXT))
    window = min(CALIBRATION_WINDOW, source.context_length)
    return make_windows(text, load_tokenizer(source), window=window, limit=CALIBRATION_WINDOWS)


def _evaluation_tokens(experiment: Experiment, source: ModelSource, text: Text) -> dict[str, TokenSet]:
    tokenizer, context = load_tokenizer(source), source.context_length
    return {
        "windows": make_windows(text, tokenizer, window=min(experiment.window, context), limit=experiment.windows),
        "sentences": make_sentences(text, tokenizer, limit=experiment.sentences, max_tokens=context),
    }


def _keep_apart(evaluation: Text, calibration: Text) -> None:
    both = set(evaluation.documents) & set(calibration.documents)
    if both:
        raise InputError(
            f"{evaluation.origin} and {calibration.origin}: {len(both)} documents are in both; "
            "quality must be measured on text that calibration never saw"
        )


def _copy_side_files(parent: Artifact, folder: Path) -> None:
    own = {ONNX_NAME, ONNX_DATA_NAME}
    for info in parent.manifest.files:
        if info.path not in own:
            shutil.copyfile(parent.path / info.path, folder / info.path)


def _model_info(source: ModelSource, parameters: int) -> ModelInfo:
    return ModelInfo(
        name=source.name,
        revision=source.revision,
        weights_sha256=source.weights_sha256,
        architecture=source.model_type,
        parameters=parameters,
    )


def _versions(*packages: str) -> dict[str, str]:
    return {"qexport": __version__} | {name: importlib.metadata.version(name) for name in packages}
