from __future__ import annotations

import itertools

import numpy as np
import pytest

from qexport.report.label_places import CHARACTER, place_labels

CANVAS, FONT = (600.0, 300.0), 12.0


def boxes(points, places):
    for (text, _, _), place in zip(points, places, strict=True):
        width, height = len(text) * FONT * CHARACTER, FONT * 1.25
        x, y = place.centre
        yield x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) + 1e-9 and min(a[3], b[3]) > max(a[1], b[1]) + 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_labels_keep_clear_of_each_other_and_inside(seed):
    rng = np.random.default_rng(seed)
    at = rng.uniform([30, 30], [570, 270], (8, 2))
    at[1], at[2] = at[0], at[0] + 1  # three points in one place, as FP4 and NF4 are on the memory axis
    points = [
        (f"int8-dynamic ({i})", (float(x), float(y)), (float(y) - 5, float(y) + 5)) for i, (x, y) in enumerate(at)
    ]
    places = place_labels(points, canvas=CANVAS, font_size=FONT, obstacle_y=150.0)
    found = list(boxes(points, places))
    assert not any(overlap(a, b) for a, b in itertools.combinations(found, 2))
    assert all(left >= 0 and top >= 0 and right <= CANVAS[0] and low <= CANVAS[1] for left, top, right, low in found)
    assert places == place_labels(points, canvas=CANVAS, font_size=FONT, obstacle_y=150.0)


def test_a_lone_point_has_its_label_beside_it_and_no_line():
    (place,) = place_labels([("fp32", (300.0, 150.0), (150.0, 150.0))], canvas=CANVAS, font_size=FONT, obstacle_y=0.0)
    assert not place.leader
    assert abs(place.anchor[0] - 300) < 20
