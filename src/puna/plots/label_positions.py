"""Positions of labels that do not lie on each other: in a column beside the ends of lines, and
around points. Plain numbers in pixels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

GAP = 10  # pixels between a point and its label
MARK = 6  # half the side of the square that a point keeps free of labels
MOST_MOVES = 40  # half lines of text up and down, before a label may lie on others


class Box(NamedTuple):
    """A rectangle; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """True where they share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, other: "Box") -> bool:
        """True where the other lies within, edges included."""
        return (
            other.left >= self.left
            and other.right <= self.right
            and other.bottom >= self.bottom
            and other.top <= self.top
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to the wanted ones as can be (least squares), in their order, at least
    `gap` apart and between low and high.

    Where the range is too short for all, they go beyond `high`.

    With x_k the position of rank k, y_k = x_k - k gap has only to rise: an isotonic regression,
    solved by pooling adjacent violators. Source: Barlow et al. 1972, Statistical Inference under
    Order Restrictions.
    """
    order = np.argsort(wanted, kind="stable")
    pools: list[list[float]] = []  # [mean of y, how many labels]
    for rank, index in enumerate(order):
        pools.append([wanted[index] - rank * gap, 1])
        # a pool that lies above the next one would put its labels out of order: they share a mean
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, count), (last, more) = pools[-2], pools.pop()
            pools[-1] = [(mean * count + last * more) / (count + more), count + more]
    # in y, every position shares one range, whose upper end is lower by the gaps above it
    most = max(low, high - (len(wanted) - 1) * gap)
    free = [min(max(mean, low), most) for mean, count in pools for _ in range(int(count))]
    positions = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        positions[index] = free[rank] + rank * gap
    return positions


def beside(
    points: Sequence[tuple[float, float]], widths: Sequence[float], height: float, bounds: Box
) -> list[tuple[float, float, bool]]:
    """For each point the middle of its label's inner edge, and whether the label lies to the right
    of it.

    To the right if it can be, else to the left, moved up or down by as little as keeps it off the
    labels before it and off all points. Greedy, in the order given: an early label never moves for
    a later one.
    """
    taken = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    positions = []
    for (x, y), width in zip(points, widths, strict=True):
        # where nothing is free, the label lies on others and keeps nothing free itself
        near, middle, right, box = next(
            (
                candidate
                for candidate in _candidates(x, y, width, height)
                if bounds.holds(candidate[3])
                and not any(candidate[3].overlaps(other) for other in taken)
            ),
            (x + GAP, y, True, Box(x, y, x, y)),
        )
        taken.append(box)
        positions.append((near, middle, right))
    return positions


def _candidates(
    x: float, y: float, width: float, height: float
) -> Iterator[tuple[float, float, bool, Box]]:
    """Positions of one label from the best on: half a line up, half a line down, a line up, ..."""
    for step in range(MOST_MOVES):
        middle = y + height / 2 * ((step + 1) // 2) * (1 if step % 2 else -1)
        for right in (True, False):
            near = x + (GAP if right else -GAP)
            left, end = (near, near + width) if right else (near - width, near)
            box = Box(left, middle - height / 2, end, middle + height / 2)
            yield near, middle, right, box
