"""INT8 weights and activations (W8A8): MatMuls by an engine, lookup tables as integers with a scale for each row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from qexport.core import (
    InputError,
    Role,
    TargetName,
    array,
    cpu,
    matmul_weight,
    near_names,
    scratch_folder,
    set_initializer,
    untie,
)
from qexport.quantization import calibration, decomposition, int8_check, rescale
from qexport.quantization.engines.engine import engine
from qexport.quantization.engines.request import MatMulRequest
from qexport.quantization.forms import Choices, Form, Place, choose
from qexport.quantization.numerics import histogram, smooth
from qexport.quantization.numerics.grid import quantize_channels
from qexport.quantization.schemes.scheme import Rewritten, Settings, refused_lookup, with_fields
from qexport.quantization.targets import TARGETS, Need

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import FloatGraph, Selection, WeightNode
    from qexport.inputs import TokenSet
    from qexport.quantization.calibration import Edit, Ranges
    from qexport.quantization.decomposition import Activation


class WeightGrid(StrEnum):
    """The grid that weights are rounded to, symmetric and per output channel.

    CPUs without VNNI add pairs of u8 x s8 products in 16 bits, which saturate beyond 32767.
    """

    INT8_PAIRED = "int8-paired"
    """-127 to 127, and two neighbours add up to at most 128: no pair saturates on any CPU."""
    INT8 = "int8"
    """-127 to 127: the finest grid, and wrong on CPUs without VNNI."""
    INT8_REDUCED = "int8-reduced"
    """-64 to 64, ``reduce_range``: no pair saturates, and half of the levels are lost."""
    UINT8 = "uint8"
    """1 to 255 around the zero point 128: the same weights as ``int8``, exact on every CPU, and slow with VNNI."""

    @property
    def steps(self) -> int:
        """Steps from zero to the largest weight of a channel."""
        return 64 if self is WeightGrid.INT8_REDUCED else 127

    @property
    def paired(self) -> bool:
        """The sum of two neighbours counts as a weight, see :func:`qexport.quantization.numerics.grid.pair_peaks`."""
        return self is WeightGrid.INT8_PAIRED


NATIVE = "native"
"""The choice of the grid that suits this CPU: ``int8`` with VNNI, ``uint8`` without."""


def native_grid() -> WeightGrid:
    """The finest grid that this CPU multiplies correctly. An artifact on this grid depends on the CPU that makes it."""
    return WeightGrid.INT8 if cpu.has_vnni() else WeightGrid.UINT8


BULKY_ELEMENTS = 1024
"""Float initializers with more elements than this are kept from the engines."""


@dataclass(frozen=True, kw_only=True)
class Static:
    """Activation ranges that are fixed beforehand, from calibration text."""

    method: calibration.Method = calibration.DEFAULT_METHOD


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """Activation ranges that are computed anew for each input."""

    per_token: bool = False
    """Each token has its own range, symmetric around zero, instead of one range for the whole input."""


@dataclass(frozen=True, kw_only=True)
class Int8:
    """INT8 weights, symmetric and per output channel, with 8-bit activations."""

    activations: Static | Dynamic
    symmetric: bool = False
    """Static activation ranges are made symmetric around zero."""
    grid: WeightGrid = WeightGrid.INT8_PAIRED
    smooth: bool = True
    """Activations may be smoothed before rounding, by scales that move into the weights."""
    outlier_channels: bool = True
    """Channels of an activation may stay in float, and its tokens may get their own ranges, where that saves error."""
    engine: Literal["inc", "ort"] = "inc"
    """The engine that rewrites the MatMuls."""
    target: TargetName = "cpu"

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "engine",
        "grid",
        "method",
        "outlier_channels",
        "per_token",
        "smooth",
        "symmetric",
        "target",
    )
    takes_nodes: ClassVar[bool] = True
    lookup: ClassVar[Need | None] = "lookups"
    leaves_half: ClassVar[bool] = False
    slow: ClassVar[str] = ""

    @property
    def per_token(self) -> bool:
        return isinstance(self.activations, Dynamic) and self.activations.per_token

    @property
    def needs(self) -> frozenset[Need]:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.needs`."""
        return frozenset({"dynamic ranges"} if isinstance(self.activations, Dynamic) else ())

    def configured(self, choices: Mapping[str, object]) -> Int8:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.configured`.

        ``method`` and ``symmetric`` are for static activations, ``per_token`` is for dynamic ones. TensorRT's ranges are
        symmetric and its weights int8.
        """
        rest = {name: value for name, value in choices.items() if name not in ("method", "per_token")}
        if "grid" in rest:
            rest["grid"] = _grid(str(rest["grid"]))
        if isinstance(self.activations, Static):
            if "per_token" in choices:
                raise InputError("the option per_token is for dynamic activations; use int8-dynamic")
            activations: Static | Dynamic = _static(self.activations, choices)
        else:
            if "method" in choices or choices.get("symmetric"):
                raise InputError("the options method and symmetric are for static activations; use int8-static")
            activations = _dynamic(self.activations, choices)
        scheme = with_fields(replace(self, activations=activations), rest)
        if not TARGETS[scheme.target].symmetric_only:
            return scheme
        if "grid" in rest and scheme.grid is not WeightGrid.INT8:
            raise InputError(
                f"the option grid: {scheme.grid.value}: TensorRT takes int8 weights only; choose --weights int8"
            )
        return replace(scheme, symmetric=True, grid=WeightGrid.INT8)

    @property
    def calibration(self) -> str:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.calibration`."""
        ranges = [calibration.method_label(self.activations.method)] if isinstance(self.activations, Static) else []
        learned = {"smoothquant": self.smooth, "outlier channels": self.outlier_channels}
        return ", ".join([*(name for name, on in learned.items() if on), *ranges])

    def refusal(self, node: WeightNode) -> str:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.refusal`."""
        return refused_lookup(self, node)

    def _settings(self) -> Settings:
        """The settings as the manifest keeps them."""
        settings: Settings = {
            "weights": self.grid.value,
            "smooth": self.smooth,
            "outlier_channels": self.outlier_channels,
        }
        if isinstance(self.activations, Static):
            settings |= {"method": calibration.method_label(self.activations.method), "symmetric": self.symmetric}
        else:
            settings |= {"per_token": self.activations.per_token}
        return settings

    def stored_bytes(self, node: WeightNode) -> int:
        """Bytes that the node's weight takes once quantized: integers, fp32 scales, and zero points of MatMuls."""
        return node.parameters + node.channels * (4 if node.role is Role.EMBEDDING else 4 + 1)

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.apply`.

        Raises:
            ContractError: smoothing changed what the model computes.
            InputError: static activations without calibration text.
            UnsupportedHere: the engine is not installed.
        """
        stored = _stored_names(selection)
        model = parent.copy()
        among = decomposition.activations(model, selection.matmuls)
        plan = decomposition.Plan(among=among, forms=self._forms(parent, model, among, tokens))
        plan.smooth(model)
        floats = {
            stored[node.name]: (form.channels, matmul_weight(model, node)[list(form.channels)])
            for node, form in plan.nodes(lambda form: form.channels)
        }
        plan.decompose(model)
        if plan.changes and tokens is not None:
            rescale.check_same_function(parent.artifact, model, tokens, by="smoothing and outlier channels")
        originals = _originals(model, selection, stored)
        for head in (node for node in selection.matmuls if node.tied):
            untie(model, head, stored[head.name])
        per_token = {node.name for node, _ in plan.nodes(lambda form: form.per_token)}
        ranges = self._ranges(
            parent, model, selection, tokens, edit=plan.edit() if plan.changes else None, per_token=per_token
        )
        for request in _requests(model, selection, ranges, symmetric=self.symmetric):
            model = _rewritten(model, request, self.engine)
        for node in selection.matmuls:
            _store_integers(model, stored[node.name], originals(stored[node.name]), 1, self.grid)
        for node in selection.embeddings:
            _quantize_lookup(model, node, stored[node.name], mapped=self.target == "cpu")
        check = partial(
            int8_check.check,
            asked={(stored[node.name], node.role is Role.EMBEDDING): node for node in selection.nodes},
            original=originals,
            ranges=ranges,
            static=isinstance(self.activations, Static),
            per_token=frozenset(stored[name] for name in per_token),
            floats=floats,
            symmetric=self.symmetric,
            steps=self.grid.steps,
            paired=self.grid.paired,
            by=f"engine {self.engine}",
        )
        return Rewritten(model=model, check=check, settings=self._settings())

    def _forms(
        self, parent: FloatGraph, model: ir.Model, among: Sequence[Activation], tokens: TokenSet | None
    ) -> Mapping[str, Form]:
        """The form of each activation, by its name in the parent's graph."""
        if not (self.smooth or self.outlier_channels):
            return {activation.tensor: Form(per_token=self.per_token) for activation in among}
        if not among:
            return {}
        if tokens is None:
            raise InputError(
                "smoothing and outlier channels need windows of calibration text; give tokens, or choose neither"
            )
        samples = calibration.sample(parent, [activation.tensor for activation in among], tokens)
        choices = Choices(
            rounded=self._rounded,
            levels=self.grid.steps,
            paired=self.grid.paired,
            smooth=self.smooth,
            channels=self.outlier_channels,
            per_token=self.per_token,
        )
        return {
            activation.tensor: choose(
                samples[activation.tensor],
                [matmul_weight(model, node) for node in activation.nodes],
                choices,
                place=_place(model, activation),
            )
            for activation in among
        }

    def _rounded(self, rows: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
        """Rows of an activation, rounded as this scheme rounds them in one range for the whole tensor."""
        if isinstance(self.activations, Dynamic):
            return smooth.round_asymmetric(rows, low, high)
        seen = histogram.Histogram()
        seen.add(rows)
        low, high = self.activations.method.range(seen)
        if self.symmetric:
            return smooth.round_symmetric(rows, max(-low, high))
        return smooth.round_asymmetric(rows, low, high)

    def _ranges(
        self,
        parent: FloatGraph,
        model: ir.Model,
        selection: Selection,
        tokens: TokenSet | None,
        *,
        edit: Edit | None,
        per_token: Collection[str],
    ) -> Ranges:
        """The fixed ranges, by the name of the MatMul's input in the edited graph."""
        inputs = {
            node.name: node.inputs[0].name
            for node in model.graph
            if node.name in {each.name for each in selection.matmuls} and node.inputs[0] is not None
        }
        unit = decomposition.SYMMETRIC_UNIT_RANGE if self.symmetric else decomposition.UNIT_RANGE
        fixed = {tensor or "": unit for name, tensor in inputs.items() if name in per_token}
        if isinstance(self.activations, Dynamic):
            return fixed
        if tokens is None:
            raise InputError("static INT8 needs windows of calibration text; give tokens")
        tensors = [tensor for tensor in inputs.values() if tensor and tensor not in fixed]
        if not tensors:
            return fixed
        return fixed | dict(calibration.calibrate(parent, tensors, tokens, self.activations.method, edit=edit))


def _place(model: ir.Model, activation: Activation) -> Place:
    roles, group = {node.role for node in activation.nodes}, activation.group
    if Role.LM_HEAD in roles:
        return "head"
    whole = group is not None and group.nodes == activation.nodes
    if group is not None and whole and rescale.follows_norm(model, group, activation.nodes[0].shape[0]):
        return "after norm"
    return "after attention" if Role.ATTENTION in roles else "inside"


def _requests(model: ir.Model, selection: Selection, ranges: Ranges, *, symmetric: bool) -> list[MatMulRequest]:
    """The requests to the engine: MatMuls whose input has no fixed range, then MatMuls whose input has one."""
    chosen = {node.name for node in selection.matmuls}
    readers = [node for node in model.graph if node.name in chosen]
    dynamic = tuple(node.name or "" for node in readers if node.inputs[0] is None or node.inputs[0].name not in ranges)
    fixed = tuple(node.name or "" for node in readers if node.name not in dynamic)
    requests = []
    if dynamic:
        requests.append(MatMulRequest(nodes=dynamic, ranges=None, symmetric=symmetric))
    if fixed:
        requests.append(MatMulRequest(nodes=fixed, ranges=ranges, symmetric=symmetric))
    return requests


def _static(activations: Static, choices: Mapping[str, object]) -> Static:
    if "method" not in choices:
        return activations
    name = str(choices["method"])
    if name not in calibration.METHODS:
        raise InputError(f"the option method: {name}: {near_names(name, calibration.METHODS)}")
    return Static(method=calibration.METHODS[name])


def _grid(name: str) -> WeightGrid:
    if name == NATIVE:
        return native_grid()
    known = [grid.value for grid in WeightGrid]
    if name not in known:
        raise InputError(f"the option grid: {name}: {near_names(name, [*known, NATIVE])}")
    return WeightGrid(name)


def _dynamic(activations: Dynamic, choices: Mapping[str, object]) -> Dynamic:
    chosen = choices.get("per_token", activations.per_token)
    if not isinstance(chosen, bool):
        raise InputError(f"the option per_token: {chosen!r} is no truth value; use true or false")
    return Dynamic(per_token=chosen)


def _stored_names(selection: Selection) -> dict[str, str]:
    """The stored name of each selected node's weight; an embedding and the head tied to it share one."""
    names = {}
    heads = {node.weight: f"{node.module}.weight" for node in selection.matmuls if node.tied}
    for node in selection.nodes:
        names[node.name] = heads.get(node.weight, node.weight)
    return names


def _originals(
    model: ir.Model, selection: Selection, stored: Mapping[str, str]
) -> Callable[[str], NDArray[np.float32]]:
    """The float weights by stored name; a tied one is laid out for its head, ``[in, out]``."""
    tied = {stored[node.name] for node in selection.matmuls if node.tied}
    sources = {stored[node.name]: array(model.graph.initializers[node.weight]) for node in selection.nodes}

    def original(name: str) -> NDArray[np.float32]:
        weight = sources[name]
        return np.asarray(weight.T if name in tied else weight, np.float32)

    return original


def _rewritten(model: ir.Model, request: MatMulRequest, engine_name: str) -> ir.Model:
    """The graph as the engine rewrites it, in an order in which it can run.

    The engine gets the graph without its large weights, which are put back afterwards. Rounding them is not its task
    (:func:`_store_integers`), and its copies of them took most of its time and memory.
    """
    import onnx_ir as ir

    weights = {name: array(value) for name, value in model.graph.initializers.items() if _is_bulky(value)}
    for name, weight in weights.items():
        set_initializer(model.graph, name, np.ones((len(weight), *([1] * (weight.ndim - 1))), np.float32))
    metadata = dict(model.metadata_props)
    known = _forget_inner_values(model)
    with scratch_folder("int8") as folder:
        source = Path(folder) / "skeleton.onnx"
        ir.save(model, source)
        rewritten = ir.from_proto(engine(engine_name)(source, request))
    for name, weight in weights.items():
        if name in rewritten.graph.initializers:
            set_initializer(rewritten.graph, name, weight)
    for value in _inner_values(rewritten):
        value.shape, value.type = known.get(value.name, (None, None))
    # Engines leave their own notes in the metadata, and neural-compressor appends its nodes at the end.
    rewritten.metadata_props.clear()
    rewritten.metadata_props.update(metadata)
    rewritten.graph.sort()
    return rewritten


def _forget_inner_values(model: ir.Model) -> dict[str | None, tuple[ir.Shape | None, ir.TypeProtocol | None]]:
    """Remove the shapes of all inner values, which contradict the placeholders; return shapes and types by name.

    The types stay: onnxruntime's static quantizer skips a tensor whose type it cannot infer.
    """
    known = {}
    for value in _inner_values(model):
        known[value.name] = (value.shape, value.type)
        value.shape = None
    return known


def _inner_values(model: ir.Model) -> list[ir.Value]:
    outputs = set(model.graph.outputs)
    return [value for node in model.graph for value in node.outputs if value not in outputs]


def _is_bulky(value: ir.Value) -> bool:
    import onnx_ir as ir

    return (
        value.dtype is ir.DataType.FLOAT and value.const_value is not None and value.const_value.size > BULKY_ELEMENTS
    )


def _store_integers(model: ir.Model, name: str, weight: NDArray[np.float32], axis: int, grid: WeightGrid) -> None:
    """Store the integers, scales and zero points of a weight, and replace those of an engine."""
    integers, scale = quantize_channels(weight, axis=axis, levels=grid.steps, paired=grid.paired)
    set_initializer(model.graph, f"{name}_scale", scale)
    for part, data in ((int8_check.SUFFIX, integers), ("_zero_point", np.zeros(scale.shape, np.int8))):
        # Flipping the top bit adds 128: the same weights on a grid for kernels that take two unsigned operands.
        stored = data.view(np.uint8) ^ np.uint8(128) if grid is WeightGrid.UINT8 else data
        set_initializer(model.graph, f"{name}{part}", stored)


def _quantize_lookup(model: ir.Model, node: WeightNode, stored: str, *, mapped: bool) -> None:
    """Replace ``Gather(table, ids)`` by lookups of the integers and of their scales.

    A table of its own is stored as ``[rows, dim]`` with a scale per row. A table that a quantized head reads too is
    stored once, in the head's layout ``[dim, rows]``; the lookup then gathers columns.

    Args:
        model: the graph; it is changed.
        node: the lookup.
        stored: the name of the stored integers.
        mapped: the lookup gets its own initializer over the same bytes of the file, so that ONNX Runtime maps the
            looked-up rows and can drop the integers that it has packed for the head.
    """
    import onnx_ir as ir

    graph = model.graph
    gather = graph.node(node.name)
    shared = f"{stored}{int8_check.SUFFIX}" in graph.initializers
    if not shared:
        # No kernel multiplies the integers of a table, so none can overflow: use the full grid around zero.
        table = np.asarray(array(graph.initializers[node.weight]), np.float32)
        _store_integers(model, stored, table, 0, WeightGrid.INT8)
    integers, scale, ids = graph.initializers[f"{stored}{int8_check.SUFFIX}"], f"{stored}_scale", gather.inputs[1]
    if shared and mapped:
        integers = set_initializer(graph, f"{stored}{int8_check.LOOKUP_SUFFIX}", array(integers))
    new: list[ir.Node] = []

    def add(op: str, name: str, *inputs: ir.Value | None, **attributes: int | list[int]) -> ir.Value:
        made = ir.node(op, list(inputs), attributes=attributes, name=name)
        made.outputs[0].name = f"{name}_output"
        new.append(made)
        return made.outputs[0]

    place = f"{node.module}/dequantize"
    rows = add("Gather", node.name, integers, ids, axis=1 if shared else 0)
    if shared:
        rows = add("Transpose", f"{place}/Transpose", rows, perm=[1, 2, 0])
    rows = add("Cast", f"{place}/Cast", rows, to=int(ir.DataType.FLOAT))
    if integers.dtype is ir.DataType.UINT8:
        rows = add(
            "Sub", f"{place}/Sub", rows, set_initializer(graph, f"{place}/middle", np.asarray(128.0, np.float32))
        )
    scales = add("Gather", f"{place}/Gather", graph.initializers[scale], ids, axis=0)
    last = set_initializer(graph, f"{place}/last_axis", np.asarray([-1], np.int64))
    result = add("Mul", f"{place}/Mul", rows, add("Unsqueeze", f"{place}/Unsqueeze", scales, last))
    old = gather.outputs[0]
    result.shape, result.type = old.shape, old.type
    graph.insert_before(gather, new)
    old.replace_all_uses_with(result)
    graph.remove(gather, safe=True)
