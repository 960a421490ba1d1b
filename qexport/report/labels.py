"""Places for the labels of a scatter plot: Vega-Lite has none, so they are found here, the same way every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHARACTER = 0.56
"""Width of an average character in units of the font size: a little more than that of the fonts in use."""
POINT = 7.0
"""Half the side of the square a point keeps free, in pixels."""
NEAR = 16.0
"""Beyond this distance a line leads from label to point."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a label stands, in pixels from the top left."""

    centre: tuple[float, float]
    anchor: tuple[float, float]
    """The point of the label's box nearest to its data point: where a leader line ends."""
    leader: bool


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


def place_labels(
    points: Sequence[tuple[str, tuple[float, float], tuple[float, float]]],
    *,
    canvas: tuple[float, float],
    font_size: float,
    obstacle_y: float,
    obstacles: Sequence[tuple[float, float]] = (),
) -> list[Place]:
    """Place one label a point, greedily from the left: close by, inside the canvas, off points, whiskers and labels.

    Args:
        points: text, ``(x, y)`` and the ``(top, bottom)`` of the whisker of each point, in pixels.
        canvas: width and height.
        font_size: in pixels.
        obstacle_y: a horizontal line that labels had better not stand on.
        obstacles: further places that labels had better not stand on.
    """
    taken = [_Box(x - POINT, y - POINT, x + POINT, y + POINT) for _, (x, y), _ in points]
    taken += [_Box(x - 2, top, x + 2, bottom) for _, (x, _), (top, bottom) in points]
    taken += [_Box(x - 3, y - 3, x + 3, y + 3) for x, y in obstacles]
    line = _Box(0, obstacle_y - 1, canvas[0], obstacle_y + 1)
    frame = _Box(0, 0, *canvas)
    labels: list[_Box] = []
    places: dict[int, Place] = {}
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], i)):
        text, (x, y), _ = points[index]
        width, height = len(text) * font_size * CHARACTER, font_size * 1.25

        def cost(box: _Box, x: float = x, y: float = y, area: float = width * height) -> float:
            outside = area - box.overlap(frame)
            crowd = 20 * sum(map(box.overlap, labels)) + 6 * sum(map(box.overlap, taken)) + box.overlap(line)
            return 50 * outside + crowd + 4 * math.dist((x, y), box.nearest(x, y))

        best = min(_candidates(x, y, width, height), key=cost)
        labels.append(best)
        anchor = best.nearest(x, y)
        places[index] = Place(
            centre=((best.left + best.right) / 2, (best.top + best.bottom) / 2),
            anchor=anchor,
            leader=math.dist(anchor, (x, y)) > NEAR,
        )
    return [places[index] for index in range(len(points))]


def _candidates(x: float, y: float, width: float, height: float) -> list[_Box]:
    """Boxes right, left, above and below of a point, then ever further around it."""
    boxes = []
    for distance in (10.0, 20.0, 34.0, 50.0, 70.0, 95.0, 125.0):
        for step in range(16):
            angle = step * math.pi / 8
            centre_x = x + math.cos(angle) * (distance + width / 2)
            centre_y = y - math.sin(angle) * (distance + height / 2)
            boxes.append(
                _Box(
                    centre_x - width / 2,
                    centre_y - height / 2,
                    centre_x + width / 2,
                    centre_y + height / 2,
                )
            )
    return boxes
