"""Weights in 4 or 8 bits with a scale for each block of inputs (W4A16, W8A16); a CPU kernel may round activations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from qexport.core import ContractError, InputError, QuantizedNode, Role, TargetName, array, progress, set_initializer
from qexport.quantization import block_weights
from qexport.quantization.calibration import require_windows
from qexport.quantization.half import to_half
from qexport.quantization.int8_check import require_nothing_besides
from qexport.quantization.moments import Moments, moments
from qexport.quantization.numerics.awq import awq_scale
from qexport.quantization.numerics.blocks import Blocks, Grid, rtn
from qexport.quantization.numerics.gptq import follow_float, gptq
from qexport.quantization.numerics.hqq import hqq
from qexport.quantization.numerics.smooth import smoothing_scale
from qexport.quantization.rescale import follows_norm, groups, rescale
from qexport.quantization.schemes.scheme import Rewritten, Settings, refused_lookup, with_fields
from qexport.quantization.side_by_side import SideBySide
from qexport.quantization.targets import TARGETS, Need, Target
from qexport.quantization.walk import Walk

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.core import FloatGraph, Selection, WeightNode
    from qexport.inputs import TokenSet

COARSEST = {4: 0.35, 8: 0.03}
"""Largest relative error (Frobenius) of a rounded weight; rounding stays below it, a mistake in packing leaves 1 or
more."""


@dataclass(frozen=True, kw_only=True)
class Rtn:
    """Round to nearest."""


@dataclass(frozen=True, kw_only=True)
class Hqq:
    """Half-quadratic quantization: zero points that reduce the error of all weights but outliers; no calibration."""


@dataclass(frozen=True, kw_only=True)
class Gptq:
    """Rounds column by column; the later columns compensate the error, by the second moments of the inputs.

    Salient channels are scaled up first, as in AWQ. Each stage of weights aims at the outputs of the float model, so
    that it compensates the earlier stages too.
    """

    damping: float = 0.1
    """Fraction of the mean of the second moments that is added to each."""
    table_damping: float = 1.0
    """The same for a table whose rows are also looked up: the lookup needs the weights themselves to be close."""


@dataclass(frozen=True, kw_only=True)
class Awq:
    """Scales up the weights of salient input channels before they are rounded to nearest."""


STRENGTH = 0.5
"""SmoothQuant's migration strength. On SmolLM2-135M in blocks of 32 the divergence from fp32 is 0.0063 nats without
smoothing, 0.0030 with 0.5, and 0.0048 with 0.7."""
SLOW = (
    "the CPU's kernel for 8-bit weights and float activations takes 2.7 times fp32's time for a sentence and 7 times for "
    "a token; leave --compute out"
)
Rounding = Rtn | Hqq | Gptq | Awq
NAMES: Mapping[type[Rounding], str] = {Rtn: "rtn", Hqq: "hqq", Gptq: "gptq", Awq: "awq"}


@dataclass(frozen=True, kw_only=True)
class WeightOnly:
    """Weights of MatMuls as MatMulNBits, lookup tables as GatherBlockQuantized; a tied table is stored once."""

    bits: Literal[4, 8]
    rounding: Rounding
    block_size: Literal[16, 32, 64, 128] = 32
    symmetric: bool = True
    """True if the zero point is the middle of the grid; it is then not stored."""
    compute: Literal["float", "int8"] | None = None
    """The activations of the CPU kernel: floating point, or rounded to int8 block by block. None takes the quick one."""
    head_bits: Literal[4, 8] | None = None
    """Bits of the output head and of the table that it shares; None takes the bits of the body."""
    target: TargetName = "cpu"

    OPTIONS: ClassVar[tuple[str, ...]] = ("block_size", "compute", "head_bits", "symmetric", "target")
    takes_nodes: ClassVar[bool] = True
    lookup: ClassVar[Need | None] = "block lookups"
    leaves_half: ClassVar[bool] = True
    engine: ClassVar[str] = "qexport"

    @property
    def needs(self) -> frozenset[Need]:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.needs`."""
        return frozenset({"8-bit blocks"} if self.bits == 8 else ())

    def configured(self, choices: Mapping[str, object]) -> WeightOnly:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.configured`."""
        scheme = with_fields(self, choices)
        if TARGETS[scheme.target].symmetric_only and choices.get("symmetric") is False:
            raise InputError("the option symmetric: TensorRT takes symmetric blocks only; leave --asymmetric out")
        if scheme.compute == "int8" and scheme.target != "cpu":
            raise InputError(
                f"the option compute: int8 is a kernel of the CPU that the target {scheme.target} has not; leave --compute out"
            )
        if TARGETS[scheme.target].fused_blocks:
            friendly = {"block_size": 32, "symmetric": True}
            return with_fields(scheme, {name: value for name, value in friendly.items() if name not in choices})
        return replace(scheme, symmetric=True) if TARGETS[scheme.target].symmetric_only else scheme

    @property
    def calibration(self) -> str:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.calibration`."""
        return NAMES[type(self.rounding)] if isinstance(self.rounding, (Gptq, Awq)) else ""

    @property
    def _for(self) -> Target:
        return TARGETS[self.target]

    @property
    def slow(self) -> str:
        """See :attr:`qexport.quantization.schemes.scheme.OnnxScheme.slow`."""
        return SLOW if self.target == "cpu" and self.compute == "float" and 8 in {self.bits, self.head_bits} else ""

    def _compute(self, bits: int) -> str:
        """The activations that weights of ``bits`` meet. 8-bit weights have no quick kernel for float activations."""
        return self.compute or ("int8" if bits == 8 and self.target == "cpu" else "float")

    def refusal(self, node: WeightNode) -> str:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.refusal`."""
        return refused_lookup(self, node)

    def stored_bytes(self, node: WeightNode) -> int:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.stored_bytes`."""
        rows, columns = node.channels, _columns(node)
        grid = self._grid(node)
        blocks = rows * grid.blocks(columns)
        zeros = 0 if self.symmetric else rows * -(-grid.blocks(columns) * grid.bits // 8)
        return blocks * (grid.block_size * grid.bits // 8 + np.dtype(grid.scale_dtype).itemsize) + zeros

    def _grid(self, node: WeightNode) -> Grid:
        """The grid of a node's weight; a block is not longer than a row needs."""
        head = node.role is Role.LM_HEAD
        return Grid(
            bits=self.head_bits or self.bits if head else self.bits,
            block_size=min(self.block_size, max(16, 1 << (_columns(node) - 1).bit_length())),
            symmetric=self.symmetric,
            scale_dtype="float16" if self._for.fused_blocks else "float32",
        )

    def apply(self, parent: FloatGraph, selection: Selection, *, tokens: TokenSet | None) -> Rewritten:
        """See :meth:`qexport.quantization.schemes.scheme.OnnxScheme.apply`.

        Raises:
            ContractError: a weight is far off after rounding.
            InputError: GPTQ or AWQ without calibration text.
        """
        if self.head_bits and not any(node.role is Role.LM_HEAD for node in selection.nodes):
            raise InputError("the option head_bits has no effect, since the head is not selected; leave it out")
        model = parent.copy()
        plan = _plan(selection, self._grid)
        digests = {}
        for name, weight, blocks in self._rounded(model, plan, tokens):
            _require_close(name, weight, blocks)
            if self._for.onnx_only:
                block_weights.store_portable(model, name, blocks)
            else:
                block_weights.store(model, name, blocks, lookup=bool(plan[name].lookups), shared=self.target != "cpu")
            digests[name] = _digest(blocks)
        for name, task in plan.items():
            self._emit(model, name, task)
        if self._for.fused_blocks:
            to_half(model, "fp16")
        return Rewritten(
            model=model,
            check=lambda emitted: self._check(emitted, selection, plan, digests),
            settings=self._settings(),
        )

    def _emit(self, model: ir.Model, name: str, task: _Task) -> None:
        for node in task.matmuls:
            if self._for.onnx_only:
                block_weights.emit_portable(model, node, name, task.grid)
            else:
                block_weights.emit_matmul(model, node, name, task.grid, compute=self._compute(task.grid.bits))
        for node in task.lookups:
            block_weights.emit_lookup(model, node, name, task.grid)

    def _settings(self) -> Settings:
        settings: Settings = {
            "bits": self.bits,
            "block_size": self.block_size,
            "symmetric": self.symmetric,
            "rounding": NAMES[type(self.rounding)],
            "compute": self._compute(self.bits),
        }
        if self.head_bits:
            settings |= {"head_bits": self.head_bits, "head_compute": self._compute(self.head_bits)}
        return settings

    def _rounded(self, model: ir.Model, plan: Mapping[str, _Task], tokens: TokenSet | None) -> Iterator[_Rounded]:
        """Round every weight of the plan. AWQ rescales the graph first; GPTQ leaves rounded weights in the graph."""
        match self.rounding:
            case Rtn():
                yield from _each(model, plan, rtn)
            case Hqq():
                yield from _each(model, plan, hqq)
            case Awq():
                _rescale(model, plan, _required(tokens), smooth=False)
                yield from _each(model, plan, rtn)
            case Gptq() as rounding:
                smooth = self.bits == 8 and self._compute(8) == "int8"
                _rescale(model, plan, _required(tokens), smooth=smooth)
                yield from _gptq(model, plan, _required(tokens), rounding)

    def _check(
        self, emitted: ir.Model, selection: Selection, plan: Mapping[str, _Task], digests: Mapping[str, str]
    ) -> tuple[QuantizedNode, ...]:
        """Compare the emitted file with the selection and the rounded weights.

        Raises:
            ContractError: a node is missing or extra, multiplies in another way, or reads other integers, scales or
                zero points than the rounded ones; or the graph has another quantizing operator.
        """
        found = {node.node: node for node in block_weights.packed_nodes(emitted)}
        asked = {node.name: node for node in selection.nodes}
        if found.keys() != asked.keys():
            different = sorted(found.keys() ^ asked.keys())
            raise ContractError(f"quantized nodes differ from the selection: {', '.join(different[:3])}")
        own = block_weights.DEQUANTIZE if self._for.onnx_only else block_weights.MATMUL
        accounted = [node for node in emitted.graph if node.op_type == own]
        require_nothing_besides(emitted, accounted, by=f"{NAMES[type(self.rounding)]}:")
        for name, node in asked.items():
            read = found[name]
            if _digest(read.blocks, node.shape[1] if read.lookup else None) != digests[node.weight]:
                raise ContractError(f"{name}: does not read the integers and scales that {node.weight} was rounded to")
            compute = "" if node.role is Role.EMBEDDING else self._compute(plan[node.weight].grid.bits)
            if read.compute != compute:
                raise ContractError(
                    f"{name}: computes in {read.compute or 'no'} arithmetic instead of {compute or 'none'}"
                )
        return tuple(
            QuantizedNode(
                name=name,
                weight=node.weight,
                weight_dtype=f"{'u' if not self.symmetric else ''}int{plan[node.weight].grid.bits}",
                per_channel=False,
                activation="none",
                block_size=plan[node.weight].grid.block_size,
            )
            for name, node in asked.items()
        )


_Rounded = tuple[str, "NDArray[np.float32]", Blocks]
"""Name, float weight ``[out, in]`` and rounded weight."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One weight and the selected nodes that read it."""

    matmuls: tuple[WeightNode, ...]
    lookups: tuple[WeightNode, ...]
    grid: Grid

    @property
    def transposed(self) -> bool:
        """True if the weight is stored as ``[in, out]``, False if as ``[out, in]``."""
        return not self.lookups and not self.matmuls[0].tied

    @property
    def weight(self) -> str:
        return (self.matmuls or self.lookups)[0].weight

    @property
    def columns(self) -> int:
        return _columns((self.matmuls or self.lookups)[0])

    def rows(self, model: ir.Model) -> NDArray[np.float32]:
        """The float weight that is in the graph now, ``[out, in]``."""
        stored = np.asarray(array(model.graph.initializers[self.weight]), np.float32)
        return np.ascontiguousarray(stored.T) if self.transposed else stored


def _columns(node: WeightNode) -> int:
    """The number of inputs of a MatMul, or the width of a looked-up row."""
    return node.parameters // node.channels


def _plan(selection: Selection, grid: Callable[[WeightNode], Grid]) -> dict[str, _Task]:
    """The selected nodes by the weight they read, in graph order; a shared table has the head's grid."""
    by_weight: dict[str, list[WeightNode]] = {}
    for node in selection.nodes:
        by_weight.setdefault(node.weight, []).append(node)
    return {
        weight: _Task(
            matmuls=tuple(node for node in nodes if node.role is not Role.EMBEDDING),
            lookups=tuple(node for node in nodes if node.role is Role.EMBEDDING),
            grid=grid(next((node for node in nodes if node.role is Role.LM_HEAD), nodes[0])),
        )
        for weight, nodes in by_weight.items()
    }


def _each(
    model: ir.Model, plan: Mapping[str, _Task], rounding: Callable[[NDArray[np.float32], Grid], Blocks]
) -> Iterator[_Rounded]:
    for name, task in plan.items():
        weight = task.rows(model)
        yield name, weight, rounding(weight, task.grid)


def _required(tokens: TokenSet | None) -> TokenSet:
    if tokens is None:
        raise InputError("GPTQ and AWQ need windows of calibration text; give tokens")
    require_windows(tokens)
    return tokens


def _inputs(model: ir.Model, nodes: Sequence[WeightNode]) -> dict[str, str]:
    """The name of the activation that each MatMul reads, by the node's name."""
    names = {node.name for node in nodes}
    return {
        str(node.name): str(node.inputs[0].name)
        for node in model.graph
        if node.name in names and node.inputs[0] is not None
    }


def _gptq(model: ir.Model, plan: Mapping[str, _Task], tokens: TokenSet, rounding: Gptq) -> Iterator[_Rounded]:
    """Round in stages. The weights of a stage share an input and aim at the outputs of the float graph.

    Tables come first, so that the layers compensate their errors. A table that is only looked up meets no input and is
    rounded to nearest. A table that the head multiplies by too is rounded for both readers at once.
    """
    exact = model.clone()
    tables = [task for task in plan.values() if not task.transposed]
    stages = _stages(model, [task for task in plan.values() if task.transposed])
    sides = SideBySide(exact, model, tokens)
    with progress.task("GPTQ", total=len(tables) + len(stages)) as advance:
        for task in tables:
            weight = task.rows(model)
            blocks = _round_table(exact, task, tokens, rounding)
            if task.lookups:
                set_initializer(model.graph, task.weight, blocks.dequantize())
            yield task.weight, weight, blocks
            advance()
        for tensor, tasks in stages.items():
            seen = sides.moments(tensor)
            weights = [task.rows(model) for task in tasks]
            # Rows do not depend on each other, and a step on many rows costs little more than a step on few.
            followed = follow_float(np.concatenate(weights), seen.hessian, seen.drift)
            together = gptq(followed, tasks[0].grid, seen.hessian, damping=rounding.damping)
            start = 0
            for task, weight in zip(tasks, weights, strict=True):
                blocks = together.rows(slice(start, start := start + len(weight)))
                set_initializer(model.graph, task.weight, blocks.dequantize().T)
                yield task.weight, weight, blocks
            advance()


def _round_table(model: ir.Model, task: _Task, tokens: TokenSet, rounding: Gptq) -> Blocks:
    weight = task.rows(model)
    if not task.matmuls:
        return rtn(weight, task.grid)
    (tensor,) = _inputs(model, task.matmuls).values()
    hessian = moments(Walk(model, tokens), tensor).hessian
    return gptq(weight, task.grid, hessian, damping=rounding.table_damping if task.lookups else rounding.damping)


def _stages(model: ir.Model, tasks: Sequence[_Task]) -> dict[str, list[_Task]]:
    """Tasks by the activation that their MatMuls read, in graph order."""
    tensors = _inputs(model, [node for task in tasks for node in task.matmuls])
    owners = {task.matmuls[0].name: task for task in tasks}
    stages: dict[str, list[_Task]] = {}
    for name, tensor in tensors.items():
        if name in owners:
            stages.setdefault(tensor, []).append(owners[name])
    return stages


def _rescale(model: ir.Model, plan: Mapping[str, _Task], tokens: TokenSet, *, smooth: bool) -> None:
    """Scale the input channels of groups of MatMuls; the function of the graph does not change.

    Args:
        model: the graph to change.
        plan: the weights that will be rounded.
        tokens: the calibration windows.
        smooth: take SmoothQuant's scales behind norms, since activations are rounded, instead of AWQ's.
    """
    found = groups(model, [node for task in plan.values() for node in task.matmuls])
    if smooth:
        found = [group for group in found if follows_norm(model, group, plan[group.weights[0]].columns)]
    walk = Walk(model.clone(), tokens, consume=True)
    with progress.task("scaling channels", total=len(found)) as advance:
        for group in found:
            rows = [plan[name].rows(model) for name in group.weights]
            seen = moments(walk, group.tensor)
            if smooth:
                scale = _smoothing(rows, seen)
            else:
                scale = awq_scale(rows, plan[group.weights[0]].grid, seen.hessian, seen.magnitude)
            if np.any(scale != 1):
                rescale(model, group, scale)
            advance()


def _smoothing(weights: Sequence[NDArray[np.float32]], seen: Moments) -> NDArray[np.float32]:
    """SmoothQuant's scales by the RMS of each channel; the kernel gives each block of a token its own range."""
    rms = np.sqrt(seen.hessian.diagonal()).astype(np.float32)
    peaks = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
    return smoothing_scale(rms, peaks, STRENGTH)


def _require_close(name: str, weight: NDArray[np.float32], blocks: Blocks) -> None:
    """Make sure that a rounded weight is close to its float weight: a large error is a mistake, not a rounding.

    Raises:
        ContractError: the error is too large.
    """
    off = float(np.linalg.norm(blocks.dequantize() - weight))
    if not off <= COARSEST[blocks.grid.bits] * float(np.linalg.norm(weight)):  # NaN is not close either
        raise ContractError(f"{name}: rounded to {blocks.grid.bits} bits it is off by {off:.3g}; is it finite?")


def _digest(blocks: Blocks, columns: int | None = None) -> str:
    """Digest of the data that the kernels read; ``columns`` cuts off the padding of a looked-up row's last block."""
    digest = hashlib.sha256(repr(blocks.grid).encode())
    for part in (blocks.integers[:, :columns], blocks.scale, blocks.zero_point):
        digest.update(b"none" if part is None else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
