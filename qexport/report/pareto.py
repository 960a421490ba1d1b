"""The Pareto front of a trade-off."""

from __future__ import annotations

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """The indices of the points that no other point beats, from left to right; lower is better on both axes.

    One point beats another if it is no worse on either axis and better on one. Equal points do not beat each other.
    """
    front: list[int] = []
    best = float("inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i], i)):
        if points[index][1] < best or (front and points[index] == points[front[-1]]):
            front.append(index)
            best = points[index][1]
    return tuple(front)
