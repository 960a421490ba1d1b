"""Greedy generation: one loop for every runtime, and the decoder of ONNX Runtime.

A step binds what changes and runs: inputs and logits stay at their addresses, and the cache stays on the device. If the
attention operator allows it, past and present are one buffer
(https://onnxruntime.ai/docs/performance/tune-performance/iobinding.html).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from qexport.core import ContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Side = Literal["left", "right"]

_ELEMENT_TYPES = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(bfloat16)": 16}
"""ONNX's numbers for the types that a cache may have; numpy has no bfloat16."""
_GRAPH, _NO_GRAPH = "1", "-1"
"""``gpu_graph_id`` of a step, and of a run that is not captured."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Generated tokens and the times that they took."""

    tokens: NDArray[np.int64]
    """``[batch, new tokens]``."""
    first_token_s: float
    """Seconds from handing over the prompts to the first token of each."""
    total_s: float

    @property
    def token_latency_s(self) -> float:
        """Mean seconds of a step after the first token.

        Raises:
            ZeroDivisionError: the first token is the only one.
        """
        return (self.total_s - self.first_token_s) / (self.tokens.shape[1] - 1)


class Tensor(Protocol):
    """An input as a graph declares it, such as ``onnxruntime.NodeArg``."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str | None]: ...
    @property
    def type(self) -> str: ...


class Decoder(Protocol):
    """Continues a batch of prompts: greedily (tokens in, tokens out), or with given tokens (tokens in, logits out)."""

    side: Side
    """The side on which shorter prompts must be padded, so that each row gets the same result as alone."""
    forks: bool
    """True if :meth:`fork` can copy the cache."""

    def begin(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first new token of each row ``[batch]``, from prompts ``[batch, length]`` padded on :attr:`side`."""

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next token of each row ``[batch]``, after ``tokens`` ``[batch]``."""

    def prefill(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """As :meth:`begin`, but the logits of every position, ``[batch, length, vocab]``; valid until the next call."""

    def advance(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """As :meth:`step`, but the logits, ``[batch, vocab]``; valid until the next call."""

    def fork(self, rows: NDArray[np.intp], *, steps: int) -> Decoder:
        """A decoder whose rows continue rows of this one; a row may be used several times, or not at all.

        Args:
            rows: the indices into this batch, ``[new batch]``.
            steps: the most tokens that each of the new rows will be fed.
        """


def generate(
    decoder: Decoder,
    input_ids: NDArray[np.int64],
    attention_mask: NDArray[np.int64],
    *,
    new_tokens: int,
    stop: Collection[int] = (),
) -> Generated:
    """Generate greedily.

    Args:
        decoder: the session's decoder for this batch and at least this many tokens.
        input_ids: the prompts, ``[batch, length]``.
        attention_mask: 1 for tokens and 0 for padding, ``[batch, length]``.
        new_tokens: the number of new tokens of each row; exact without ``stop``, whatever the model writes.
        stop: the tokens that end a row; the loop ends once every row has one.
    """
    ended = np.zeros(len(input_ids), bool)
    start = time.perf_counter()
    latest = decoder.begin(*aligned(input_ids, attention_mask, decoder.side))
    first = time.perf_counter()
    tokens = [latest]
    for _ in range(new_tokens - 1):
        if stop:
            ended |= np.isin(latest, list(stop))
            if ended.all():
                break
        latest = decoder.step(latest)
        tokens.append(latest)
    end = time.perf_counter()
    return Generated(tokens=np.stack(tokens, axis=1), first_token_s=first - start, total_s=end - start)


def padded(
    sequences: Sequence[NDArray[np.int64]], side: Side, *, pad_id: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences of different lengths as one batch: token ids and attention mask, ``[batch, longest]`` each."""
    longest = max(map(len, sequences))
    ids = np.full((len(sequences), longest), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(longest - len(sequence), None) if side == "left" else slice(len(sequence))
        ids[row, place] = sequence
        mask[row, place] = 1
    return ids, mask


def aligned(
    input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], side: Side
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The batch with its padding moved to ``side``.

    Padding between a prompt and its new tokens would use up room in sliding windows, which count it.
    """
    order = np.argsort(attention_mask if side == "left" else -attention_mask, axis=1, kind="stable")
    return np.take_along_axis(input_ids, order, axis=1), np.take_along_axis(attention_mask, order, axis=1)


def positions(attention_mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position of each token among the real ones of its row, ``[batch, length]``; 0 for padding before them."""
    counted: NDArray[np.int64] = np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)
    return counted


def last_real(attention_mask: NDArray[np.int64]) -> NDArray[np.intp]:
    """The index of the last token of each row that is not padding, ``[batch]``."""
    length = attention_mask.shape[1]
    found: NDArray[np.intp] = length - 1 - np.argmax(attention_mask[:, ::-1], axis=1)
    return found


def cache_shape(tensor: Tensor, batch: int, length: int, types: Collection[str]) -> list[int]:
    """The shape ``[batch, kv_heads, length, head_dim]`` of keys or values that go into a graph.

    Raises:
        ContractError: the input has another shape, or a type outside ``types``.
    """
    heads, width = (tensor.shape[1], tensor.shape[3]) if len(tensor.shape) == 4 else (None, None)
    if not isinstance(heads, int) or not isinstance(width, int) or tensor.type not in types:
        raise ContractError(f"{tensor.name}: {tensor.type} {list(tensor.shape)} is not [batch, heads, past, width]")
    return [batch, heads, length, width]


Cache = Literal["grows", "shared", "by length"]
"""``grows``: each step returns a new, longer cache, which the next step takes by reference. ``shared``: one
preallocated buffer; all rows are filled up to the mask's length. ``by length``: one buffer, each row filled up to its
own token count, so that shapes stay fixed and CUDA graphs can replay a step."""


class OrtDecoder:
    """A decoder over one onnxruntime session, made once for a batch size and a capacity and used for many prompts."""

    def __init__(self, session: Any, *, batch: int, capacity: int, cache: Cache, device: str = "cpu") -> None:
        """Allocate the buffers that stay in place.

        Args:
            session: an ``onnxruntime.InferenceSession`` of a decoder with Optimum's names.
            batch: the number of rows.
            capacity: the most tokens of a row, new ones included.
            cache: the form in which the graph keeps keys and values.
            device: the device of the cache, ``cpu`` or ``cuda``.

        Raises:
            ContractError: the graph has no cache.
        """
        self.side: Side = "right" if cache == "by length" else "left"
        self._session = session
        self._inputs: dict[str, Tensor] = {tensor.name: tensor for tensor in session.get_inputs()}
        self._batch, self._device, self._cache = batch, device, cache
        self._names = [name for name in self._inputs if name.startswith("past_key_values.")]
        if not self._names:
            raise ContractError("the graph has no past_key_values: it cannot generate; export the model again")
        self.forks = all(self._inputs[name].type != "tensor(bfloat16)" for name in self._names)  # numpy has no bfloat16
        self._vocabulary = next(tensor for tensor in session.get_outputs() if tensor.name == "logits").shape[-1]
        self._buffers = {} if cache == "grows" else {name: self._new_cache(name, capacity) for name in self._names}
        self._length = 0
        self._ids = _Fixed(np.zeros((batch, 1), np.int64), device)
        self._positions = _Fixed(np.zeros((batch, 1), np.int64), device)
        self._mask = _Fixed(np.ones((batch, capacity), np.int64), device)
        self._logits = _Fixed(np.empty((batch, 1, self._vocabulary), np.float32), device)
        self._past: dict[str, Any] = dict(self._buffers)
        self._binding = self._bind(self._ids, self._positions, self._logits)
        if cache == "by length":
            self._mask.bind_input(self._binding, "attention_mask")

    def begin(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`Decoder.begin`."""
        logits = self.prefill(input_ids, attention_mask)
        latest: NDArray[np.int64] = logits[np.arange(self._batch), last_real(attention_mask)].argmax(axis=1)
        return latest

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`Decoder.step`."""
        latest: NDArray[np.int64] = self.advance(tokens).argmax(axis=1)
        return latest

    def prefill(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`Decoder.prefill`."""
        self._length = input_ids.shape[1]
        where = positions(attention_mask)
        self._positions.host[:, 0] = where.max(axis=1)
        # Behind the prompts: 1 for tokens to come if the mask is cut to length, 0 if the mask is counted.
        self._mask.host[:] = 0 if self._cache == "by length" else 1
        self._mask.host[:, : self._length] = attention_mask
        logits = _Fixed(np.empty((self._batch, self._length, self._vocabulary), np.float32), self._device)
        binding = self._bind(_Fixed(input_ids, self._device), _Fixed(where, self._device), logits)
        binding.bind_cpu_input("attention_mask", np.ascontiguousarray(attention_mask))
        if self._cache == "grows":
            for name in self._names:
                binding.bind_ortvalue_input(name, self._new_cache(name, 0))
        self._run(binding, _NO_GRAPH)
        return logits.fetched()

    def advance(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`Decoder.advance`."""
        self._length += 1
        self._ids.put(tokens[:, np.newaxis])
        self._positions.put(self._positions.host + 1)
        if self._cache == "by length":
            self._mask.host[np.arange(self._batch), self._positions.host[:, 0]] = 1
            self._mask.put(self._mask.host)
        else:
            mask = np.ascontiguousarray(self._mask.host[:, : self._length])
            self._binding.bind_cpu_input("attention_mask", mask)
        self._run(self._binding, _GRAPH)
        return self._logits.fetched()[:, 0]

    def fork(self, rows: NDArray[np.intp], *, steps: int) -> OrtDecoder:
        """See :meth:`Decoder.fork`; the cache is copied through the host."""
        other = OrtDecoder(
            self._session, batch=len(rows), capacity=self._length + steps, cache=self._cache, device=self._device
        )
        other._length = self._length
        other._positions.host[:] = self._positions.host[rows]
        other._mask.host[:] = 0 if self._cache == "by length" else 1
        other._mask.host[:, : self._length] = self._mask.host[rows, : self._length]
        for name, value in self._past.items():
            other._fill(name, value.numpy()[rows, :, : self._length])
        return other

    def _fill(self, name: str, values: NDArray[Any]) -> None:
        """Start from keys or values ``[batch, kv_heads, tokens, head_dim]`` that another decoder made."""
        import onnxruntime

        if self._cache == "grows":
            self._hand_on(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, self._device))
            return
        buffer = self._buffers[name]
        host = buffer.numpy()
        host[:, :, : values.shape[2]] = values
        if self._device != "cpu":  # there, host is a copy
            buffer.update_inplace(host)

    def _run(self, binding: Any, graph_id: str) -> None:
        self._session.run_with_iobinding(binding, self._run_options(graph_id))
        if self._cache == "grows":
            for name, value in zip(self._names, binding.get_outputs()[1:], strict=True):
                self._hand_on(name, value)

    def _hand_on(self, name: str, value: Any) -> None:
        """Make an output the next step's input, by reference. The next step's output is longer."""
        self._past[name] = value
        self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output(_present(name), self._device)

    def _run_options(self, graph_id: str) -> Any:
        """On CUDA each shape has its own graph, or none; a session that captures no graphs ignores the option."""
        if self._device == "cpu":
            return None
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph_id)
        return options

    def _bind(self, ids: _Fixed, where: _Fixed, logits: _Fixed) -> Any:
        binding = self._session.io_binding()
        ids.bind_input(binding, "input_ids")
        if "position_ids" in self._inputs:
            where.bind_input(binding, "position_ids")
        logits.bind_output(binding, "logits")
        for name in self._names:
            if self._cache == "grows":
                binding.bind_output(_present(name), self._device)
            else:
                binding.bind_ortvalue_input(name, self._buffers[name])
                binding.bind_ortvalue_output(_present(name), self._buffers[name])
        return binding

    def _new_cache(self, name: str, length: int) -> Any:
        """An uninitialized cache ``[batch, kv_heads, length, head_dim]`` on the device."""
        import onnxruntime

        tensor = self._inputs[name]
        shape = cache_shape(tensor, self._batch, length, _ELEMENT_TYPES)
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _ELEMENT_TYPES[tensor.type], self._device)


class _Fixed:
    """An array that a binding reads or writes at one address of the device; on the CPU, at its own address."""

    def __init__(self, host: NDArray[Any], device: str) -> None:
        import onnxruntime

        self.host = np.ascontiguousarray(host)
        self._on_cpu = device == "cpu"
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy(self.host, device)

    def put(self, values: NDArray[Any]) -> None:
        self.host[:] = values
        if not self._on_cpu:
            self._value.update_inplace(self.host)

    def fetched(self) -> NDArray[Any]:
        return self.host if self._on_cpu else np.asarray(self._value.numpy())

    def bind_input(self, binding: Any, name: str) -> None:
        binding.bind_ortvalue_input(name, self._value)

    def bind_output(self, binding: Any, name: str) -> None:
        binding.bind_ortvalue_output(name, self._value)


def _present(past: str) -> str:
    return past.replace("past_key_values.", "present.", 1)
