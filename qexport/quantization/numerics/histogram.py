"""Histograms of activations in bounded memory, and the clipping ranges read off them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 8192
SMALLEST_RADIUS = 2.0**-64
"""The radius of every histogram at its start. Values this small count as zero."""
LEVELS = 256
"""Quantized levels of an 8-bit activation."""

Range = tuple[float, float]
"""Lowest and highest value that the quantized grid represents; contains zero."""


class Histogram:
    """Counts of values in ``BINS`` equal bins over ``[-radius, radius)``.

    The radius is a power of two and doubles when a value is not below it. Pairs of bins then merge exactly, so the
    result does not depend on the order of the batches, and memory stays at ``BINS`` counters.
    """

    def __init__(self) -> None:
        self.radius = SMALLEST_RADIUS
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.low = math.inf
        self.high = -math.inf

    def add(self, values: NDArray[np.float32]) -> None:
        """Count a batch of values of any shape.

        Raises:
            ValueError: a value is not finite.
        """
        flat = np.ravel(values)
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("activations hold NaN or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover(max(-low, high))
        # The same value must always fall into the same bin: a product with a power of two is exact, a sum would round.
        index = np.floor(flat * np.float32(BINS / (2.0 * self.radius))).astype(np.int32) + BINS // 2
        self.counts += np.bincount(index, minlength=BINS)

    def _cover(self, peak: float) -> None:
        while self.radius <= peak:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 * 3] = merged
            self.radius *= 2.0

    @property
    def centers(self) -> NDArray[np.float64]:
        """Middle of each bin, ``[BINS]``."""
        return (np.arange(BINS) + 0.5) * (2.0 * self.radius / BINS) - self.radius


def min_max(histogram: Histogram) -> Range:
    """The whole range seen."""
    return _with_zero(histogram.low, histogram.high)


def percentile(histogram: Histogram, percent: float) -> Range:
    """The range that holds ``percent`` of the values; both ends lose the same share."""
    cut = (1.0 - percent / 100.0) / 2.0
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    width = 2.0 * histogram.radius / BINS
    first = int(np.searchsorted(share, cut, side="right"))
    last = int(np.searchsorted(share, 1.0 - cut, side="left"))
    low = first * width - histogram.radius
    high = (min(last, BINS - 1) + 1) * width - histogram.radius
    return _with_zero(max(low, histogram.low), min(high, histogram.high))


def mean_squared_error(histogram: Histogram, *, steps: int = 24) -> Range:
    """The range whose 8-bit grid reproduces the values with the least mean squared error.

    Both ends shrink independently, each to one of ``steps`` fractions between 0.2 and 1 of the range seen.
    """
    full_low, full_high = min_max(histogram)
    used = histogram.counts > 0
    centers, weights = histogram.centers[used], histogram.counts[used].astype(np.float64)
    fractions = np.linspace(0.2, 1.0, steps)
    best, best_error = (full_low, full_high), math.inf
    for low in np.unique(full_low * fractions):
        for high in np.unique(full_high * fractions):
            scale = (high - low) / (LEVELS - 1)
            if scale <= 0.0:
                continue
            nearest = np.clip(np.rint(centers / scale), np.rint(low / scale), np.rint(high / scale)) * scale
            error = float(weights @ np.square(centers - nearest))
            if error < best_error:
                best, best_error = (float(low), float(high)), error
    return best


def entropy(histogram: Histogram, *, candidates: int = 128) -> Range:
    """The range whose 8-bit grid loses the least information (Kullback-Leibler divergence).

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017. Thresholds are symmetric around zero and then cut to
    the range seen.
    """
    half = BINS // 2
    best, best_divergence = half, math.inf
    for bins in np.unique(np.linspace(LEVELS // 2, half, candidates).astype(int)):
        divergence = _divergence(histogram.counts, half, int(bins))
        if divergence < best_divergence:
            best, best_divergence = int(bins), divergence
    threshold = best * 2.0 * histogram.radius / BINS
    return _with_zero(max(-threshold, histogram.low), min(threshold, histogram.high))


def _divergence(counts: NDArray[np.int64], half: int, bins: int) -> float:
    """KL divergence between the histogram clipped to ``bins`` on each side of zero and its ``LEVELS`` levels."""
    inner = counts[half - bins : half + bins].astype(np.float64)
    clipped = inner.copy()
    clipped[0] += counts[: half - bins].sum()
    clipped[-1] += counts[half + bins :].sum()
    level = np.minimum(np.arange(2 * bins) * LEVELS // (2 * bins), LEVELS - 1)
    filled = inner > 0
    mass = np.bincount(level, weights=inner, minlength=LEVELS)
    members = np.bincount(level, weights=filled.astype(np.float64), minlength=LEVELS)
    spread = np.where(filled, mass[level] / np.maximum(members[level], 1.0), 0.0)
    both = (clipped > 0) & (spread > 0)
    lost = clipped[(clipped > 0) & (spread == 0)].sum() / clipped.sum()
    p, q = clipped[both] / clipped.sum(), spread[both] / spread.sum()
    # Mass in a clipped bin where the grid has none would make the divergence infinite; its whole mass is charged.
    return float(np.sum(p * np.log(p / q)) + lost * math.log(2 * bins))


def _with_zero(low: float, high: float) -> Range:
    return min(low, 0.0), max(high, 0.0)
