"""The verbs on one artifact as plain functions, which fix the order of the steps. The comparison is built on them."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from qexport.core import (
    MANIFEST_NAME,
    ONNX_DATA_NAME,
    ONNX_NAME,
    Artifact,
    CalibrationInfo,
    Exporter,
    FloatGraph,
    InputError,
    Manifest,
    Selection,
    SelectionError,
    Selector,
    WeightNode,
    check_output,
    load_artifact,
    load_verified,
    new_artifact,
    progress,
    require_utf8,
    scratch_folder,
    weight_nodes,
)
from qexport.exporting import export_source, model_info, require_model_kept, versions_of
from qexport.inputs import (
    CALIBRATION_TEXT,
    NO_TRUST,
    ModelSource,
    Text,
    TokenSet,
    Trust,
    bundled,
    load_text,
    load_tokenizer,
    locate,
    make_windows,
    parameter_count,
    source_of,
    table_rows,
)
from qexport.quantization import targets
from qexport.quantization.engines import engine
from qexport.quantization.recipes import Fp32, OnnxSchemes, Recipe, TorchSchemes, recipe
from qexport.quantization.rewriting import rewrite
from qexport.quantization.schemes.int8 import Int8
from qexport.quantization.schemes.scheme import SchemeResult

logger = logging.getLogger(__name__)
CALIBRATION_WINDOW = 512
"""Most tokens of a calibration window, BOS included; the model's context may allow fewer."""
CALIBRATION_WINDOWS = 64
NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The nodes that a recipe would quantize, before anything is quantized."""

    selection: Selection
    nodes: tuple[WeightNode, ...]
    """All weight nodes of the graph, selected or not."""
    recipe: Recipe

    @property
    def parameters(self) -> int:
        """Parameters of the selected weights; a tied weight counts once."""
        return sum(node.parameters for node in self._stored())

    @property
    def total_bytes(self) -> tuple[int, int]:
        """Bytes of the selected weights before and after; a tied weight counts once."""
        stored = self._stored()
        return sum(map(self.bytes_before, stored)), sum(map(self.bytes_after, stored))

    def _stored(self) -> tuple[WeightNode, ...]:
        return tuple({node.weight: node for node in self.selection.nodes}.values())

    def bytes_before(self, node: WeightNode) -> int:
        """Bytes of fp32 that quantizing the node frees; none if a node that is not selected reads the weight too."""
        stays = any(other.weight == node.weight and other not in self.selection.nodes for other in self.nodes)
        return 0 if stays else 4 * node.parameters

    def bytes_after(self, node: WeightNode) -> int:
        """Bytes of the node's weight once quantized."""
        return _onnx_scheme(self.recipe).stored_bytes(node)


def plan(
    model: str,
    selector: Selector | None = None,
    *,
    recipe_name: str = "int8-static",
    options: Mapping[str, object] = NO_OPTIONS,
    exporter: Exporter | None = None,
    revision: str | None = None,
    trust: Trust = NO_TRUST,
) -> Plan:
    """The nodes that a selector chooses from a model or an fp32 artifact; None takes the nodes that the recipe is for.

    Raises:
        SelectionError: a rule matches nothing, or the recipe has no form for a selected node.
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
    """Refuse options of the export if the model is an artifact, which was exported already.

    Raises:
        InputError: the model is an artifact and does not match the options.
    """
    if not _is_artifact(model):
        return
    if revision is not None:
        raise InputError(f"{model}: an artifact has no revision {revision}; leave --revision out, or give the model")
    made = load_artifact(Path(model)).manifest.exporter
    if exporter is not None and exporter != made:
        raise InputError(f"{model}: was exported by {made}, not by {exporter}; leave --exporter out, or give the model")


def _onnx_scheme(chosen: Recipe) -> OnnxSchemes:
    assert not isinstance(chosen.scheme, Fp32 | TorchSchemes), f"{chosen.name} rewrites no graph"
    return chosen.scheme


def _exporter(exporter: Exporter | None, chosen: Recipe) -> Exporter:
    """The requested exporter, or the one whose graphs the recipe's target can run."""
    if exporter is not None or isinstance(chosen.scheme, Fp32 | TorchSchemes):
        return exporter or "fused"
    return chosen.exporter_for(chosen.scheme.target)


def _select(chosen: Recipe, selector: Selector | None, nodes: tuple[WeightNode, ...]) -> Selection:
    """The selected nodes. The recipe must have a form for each of them.

    Raises:
        SelectionError: a rule matches nothing, or the recipe has no form for a selected node.
    """
    selection = (selector or chosen.default_selector).select(nodes)
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
    trust: Trust = NO_TRUST,
    overwrite: bool = False,
) -> Artifact:
    """Make a quantized artifact from a model, or from an fp32 artifact.

    Args:
        model: the hub id, the local folder, ``reference``, or the folder of an fp32 artifact.
        folder: the folder of the artifact to make.
        recipe_name: a key of ``RECIPES``.
        selector: the rules that choose nodes; None takes the nodes that the recipe is for.
        options: the values of the scheme's options, by name.
        text: the calibration text; None takes the bundled text.
        exporter: the exporter for a ``model`` that is not an artifact yet; None takes the one that the target can run.
        revision: the revision of a hub id.
        trust: see :class:`Trust`.
        overwrite: replace an existing artifact.

    Raises:
        QExportError: see the errors of the steps.
    """
    chosen = recipe(recipe_name).configured(options)
    _refuse_choices_of_export(model, exporter, revision)
    require_model_kept(model, folder)
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
            chosen.require_target()
            require_engine(chosen)
            if not scheme.calibration:
                _refuse_text(chosen, text)
            check = partial(calibration_windows, text=text) if scheme.calibration else _nothing
            with _fp32(model, _exporter(exporter, chosen), revision, trust, check) as parent:
                tokens = calibration_tokens(parent, text) if scheme.calibration else None
                return apply_onnx(parent, chosen, folder, selector=selector, tokens=tokens, overwrite=overwrite)


def require_engine(chosen: Recipe) -> None:
    if isinstance(chosen.scheme, Int8):
        engine.require(chosen.scheme.engine)


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
                model=model_info(source, parameter_count(source.path)),
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
    if scheme.slow:
        logger.warning("%s: %s", chosen.name, scheme.slow)
    graph = FloatGraph.read(parent)
    targets.check_target(graph.model, scheme.target, "the fp32 artifact", parent=True)
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
        versions=versions_of("onnx", "onnxruntime", *(["neural-compressor"] if scheme.engine == "inc" else []))
        | result.versions,
    )


_CALIBRATED = "what follows from activations, on CPUs other than x86-64 with FMA"


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
    """The fp32 artifact at ``model``, or a temporary export of the model once ``check`` has passed it."""
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


def calibration_tokens(parent: Artifact, text: Text | None) -> TokenSet:
    return calibration_windows(source_of(parent), text)


def calibration_windows(source: ModelSource, text: Text | None) -> TokenSet:
    """The calibration windows of a model; None takes the bundled text.

    Raises:
        InputError: the text cannot be used for calibration.
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
