"""Forms: the ways in which the activation of INT8 MatMuls is rounded, and the choice of one for each activation.

Large language models have a few channels of activation with values a hundred or a thousand times those of the others, the
same channels for every text. One range for the whole tensor then leaves a few steps for everything else. A form may
multiply such channels in float, beside the integers (Dettmers et al., "LLM.int8()", https://arxiv.org/abs/2208.07339,
with a fixed set of channels), give each token its own range, and smooth the channels (SmoothQuant). Each form costs
time. The cheapest one whose error on calibration text is small enough is chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from qexport.quantization.numerics import activation_error, smooth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qexport.quantization.calibration import Sample
    from qexport.quantization.numerics.activation_error import Product, Rounding

STRENGTHS = (0.3, 0.45, 0.6, 0.75, 0.9)
"""Migration strengths of SmoothQuant that are tried."""
CHANNELS = (0, 1, 2, 4, 8, 16)
"""Numbers of channels in float that are tried."""
ROWS = 128
"""Tokens of the sample that are tried, evenly spaced."""
EXTREMES = 0.1
"""The weight of a token with the largest magnitude of its text, beside all other tokens together, before it is multiplied
by the amplitude of its product over that of the median token. Such tokens are few, and mostly the first of a text. Their
residual stream is little else than this product, and every later token attends to them. Their logits do not count."""
COLUMNS = 256
"""Output columns that are tried, evenly spaced."""

Place = Literal["head", "after norm", "after attention", "inside"]
"""The place of a product in the model."""

SENSITIVITY: Mapping[Place, float] = MappingProxyType({"after norm": 0.4, "after attention": 0.04, "inside": 0.4})
"""The Kullback-Leibler divergence from fp32, in nats per token, for each unit of relative error in a product. It was
measured on SmolLM2-135M, see docs/decisions."""
PRICE = 2e-5
"""The divergence, in nats per token, that a form must save for each unit of :meth:`Form.cost`."""
PASS = 256
"""Output channels whose multiplication or addition, on 32 tokens, takes as long as a small node."""
FLOATS = 8192
"""Floats of kept rows whose reading takes as long as a small node."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The way in which one activation is rounded."""

    per_token: bool = False
    """Each token has its own range, symmetric around zero."""
    channels: tuple[int, ...] = ()
    """Channels that are multiplied in float, in ascending order."""
    scale: NDArray[np.float32] | None = field(default=None, compare=False)
    """The smoothing scale, ``[in]``, that divides the channels first; None if they are not smoothed."""

    @property
    def changes(self) -> bool:
        """The graph changes beyond smoothing."""
        return self.per_token or bool(self.channels)

    def cost(self, readers: int, width: int) -> float:
        """The time that the form adds to a graph, in units of one small node.

        Args:
            readers: the number of MatMuls that read the activation.
            width: the output channels of all of them.
        """
        whole = (4.0 + readers + width / PASS) if self.per_token else 0.0
        if self.channels:
            whole += 2.0 + 2.0 * readers + 2.0 * width / PASS + len(self.channels) * width / FLOATS
        return whole

    @property
    def digest(self) -> str:
        """Differs if the form differs."""
        made = hashlib.sha256(json.dumps([self.per_token, self.channels]).encode())
        if self.scale is not None:
            made.update(self.scale.astype("<f4").tobytes())
        return made.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The forms among which a scheme lets the error decide."""

    rounded: Rounding
    """Rounds rows for a range of the whole tensor."""
    levels: int
    paired: bool
    smooth: bool
    """Smoothing may be chosen."""
    channels: bool
    """Channels in float may be chosen, and ranges for each token."""
    per_token: bool
    """Every activation gets ranges for each token."""

    @property
    def counts(self) -> tuple[int, ...]:
        return CHANNELS if self.channels else (0,)

    @property
    def grains(self) -> tuple[bool, ...]:
        """Values of :attr:`Form.per_token`."""
        return (True,) if self.per_token else (False, True) if self.channels else (False,)


def choose(seen: Sample, weights: Sequence[NDArray[np.float32]], choices: Choices, *, place: Place) -> Form:
    """The form with the least divergence on calibration text, plus :data:`PRICE` for each node that it adds.

    Args:
        seen: a sample of the activation.
        weights: all weights that multiply the activation, each ``[in, out]``.
        choices: the forms to try.
        place: the place of the product. Smoothing is tried after a norm only: elsewhere a channel's range differs from
            text to text, and the scales of one text cost more on another than they save.
    """
    whole = _product(seen, weights, place)
    width = sum(weight.shape[1] for weight in weights)
    best, least = Form(), np.inf
    for scale in _scales(whole, smoothed=choices.smooth and place == "after norm"):
        product = whole if scale is None else whole.scaled(scale)
        energy = _energy_of_a_nat(product, place)
        order = np.argsort(-product.peaks, kind="stable")
        for count in (count for count in choices.counts if count < len(order)):
            rest = product.without(order[:count])
            rounding = activation_error.weight_error(rest.weight, levels=choices.levels, paired=choices.paired)
            for per_token in choices.grains:
                form = Form(per_token=per_token, channels=tuple(sorted(order[:count].tolist())), scale=scale)
                error = activation_error.relative_error(
                    rest, rounding, energy, rounded=None if per_token else choices.rounded
                )
                error += PRICE * form.cost(len(weights), width)
                if error < least:
                    best, least = form, error
    return best


def _energy_of_a_nat(product: Product, place: Place) -> NDArray[np.float64]:
    """The energy of an error that costs about one nat, for each token, ``[rows]``.

    The divergence of logits with independent errors is half of the errors' variance. It is exact for small errors.
    """
    if place == "head":
        return np.full(len(product.rows), 2.0 * product.weight.shape[1])
    return product.token_energy() / SENSITIVITY[place]


def _product(seen: Sample, weights: Sequence[NDArray[np.float32]], place: Place) -> Product:
    every = max(1, sum(weight.shape[1] for weight in weights) // COLUMNS)
    rows = seen.rows[:: -(-len(seen.rows) // ROWS)]
    extremes = seen.extremes[: None if place != "head" else 0]
    product = activation_error.Product(
        rows=np.concatenate([rows, extremes]),
        shares=np.repeat([1.0 / len(rows), EXTREMES / max(1, len(extremes))], [len(rows), len(extremes)]),
        lows=seen.lows,
        highs=seen.highs,
        weight=np.concatenate([weight[:, ::every] for weight in weights], axis=1),
    )
    energy = product.token_energy()
    product.shares[len(rows) :] *= np.sqrt(energy[len(rows) :] / np.median(energy))
    return product


def _scales(product: Product, *, smoothed: bool) -> list[NDArray[np.float32] | None]:
    if not smoothed:
        return [None]
    peaks = product.peaks, product.weight_peaks
    return [None, *(smooth.smoothing_scale(*peaks, strength) for strength in STRENGTHS)]
