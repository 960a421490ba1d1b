"""The verbs on one artifact, as plain functions: in which order things happen. The comparison is built of them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from qexport import __version__, engines, progress, targets
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
)
from qexport.errors import InputError, SelectionError
from qexport.export import Exporter, export_model
from qexport.files import read_json
from qexport.float_graph import FloatGraph
from qexport.inputs.bundled import CALIBRATION_TEXT, bundled, find_bundled
from qexport.inputs.models import ModelSource, load_tokenizer, locate_model
from qexport.inputs.rows import table_rows, without_row
from qexport.inputs.shown import require_utf8, shown
from qexport.inputs.sizes import parameter_count
from qexport.inputs.text import Text, TokenSet, load_text, make_windows
from qexport.own_data import load_verified
from qexport.recipes import Fp32, OnnxSchemes, Recipe, TorchSchemes, recipe
from qexport.rewriting import rewrite
from qexport.schemes import SchemeResult
from qexport.schemes.int8 import Int8
from qexport.scratch import scratch_folder
from qexport.selection import Selection, Selector, WeightNode, weight_nodes

REFERENCE = "reference"
"""The name of the bundled, really trained model."""
CALIBRATION_WINDOW = 512
"""Most tokens of a calibration window, BOS included; cut to the model's context."""
CALIBRATION_WINDOWS = 64
NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


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
    _keep_parent(model, folder)
    check_output(folder, overwrite=overwrite)
    require_utf8(folder)
    return export_source(locate(model, revision, trust), folder, exporter, overwrite=overwrite)


def export_source(source: ModelSource, folder: Path, exporter: Exporter, *, overwrite: bool = False) -> Artifact:
    with new_artifact(folder, overwrite=overwrite) as draft:
        rowless = without_row(
            source.path, table_rows(source)
        )  # a tokenizer that cannot be read is found before the work
        report = export_model(source, draft.path, exporter=exporter)
        draft.finish(
            Manifest(
                kind="onnx",
                model=_model_info(source, report.parameters),
                exporter=exporter,
                recipe="fp32",
                weight_bytes=report.weight_bytes,
                settings=report.settings | ({"tokens_without_row": rowless} if rowless else {}),
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
    chosen = recipe(recipe_name).configured(options)
    if not chosen.takes_nodes:
        raise InputError(f"{chosen.name}: has no choice of nodes; choose int8-static or another recipe that has")
    _refuse_choices_of_export(model, exporter, revision)
    with _fp32(model, _exporter(exporter, chosen), revision, trust) as parent:
        nodes = weight_nodes(FloatGraph.read(parent).model)
    return Plan(selection=_select(chosen, selector, nodes), nodes=nodes, recipe=chosen)


def _refuse_choices_of_export(model: str, exporter: Exporter | None, revision: str | None) -> None:
    """Refuse choices that came too late: an artifact was exported already.

    Raises:
        InputError: the model is an artifact, and not what the choices ask for.
    """
    if not _is_artifact(model):
        return
    if revision is not None:
        raise InputError(f"{model}: an artifact has no revision {revision}; leave --revision out, or give the model")
    made = load_artifact(Path(model)).manifest.exporter
    if exporter is not None and exporter != made:
        raise InputError(f"{model}: was exported by {made}, not by {exporter}; leave --exporter out, or give the model")


def _keep_parent(model: str, folder: Path) -> None:
    """Refuse an output that would replace the model that it is made from.

    Raises:
        InputError: it would.
    """
    if not model.strip():  # the current folder, for pathlib; locate_model refuses it
        return
    parent, output = Path(model).resolve(), folder.resolve()
    if parent.is_dir() and (output == parent or output in parent.parents):
        raise InputError(f"{folder}: holds the model itself, which would be lost; choose another output")
    if parent.is_dir() and parent in output.parents:
        raise InputError(f"{folder}: lies in the model's own folder; choose another output")


def _onnx_scheme(chosen: Recipe) -> OnnxSchemes:
    assert not isinstance(chosen.scheme, Fp32 | TorchSchemes), f"{chosen.name} rewrites no graph"
    return chosen.scheme


def _exporter(exporter: Exporter | None, chosen: Recipe) -> Exporter:
    """The exporter asked for, or the one whose graphs the recipe's target can run."""
    if exporter is not None or isinstance(chosen.scheme, Fp32 | TorchSchemes):
        return exporter or "fused"
    return targets.exporter_for(chosen.scheme, chosen.scheme.target)


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
    _refuse_choices_of_export(model, exporter, revision)
    _keep_parent(model, folder)
    check_output(folder, overwrite=overwrite)
    require_utf8(folder)
    if selector is not None and not chosen.takes_nodes:
        raise InputError(f"{recipe_name}: takes the model as a whole; leave --nodes out")
    match chosen.scheme:
        case Fp32():
            raise InputError("fp32 is no quantization; use `qexport export`")
        case scheme if isinstance(scheme, TorchSchemes):
            _refuse_text(chosen, text)
            if exporter is not None:
                raise InputError(f"{chosen.name}: stays in PyTorch and is not exported; leave --exporter out")
            if _is_artifact(model):
                raise InputError(
                    f"{model}: recipes in PyTorch start from the model itself; give the model's folder, not an ONNX artifact"
                )
            return apply_torch(locate(model, revision, trust), chosen, folder, overwrite=overwrite)
        case scheme:
            targets.require(chosen)
            require_engine(chosen)
            if not scheme.calibration:
                _refuse_text(chosen, text)
            check = partial(calibration_windows, text=text) if scheme.calibration else _nothing
            with _fp32(model, _exporter(exporter, chosen), revision, trust, check) as parent:
                tokens = calibration_tokens(parent, text) if scheme.calibration else None
                return apply_onnx(parent, chosen, folder, selector=selector, tokens=tokens, overwrite=overwrite)


def require_engine(chosen: Recipe) -> None:
    if isinstance(chosen.scheme, Int8):
        engines.require(chosen.scheme.engine)


def _refuse_text(chosen: Recipe, text: Text | None) -> None:
    if text is not None:
        raise InputError(f"{chosen.name}: learns nothing from calibration text; leave it out")


def apply_torch(source: ModelSource, chosen: Recipe, folder: Path, *, overwrite: bool = False) -> Artifact:
    """Make the artifact of a recipe that stays in PyTorch."""
    assert isinstance(chosen.scheme, TorchSchemes)
    with new_artifact(folder, overwrite=overwrite) as draft, progress.task(f"quantizing {chosen.name}"):
        result = chosen.scheme.apply(source, draft.path)
        draft.finish(
            Manifest(
                kind="torch",
                model=_model_info(source, parameter_count(source.path)),
                recipe=chosen.name,
                engine="bitsandbytes" if result.quantized else "",
                quantized=result.quantized,
                settings=result.settings,
                weight_bytes=result.weight_bytes,
                versions=result.versions,
            )
        )
    return load_artifact(folder)


def apply_onnx(
    parent: Artifact,
    chosen: Recipe,
    folder: Path,
    *,
    selector: Selector | None,
    tokens: TokenSet | None,
    overwrite: bool = False,
) -> Artifact:
    scheme = _onnx_scheme(chosen)
    graph = FloatGraph.read(parent)
    targets.check(graph.model, scheme.target, "the fp32 artifact", parent=True)
    selection = _select(chosen, selector, weight_nodes(graph.model))
    with new_artifact(folder, overwrite=overwrite) as draft:
        with progress.task(f"quantizing {chosen.name} ({selection.selector.label})"):
            result = rewrite(scheme, graph, selection, draft.path, tokens=tokens, name=chosen.name)
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
        cpu_dependent=_CALIBRATED if scheme.calibration else "",
        weight_bytes=result.weight_bytes,
        versions=_versions("onnx", "onnxruntime", *(["neural-compressor"] if scheme.engine == "inc" else []))
        | result.versions,
    )


_CALIBRATED = "what follows from activations, on CPUs other than x86-64 with FMA"


def locate(spec: str, revision: str | None, trust: Trust) -> ModelSource:
    bundled_model = find_bundled(f"models/{REFERENCE}") if spec == REFERENCE and not Path(spec).exists() else None
    found = locate_model(
        bundled_model or spec, revision=revision, allow_pickle=trust.allow_pickle, trust_remote_code=trust.remote_code
    )
    return replace(found, name=shown(found.name))


def _nothing(_: ModelSource) -> None:
    """Check nothing."""


@contextlib.contextmanager
def _fp32(
    model: str,
    exporter: Exporter,
    revision: str | None,
    trust: Trust,
    check: Callable[[ModelSource], object] = _nothing,
) -> Iterator[Artifact]:
    """The fp32 artifact that ``model`` is, or one made from it for the time being, once ``check`` has passed it."""
    if _is_artifact(model):
        require_utf8(model)
        artifact = load_verified(Path(model))
        if artifact.manifest.recipe != "fp32":
            raise InputError(f"{model}: is quantized already ({artifact.manifest.recipe}); start from an fp32 artifact")
        yield artifact
        return
    source = locate(model, revision, trust)
    check(source)
    with scratch_folder("fp32") as work:
        yield export_source(source, Path(work) / "fp32", exporter)


def _is_artifact(model: str) -> bool:
    return (Path(model) / MANIFEST_NAME).is_file()


def source_of(artifact: Artifact) -> ModelSource:
    """An artifact's own folder as the place of its tokenizer and configuration."""
    return ModelSource(
        name=artifact.manifest.model.name,
        revision=artifact.manifest.model.revision,
        path=artifact.path,
        config=read_json(artifact.path / "config.json", way_out="make the artifact again"),
        weight_files=(),
        weights_sha256=artifact.manifest.model.weights_sha256,
        trust_remote_code=False,
    )


def calibration_tokens(parent: Artifact, text: Text | None) -> TokenSet:
    return calibration_windows(source_of(parent), text)


def calibration_windows(source: ModelSource, text: Text | None) -> TokenSet:
    """What a model is calibrated on; None takes the bundled text.

    Raises:
        InputError: the text cannot be calibrated on.
    """
    text = text or load_text(bundled(CALIBRATION_TEXT))
    window = min(CALIBRATION_WINDOW, source.context_length)
    rows = table_rows(source)
    return make_windows(text, load_tokenizer(source), window=window, limit=CALIBRATION_WINDOWS, rows=rows)


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
