"""Labels keep off each other."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from puna.plots.label_positions import Box, beside, spread


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_spread_labels_keep_their_order_their_distance_and_the_room(wanted: list[float]) -> None:
    positions = spread(wanted, 5.0, 0.0, 100.0)
    order = np.argsort(wanted, kind="stable")
    gaps = np.diff(np.array(positions)[order])
    assert (gaps > 5.0 - 1e-6).all()
    assert min(positions) > -1e-6
    assert max(positions) < 100 + 1e-6


def test_labels_that_have_room_stay_where_they_belong() -> None:
    assert spread([50.0, 10.0], 5.0, 0.0, 100.0) == [50.0, 10.0]
    assert spread([10.0, 10.0], 4.0, 0.0, 100.0) == [8.0, 12.0]
    assert spread([1.0, 1.0], 4.0, 0.0, 100.0) == [0.0, 4.0]


def test_labels_of_close_points_do_not_lie_on_each_other() -> None:
    points = [
        (100.0 + 3 * math.sin(5 * index), 100.0 + 4 * math.cos(3 * index)) for index in range(8)
    ]
    positions = beside(points, [60.0] * 8, 15.0, Box(0, 0, 300, 300))
    boxes = [
        Box(x if right else x - 60, y - 7.5, x + 60 if right else x, y + 7.5)
        for x, y, right in positions
    ]
    assert not any(
        one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index]
    )
    assert beside([(290.0, 50.0)], [60.0], 15.0, Box(0, 0, 300, 300)) == [(280.0, 50.0, False)]
