"""Compares the logits of the graph with those of the torch model.

Both run the same steps, each on its own cache: whole prompts, prompts continued token by token and in pieces, batches
of unequal lengths padded on either side, and lengths on both sides of every switch in the architecture (sliding window,
long rotary factors). Logits are compared at the real tokens.

Torch's own float32 differs from float64. That difference is the model's noise on this machine, and the graph may differ
by a small multiple of the noise (docs/decisions/0016). Float64 runs for the first case, and for each case where the
graph is further from float32 than that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qexport.core import InputError, ParityError
from qexport.exporting.float64 import float64
from qexport.exporting.operators import attention_set
from qexport.exporting.signature import Signature
from qexport.inputs import Architecture

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedModel

    from qexport.core import Exporter

NOISE_FACTOR = 8
"""The largest difference of a graph in multiples of the noise: right graphs reached 2.5, and 4.9 in a case of 128
single tokens."""

FLOOR, CEILING = 1e-5, 1e-3
"""The smallest and the largest limit of a graph's difference, in standard deviations of the case's logits. Tiny models
have a noise of 1e-6 and less. The least difference made by a weight wrong by 1 % was 4e-3."""

_LONGEST = 1024
"""A switch of the architecture beyond this number of tokens is not tried: eager attention in torch grows with its
square."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to run a model.

    Attributes:
        lengths: the number of real tokens of each row's prompt.
        steps: the number of tokens of each further call, the same for every row.
        side: the side on which shorter prompts are padded.
        first: the position of the first real token; other than 0 only if positions are an input.
    """

    name: str
    lengths: tuple[int, ...]
    steps: tuple[int, ...] = ()
    side: Literal["left", "right"] = "left"
    first: int = 0

    @property
    def longest(self) -> int:
        return max(self.lengths) + sum(self.steps)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Largest differences of a logit in one case.

    Attributes:
        reference: the precision of torch that the graph is compared with.
        graph: the difference of the graph from torch.
        noise: the difference of torch in float32 from float64; taken from the first case if the reference is float32.
        deviation: the standard deviation of the logits around each position's mean.
    """

    reference: Literal["float32", "float64"] = "float64"
    graph: float
    noise: float
    deviation: float

    @property
    def is_parity(self) -> bool:
        return self.graph <= self.allowed  # false if a figure is NaN

    @property
    def allowed(self) -> float:
        """The largest difference that the graph may have."""
        return min(max(NOISE_FACTOR * self.noise, FLOOR * self.deviation), CEILING * self.deviation)

    @property
    def graph_deviations(self) -> float:
        """The graph's difference in standard deviations."""
        return self.graph / self.deviation

    @property
    def noise_deviations(self) -> float:
        """The noise in standard deviations."""
        return self.noise / self.deviation

    def __str__(self) -> str:
        return (
            f"a logit of the exported graph differs from torch's in {self.reference} by {self.graph:.3g} "
            f"({self.graph_deviations:.2g} standard deviations), torch's own float32 from float64 by {self.noise:.3g} "
            f"({self.noise_deviations:.2g})"
        )


def cases_for(config: PretrainedConfig, signature: Signature, *, right_only: bool = False) -> list[Case]:
    """The cases for an architecture, without those longer than its context or too long to check quickly.

    ``right_only`` leaves out batches padded on the left and batches longer than a sliding window: torch counts the
    padding behind a prompt in its window, and lengths by row do not.
    """
    cases = [
        Case(name="one prompt", lengths=(11,)),
        Case(name="one token", lengths=(1,)),
        Case(name="prompt with past", lengths=(5,), steps=(4, 1, 1)),
        Case(name="batch padded left, with past", lengths=(9, 4, 1), steps=(1, 1), side="left"),
        Case(name="batch padded right, with past", lengths=(9, 4, 1), steps=(1, 1), side="right"),
    ]
    architecture = Architecture.of(config.to_dict())
    window, switch = architecture.sliding_window, architecture.longrope_switch
    for name, length in (("sliding window", window), ("switch of the rotary factors", switch)):
        if length is None:
            continue
        cases += [
            Case(name=f"prompt beyond the {name}", lengths=(length + 5,), steps=(1,)),
            Case(name=f"past grows beyond the {name}", lengths=(max(1, length - 2),), steps=(1,) * 5),
            Case(name=f"batch padded left beyond the {name}", lengths=(length + 4, 3), steps=(1, 1)),
        ]
    if switch is not None and signature.position_ids:  # cheap at any length: only the position counts
        cases.append(Case(name="positions beyond the switch of the rotary factors", lengths=(5, 2), first=switch))
    if right_only:
        cases = [
            case
            for case in cases
            if len(case.lengths) == 1 or (case.side == "right" and (window is None or case.longest <= window))
        ]
    context = architecture.context_length or _LONGEST
    return [case for case in cases if case.longest + case.first <= context and case.longest <= _LONGEST]


def check(
    onnx_path: Path, torch_model: PreTrainedModel, signature: Signature, *, exporter: Exporter = "fused"
) -> dict[str, Difference]:
    """Compare the graph with the torch model; a graph of ``fused-cuda`` only takes padding on the right.

    Returns:
        For each case the difference of the graph, and that of torch's own float32.

    Raises:
        ParityError: in some case the graph differs by more than is allowed; the message names the option to take next.
    """
    session = _open(onnx_path)
    differences = {}
    with attention_set(torch_model, "eager"):  # torch's own fused attention silently leaves out the soft cap
        noise_deviations = None
        for case in cases_for(torch_model.config, signature, right_only=exporter == "fused-cuda"):
            found = _compare(session, torch_model, signature, case, noise_deviations)
            if noise_deviations is not None and not found.is_parity:
                found = _compare(session, torch_model, signature, case, None)
            if not found.is_parity:
                raise ParityError(
                    f"{case.name}: {found}, allowed are {found.allowed:.3g}; {_next_step(found, exporter)}"
                )
            differences[case.name] = found
            if noise_deviations is None:
                noise_deviations = found.noise_deviations
    return differences


def _next_step(found: Difference, exporter: Exporter) -> str:
    """The option to try next: the other exporter, or PyTorch if no exporter can compute the same as the model."""
    torch_only = "a recipe that stays in PyTorch: --recipe bnb-int8 or --recipe bnb-nf4"
    if not found.noise <= found.allowed:
        return f"the model is too noisy in float32 for any exporter, take {torch_only}"
    other = "fused" if exporter == "optimum" else "optimum"
    return f"take --exporter {other}, or where that is refused too, {torch_only}"


def _compare(
    session: ort.InferenceSession,
    torch_model: PreTrainedModel,
    signature: Signature,
    case: Case,
    noise_deviations: float | None,
) -> Difference:
    """Run the graph and torch over the steps of a case; in float64 too if the noise is not known yet."""
    rng = np.random.default_rng(0)
    graph = _GraphRunner(session, signature, rows=len(case.lengths))
    single = _TorchRunner(torch_model, signature, precision=nullcontext())
    double = _TorchRunner(torch_model, signature, precision=float64()) if noise_deviations is None else None
    differences, noises, deviations = [], [], []
    for mask, new in _masks(case):
        ids = rng.integers(0, torch_model.config.vocab_size, (len(mask), new))
        positions = case.first + np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -new:]
        real = mask[:, -new:] == 1
        expected = single(ids, mask, positions)[real]
        if double is not None:
            rounded, expected = expected, double(ids, mask, positions)[real]
            noises.append(np.max(np.abs(rounded - expected)))
        differences.append(np.max(np.abs(graph(ids, mask, positions)[real] - expected)))
        if not np.isfinite(expected).all():
            raise InputError(
                "the model's own logits are NaN or infinite in torch; correct the numbers in its config.json (the epsilon of its "
                "norms, rope_theta), or its weights"
            )
        deviations.append(np.std(expected - expected.mean(axis=1, keepdims=True)))
    deviation = float(np.mean(deviations))
    return Difference(
        reference="float64" if double is not None else "float32",
        graph=float(np.max(differences)),
        noise=float(np.max(noises)) if noise_deviations is None else noise_deviations * deviation,
        deviation=deviation,
    )


def _masks(case: Case) -> Iterator[tuple[NDArray[np.int64], int]]:
    """For each call: the mask over past and new tokens, and the number of new tokens."""
    width = max(case.lengths)
    columns = np.arange(width)
    lengths = np.array(case.lengths)[:, None]
    mask = (columns >= width - lengths if case.side == "left" else columns < lengths).astype(np.int64)
    yield mask, width
    for new in case.steps:
        mask = np.concatenate([mask, np.ones((len(mask), new), dtype=np.int64)], axis=1)
        yield mask, new


class _GraphRunner:
    """Runs the graph step by step; its outputs ``present`` are the next step's ``past_key_values``."""

    def __init__(self, session: ort.InferenceSession, signature: Signature, *, rows: int) -> None:
        self._session = session
        self._signature = signature
        self._past = {
            f"past_key_values.{layer}.{part}": np.zeros((rows, heads, 0, signature.head_dim), dtype=np.float32)
            for layer, heads in enumerate(signature.kv_heads)
            for part in ("key", "value")
        }

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        feeds: dict[str, NDArray[Any]] = {"input_ids": ids, "attention_mask": mask, **self._past}
        if self._signature.position_ids:
            feeds["position_ids"] = positions
        names = list(self._signature.outputs)
        logits, *present = self._session.run(names, feeds)
        self._past = dict(zip(self._past, present, strict=True))
        return np.asarray(logits)


class _TorchRunner:
    """Runs the torch model step by step on its own cache, each step within ``precision``."""

    def __init__(self, model: PreTrainedModel, signature: Signature, *, precision: AbstractContextManager[Any]) -> None:
        self._model = model
        self._signature = signature
        self._precision = precision
        self._cache: Any = None

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.floating[Any]]:
        import torch

        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._signature.position_ids:
            inputs["position_ids"] = positions
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        with torch.no_grad(), self._precision:
            output = self._model(**tensors, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        return np.asarray(output.logits.numpy())


def _open(path: Path) -> ort.InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
