"""Runs a graph over windows of tokens, part by part; each part runs on the outputs of the parts before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport import runtime
from qexport.core import cpu, cut, scratch_folder
from qexport.quantization.portable import make_portable

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from qexport.inputs import TokenSet

Values = dict[str, "NDArray[Any]"]

ROWS_AT_ONCE = 2048
"""Rows that are multiplied at once. With the few rows of a window, much of the time would go into adding matrices."""


class Walk:
    """A graph on its way through windows of tokens; every node runs once for each window."""

    def __init__(self, model: ir.Model, tokens: TokenSet, *, consume: bool = False) -> None:
        """Hold the graph; nothing runs yet.

        Args:
            model: the graph. Its weights may change on the way, behind the activations asked for already.
            tokens: the windows; each runs whole and without a past.
            consume: drop each weight from the graph after its last use, which frees its memory.
        """
        self._model = model
        self._consume = consume
        self._tokens = tokens
        self._done: set[ir.Node] = set()
        self._held: list[Values] = [{} for _ in tokens.sequences]

    def batches(self, tensor: str) -> Iterator[NDArray[np.float64]]:
        """An activation in all windows, ``[rows, channels]`` at a time; see :meth:`rows`.

        A batch is whole windows of at least :data:`ROWS_AT_ONCE` rows, and the last batch is the rest.
        """
        waiting: list[NDArray[np.float32]] = []
        for values in self.rows(tensor):
            waiting.append(values)
            if sum(map(len, waiting)) >= ROWS_AT_ONCE:
                yield np.concatenate(waiting).astype(np.float64)
                waiting.clear()
        if waiting:
            yield np.concatenate(waiting).astype(np.float64)

    def rows(self, tensor: str) -> Iterator[NDArray[np.float32]]:
        """An activation in each window, ``[tokens, channels]``; one before it can no longer be asked for.

        All windows must be taken before the next activation is asked for.
        """
        names = self._names_held_at(tensor)
        fresh = [name for name in names if name not in self._held[0]]
        for number, computed in enumerate(self._run(fresh) if fresh else ({} for _ in self._held)):
            before = self._held[number]
            self._held[number] = {name: computed[name] if name in computed else before[name] for name in names}
            values = self._held[number][tensor]
            yield values.reshape(-1, values.shape[-1])
        if self._consume:
            weights = self._model.graph.initializers.values()
            _drop(value for value in weights if all(use.node in self._done for use in value.uses()))

    def _names_held_at(self, tensor: str) -> list[str]:
        """Count the nodes that an activation needs as run; name it and the values of such nodes that others read."""
        graph = self._model.graph
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

    def _run(self, outputs: Sequence[str]) -> Iterator[Values]:
        """Compute some values of each window from the values held for it.

        Windows run beside each other with one thread each. With two threads for one window ONNX Runtime gives other last
        bits than with one, and the weights would depend on the number of cores.
        """
        import onnx_ir as ir

        part = cut(self._model, inputs=list(self._held[0]), outputs=outputs)
        make_portable(part)
        with scratch_folder("stage") as folder, ThreadPoolExecutor(cpu.cores()) as pool:
            path = Path(folder) / "part.onnx"
            ir.save(part, path, external_data="part.data")
            _drop(part.graph.initializers.values())
            session = runtime.OrtSession(path, threads=1, spin=False)
            wanted = {tensor.name for tensor in session.inputs}

            def compute(number: int) -> Values:
                kept = self._held[number]
                given = [tensor for tensor in session.inputs if tensor.name not in kept]
                window = self._tokens.sequences[number][None, :]
                feeds: Mapping[str, NDArray[Any]] = runtime.decoder_feeds(given, window, None)
                return session.run({**feeds, **{name: kept[name] for name in kept if name in wanted}}, outputs)

            for start in range(0, len(self._held), cpu.cores()):
                yield from pool.map(compute, range(start, min(start + cpu.cores(), len(self._held))))


def _drop(weights: Iterable[ir.Value]) -> None:
    """Release the memory of weights. A graph refers to itself, and Python may find it unused only much later."""
    for value in weights:
        value.const_value = None
