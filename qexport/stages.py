"""A float graph and the one that is being rounded, side by side, each run part by part on what the part before it gave.

GPTQ rounds the weights that share an input together, and wants to see that input in both graphs: as the float model has
it, and as the weights rounded so far have changed it. Running whole graphs for each of these stages would take time with
the square of the depth; so the values that enter a decoder layer are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport import runtime
from qexport.errors import ContractError
from qexport.graph import cut
from qexport.portable import make_portable
from qexport.scratch import scratch_folder
from qexport.selection import layer_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs.text import TokenSet

Values = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """Second moments of one activation over all tokens; ``X`` in the float graph, ``Y`` in the rounded one."""

    hessian: NDArray[np.float64]
    """``Y.T @ Y / rows``, ``[channels, channels]``."""
    drift: NDArray[np.float64]
    """``(X - Y).T @ Y / rows``, ``[channels, channels]``."""


class SideBySide:
    """Two graphs of the same nodes over the same windows of tokens."""

    def __init__(self, exact: ir.Model, rounded: ir.Model, tokens: TokenSet) -> None:
        """Nothing runs yet.

        Args:
            exact: the float graph, which must not change.
            rounded: the graph whose weights are changed between the calls of :meth:`moments`, always in layers that
                come after those asked for already.
            tokens: windows, each run whole and without a past.
        """
        self._models = (exact, rounded)
        self._tokens = tokens
        layers = dict.fromkeys(layer for node in exact.graph if (layer := layer_of(node.name or "")) is not None)
        self._order = {layer: number for number, layer in enumerate(layers)}
        self._entered = 0
        self._held: list[list[Values]] = [[{} for _ in tokens.sequences] for _ in self._models]

    def moments(self, tensor: str, layer: str | None) -> Drifted:
        """The moments of an activation inside a decoder layer; None for one behind the last layer.

        Raises:
            ContractError: the activation is not finite.
        """
        self._enter(len(self._order) if layer is None else self._order[layer])
        hessian: NDArray[np.float64] | None = None
        drift: NDArray[np.float64] | None = None
        rows = 0
        for exact, rounded in zip(*(self._run(side, [tensor]) for side in (0, 1)), strict=True):
            x, y = (
                values[tensor].reshape(-1, values[tensor].shape[-1]).astype(np.float64) for values in (exact, rounded)
            )
            hessian = y.T @ y + (0 if hessian is None else hessian)
            drift = (x - y).T @ y + (0 if drift is None else drift)
            rows += len(y)
        assert hessian is not None
        assert drift is not None
        if not (np.isfinite(hessian).all() and np.isfinite(drift).all()):
            raise ContractError(f"{tensor}: not finite on the calibration text; the model overflows in fp32")
        return Drifted(hessian=hessian / rows, drift=drift / rows)

    def _enter(self, layer: int) -> None:
        """Run both graphs up to a layer, and keep what enters it instead of what is kept now."""
        if layer == self._entered:
            return
        for side in (0, 1):
            names = self._crossing(self._models[side], layer)
            self._held[side][:] = list(self._run(side, names))
        self._entered = layer

    def _crossing(self, model: ir.Model, layer: int) -> list[str]:
        """Values that the layers before ``layer`` give and later nodes read."""

        def before(node: ir.Node) -> bool:
            number = self._order.get(layer_of(node.name or "") or "")
            return number is not None and number < layer

        return [
            str(value.name)
            for node in model.graph
            if before(node)
            for value in node.outputs
            if any(not before(use.node) for use in value.uses())
        ]

    def _run(self, side: int, outputs: Sequence[str]) -> Iterator[Values]:
        """Some values of each window, from what is held of it."""
        import onnx_ir as ir

        held = self._held[side]
        part = cut(self._models[side], inputs=list(held[0]) if held else [], outputs=outputs)
        make_portable(part)
        with scratch_folder("stage") as folder:
            path = Path(folder) / "part.onnx"
            ir.save(part, path, external_data="part.data")
            session = runtime.OrtSession(path, spin=False)
            for window, kept in zip(self._tokens.sequences, list(held), strict=True):
                given = [tensor for tensor in session.inputs if tensor.name not in kept]
                feeds: Mapping[str, NDArray[Any]] = runtime.decoder_feeds(given, window[None, :], None)
                wanted = {tensor.name for tensor in session.inputs}
                yield session.run({**feeds, **{name: kept[name] for name in kept if name in wanted}}, outputs)
