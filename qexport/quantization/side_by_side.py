"""Runs a float graph and the graph that is being rounded side by side, part by part.

GPTQ rounds the weights that share an input together. It needs that input in both graphs: in the float model, and as the
weights rounded so far have changed it. Each part runs up to such an input, from the values that the parts before it
computed and that are still to be read. So every node runs once for each window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport import runtime
from qexport.core import ContractError, cut, scratch_folder
from qexport.quantization.portable import make_portable

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs import TokenSet

Values = dict[str, "NDArray[Any]"]
ROWS_AT_ONCE = 2048
"""Rows that are multiplied at once. With fewer rows, much of the time would go into adding matrices."""


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """Second moments of one activation over all tokens; ``X`` in the float graph, ``Y`` in the rounded one."""

    hessian: NDArray[np.float64]
    """``Y.T @ Y / rows``, ``[channels, channels]``."""
    drift: NDArray[np.float64]
    """``(X - Y).T @ Y / rows``, ``[channels, channels]``."""


class _Sums:
    """The running sums of the moments, over rows of both graphs."""

    def __init__(self) -> None:
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self._waiting_rows = self._rows = 0
        self._hessian: NDArray[np.float64] | float = 0.0
        self._drift: NDArray[np.float64] | float = 0.0

    def add(self, exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> None:
        self._waiting.append((exact, rounded))
        self._waiting_rows += len(rounded)
        if self._waiting_rows >= ROWS_AT_ONCE:
            self._sum_up()

    def _sum_up(self) -> None:
        x, y = (np.concatenate(part).astype(np.float64) for part in zip(*self._waiting, strict=True))
        self._hessian += y.T @ y
        self._drift += np.subtract(x, y, out=x).T @ y
        self._rows += len(y)
        self._waiting.clear()
        self._waiting_rows = 0

    def moments(self) -> Drifted:
        """The moments over all rows added."""
        if self._waiting:
            self._sum_up()
        hessian, drift = np.asarray(self._hessian), np.asarray(self._drift)
        return Drifted(hessian=hessian / self._rows, drift=drift / self._rows)


class SideBySide:
    """Two graphs of the same nodes over the same windows of tokens."""

    def __init__(self, exact: ir.Model, rounded: ir.Model, tokens: TokenSet) -> None:
        """Hold the two graphs; nothing runs yet.

        Args:
            exact: the float graph, which must not change.
            rounded: the graph whose weights change between the calls of :meth:`moments`, always behind the activations
                asked for already.
            tokens: the windows; each runs whole and without a past.
        """
        self._models = (exact, rounded)
        self._tokens = tokens
        self._done: set[ir.Node] = set()
        self._held: list[list[Values]] = [[{} for _ in tokens.sequences] for _ in self._models]

    def moments(self, tensor: str) -> Drifted:
        """The moments of an activation; those of activations before it can no longer be asked for.

        Raises:
            ContractError: the activation is not finite.
        """
        names = self._names_held_at(tensor)
        sums = _Sums()
        for values in zip(*(self._advance(side, names) for side in (0, 1)), strict=True):
            sums.add(*(each[tensor].reshape(-1, each[tensor].shape[-1]) for each in values))
        found = sums.moments()
        if not (np.isfinite(found.hessian).all() and np.isfinite(found.drift).all()):
            raise ContractError(f"{tensor}: not finite on the calibration text; the model overflows in fp32")
        return found

    def _names_held_at(self, tensor: str) -> list[str]:
        """Count the nodes that an activation needs as run; name it and the values of such nodes that others read."""
        graph = self._models[0].graph
        waiting = [node for node in graph if any(value.name == tensor for value in node.outputs)]
        while waiting:
            node = waiting.pop()
            if node not in self._done:
                self._done.add(node)
                producers = (value.producer() for value in node.inputs if value is not None)
                waiting.extend(producer for producer in producers if producer is not None)
        return [
            str(value.name)
            for node in graph
            if node in self._done
            for value in node.outputs
            if value.name == tensor or any(use.node not in self._done for use in value.uses())
        ]

    def _advance(self, side: int, names: Sequence[str]) -> Iterator[Values]:
        """Compute values of each window from the values held for it, and hold them instead."""
        held = self._held[side]
        fresh = [name for name in names if name not in held[0]]
        for number, computed in enumerate(self._run(side, fresh) if fresh else ({} for _ in held)):
            held[number] = {name: computed[name] if name in computed else held[number][name] for name in names}
            yield held[number]

    def _run(self, side: int, outputs: Sequence[str]) -> Iterator[Values]:
        """Compute some values of each window from the values held for it."""
        import onnx_ir as ir

        held = self._held[side]
        part = cut(self._models[side], inputs=list(held[0]), outputs=outputs)
        make_portable(part)
        with scratch_folder("stage") as folder:
            path = Path(folder) / "part.onnx"
            ir.save(part, path, external_data="part.data")
            session = runtime.OrtSession(path, spin=False)
            wanted = {tensor.name for tensor in session.inputs}
            for window, kept in zip(self._tokens.sequences, list(held), strict=True):
                given = [tensor for tensor in session.inputs if tensor.name not in kept]
                feeds: Mapping[str, NDArray[Any]] = runtime.decoder_feeds(given, window[None, :], None)
                yield session.run({**feeds, **{name: kept[name] for name in kept if name in wanted}}, outputs)
