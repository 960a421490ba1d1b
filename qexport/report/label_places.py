"""Finds places for the labels of a scatter plot, in a reproducible way; Vega-Lite has no such layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHARACTER = 0.56
"""The width of an average character in units of the font size: a little more than in the fonts in use."""
POINT = 7.0
"""Half the side, in pixels, of the square that is kept free around a point."""
NEAR = 16.0
"""The distance in pixels beyond which a line leads from the label to its point."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The position of a label, in pixels from the top left."""

    centre: tuple[float, float]
    anchor: tuple[float, float]
    """The point of the label's box nearest to its data point; a leader line ends here."""
    leader: bool


_Boxes = NDArray[np.float64]
"""``[..., 4]``: left, top, right and bottom of each box."""


def place_labels(
    points: Sequence[tuple[str, tuple[float, float], tuple[float, float]]],
    *,
    canvas: tuple[float, float],
    font_size: float,
    obstacle_y: float,
    obstacles: Sequence[tuple[float, float]] = (),
) -> list[Place]:
    """Place one label for each point, greedily from the left: near it, in the canvas, off points, whiskers and labels.

    Args:
        points: text, ``(x, y)`` and the ``(top, bottom)`` of the whisker of each point, in pixels.
        canvas: the width and height in pixels.
        font_size: the font size in pixels.
        obstacle_y: a horizontal line that labels should avoid.
        obstacles: further places that labels should avoid.
    """
    taken = np.array(
        [(x - POINT, y - POINT, x + POINT, y + POINT) for _, (x, y), _ in points]
        + [(x - 2, top, x + 2, bottom) for _, (x, _), (top, bottom) in points]
        + [(x - 3, y - 3, x + 3, y + 3) for x, y in obstacles]
    )
    line = np.array([(0.0, obstacle_y - 1, canvas[0], obstacle_y + 1)])
    frame = np.array([(0.0, 0.0, *canvas)])
    labels = np.empty((0, 4))
    places: dict[int, Place] = {}
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], i)):
        text, point, _ = points[index]
        width, height = len(text) * font_size * CHARACTER, font_size * 1.25
        boxes = _candidates(point, width, height)
        anchors = np.clip(point, boxes[:, :2], boxes[:, 2:])
        distances = np.linalg.norm(anchors - point, axis=1)
        outside = width * height - _overlap(boxes, frame)
        crowd = 20 * _overlap(boxes, labels) + 6 * _overlap(boxes, taken) + _overlap(boxes, line)
        best = int(np.argmin(50 * outside + crowd + 4 * distances))
        labels = np.vstack([labels, boxes[best]])
        left, top, right, bottom = boxes[best].tolist()
        places[index] = Place(
            centre=((left + right) / 2, (top + bottom) / 2),
            anchor=tuple(anchors[best].tolist()),
            leader=bool(distances[best] > NEAR),
        )
    return [places[index] for index in range(len(points))]


def _overlap(boxes: _Boxes, others: _Boxes) -> NDArray[np.float64]:
    """The area of each box ``[boxes]`` that the others cover, summed over them."""
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    covered: NDArray[np.float64] = np.maximum(sides, 0.0).prod(axis=2).sum(axis=1)
    return covered


def _candidates(point: tuple[float, float], width: float, height: float) -> _Boxes:
    """Boxes to the right, left, above and below a point, then boxes farther around it."""
    distances = np.array([10.0, 20.0, 34.0, 50.0, 70.0, 95.0, 125.0])[:, None]
    angles = np.arange(16) * math.pi / 8
    centre_x = point[0] + np.cos(angles) * (distances + width / 2)
    centre_y = point[1] - np.sin(angles) * (distances + height / 2)
    sides = (centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2)
    boxes: _Boxes = np.stack(sides, axis=-1).reshape(-1, 4)
    return boxes
