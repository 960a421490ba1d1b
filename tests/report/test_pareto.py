from __future__ import annotations

from hypothesis import given, strategies as st

from qexport.report.pareto import pareto

few = st.integers(0, 6).map(float)  # few values, so that points often share one


def beats(one, other):
    return one[0] <= other[0] and one[1] <= other[1] and one != other


@given(st.lists(st.tuples(few, few), max_size=12))
def test_the_front_is_what_nothing_beats(points):
    front = pareto(points)
    unbeaten = {index for index, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert set(front) == unbeaten
    assert [points[index] for index in front] == sorted(points[index] for index in front)


def test_one_point_is_a_front_and_none_is_none():
    assert pareto([(3.0, 4.0)]) == (0,)
    assert pareto([]) == ()
