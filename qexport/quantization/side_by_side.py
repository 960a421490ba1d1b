"""Runs a float graph and the graph that is being rounded side by side, part by part.

Each part runs on the outputs of the part before. GPTQ rounds the weights that share an input together. It needs that
input in both graphs: in the float model, and as the weights rounded so far have changed it. To run whole graphs for
each stage would take time quadratic in the depth, so the values that enter a decoder layer are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport import runtime
from qexport.core import ContractError, cut, layer_of, scratch_folder
from qexport.quantization.portable import make_portable

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs import TokenSet

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
        """Hold the two graphs; nothing runs yet.

        Args:
            exact: the float graph, which must not change.
            rounded: the graph whose weights change between the calls of :meth:`moments`, always in layers behind those
                asked for already.
            tokens: the windows; each runs whole and without a past.
        """
        self._models = (exact, rounded)
        self._tokens = tokens
        layers = dict.fromkeys(layer for node in exact.graph if (layer := layer_of(node.name or "")) is not None)
        self._order = {layer: number for number, layer in enumerate(layers)}
        self._entered = 0
        self._held: list[list[Values]] = [[{} for _ in tokens.sequences] for _ in self._models]

    def moments(self, tensor: str, layer: str | None) -> Drifted:
        """The moments of an activation in a decoder layer; ``layer`` is None for an activation behind the last layer.

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
        """Run both graphs up to a layer, and keep the values that enter it instead of those kept now."""
        if layer == self._entered:
            return
        for side in (0, 1):
            names = self._crossing(self._models[side], layer)
            self._held[side][:] = list(self._run(side, names))
        self._entered = layer

    def _crossing(self, model: ir.Model, layer: int) -> list[str]:
        """The values that the layers before ``layer`` compute and later nodes read."""

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
        """Compute some values of each window from the values held for it."""
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
