"""Where labels go so that none lies on another: in a column beside the ends of lines, and around
points. Plain numbers in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """A rectangle; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to the wanted ones as can be (least squares), in their order, at least `gap`
    apart and between low and high.

    Where there is no room for all, they go beyond `high`.
    """
    order = np.argsort(wanted, kind="stable")
    blocks: list[list[float]] = []  # [mean of the places less what comes before them, how many]
    for rank, place in enumerate(order):
        blocks.append([wanted[place] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (last, more) = blocks[-2], blocks.pop()
            blocks[-1] = [(mean * count + last * more) / (count + more), count + more]
    most = max(low, high - (len(wanted) - 1) * gap)
    free = [min(max(mean, low), most) for mean, count in blocks for _ in range(int(count))]
    places = [0.0] * len(wanted)
    for rank, place in enumerate(order):
        places[place] = free[rank] + rank * gap
    return places


def beside(
    points: Sequence[tuple[float, float]], widths: Sequence[float], height: float, room: Box
) -> list[tuple[float, float, bool]]:
    """For each point the middle of its label's inner edge, and whether the label lies to the right
    of it.

    To the right if it can be, else to the left, moved up or down by as little as keeps it off the
    labels before it and off all points.
    """
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    places = []
    for (x, y), width in zip(points, widths, strict=True):
        best = None
        for step in range(40):
            move = height / 2 * ((step + 1) // 2) * (1 if step % 2 else -1)
            for right in (True, False):
                near = x + (10 if right else -10)
                box = Box(
                    near if right else near - width,
                    y + move - height / 2,
                    near + width if right else near,
                    y + move + height / 2,
                )
                inside = (
                    box.left >= room.left
                    and box.right <= room.right
                    and box.bottom >= room.bottom
                    and box.top <= room.top
                )
                if inside and not any(box.overlaps(other) for other in taken):
                    best = (near, y + move, right, box)
                    break
            if best:
                break
        near, middle, right, box = best or (x + 10, y, True, Box(x, y, x, y))
        taken.append(box)
        places.append((near, middle, right))
    return places
