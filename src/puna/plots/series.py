"""One metric over the steps of a run, and the two things a curve needs done to it: smoothing and
thinning.

A `Series` is plain numbers: no colours, no axes. Neither changes it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.run_log import finite

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """The finite values of one metric.

    steps, values: float64 arrays of one length, steps rising. left_out: how many records held the
    metric as null, NaN or infinity; a diverged run shows them here, not as a gap.
    """

    steps: Values
    values: Values
    left_out: int = 0

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], kind: str, metric: str) -> "Series":
        """The metric of the records of one kind; records without the key are passed over and not
        counted.
        """
        steps: list[float] = []
        values: list[float] = []
        left_out = 0
        for record in records:
            if record["kind"] != kind or metric not in record:
                continue
            value = finite(record[metric])
            if value is None:
                left_out += 1
            else:
                steps.append(record["step"])
                values.append(value)
        return cls(np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64), left_out)

    def __len__(self) -> int:
        return len(self.values)

    def scaled(self, factor: float) -> "Series":
        """The same series in another unit."""
        return Series(self.steps, self.values * factor, self.left_out)

    def smoothed(self, half_window: int) -> "Series":
        """A moving mean over up to `half_window` neighbours on each side.

        The mean is taken twice, so near neighbours weigh more and a spike leaves a hill, not a box.
        Near the first step the window shrinks on both sides, so the steep start of a loss curve
        stays where it is; near the last step it shrinks on the right only. Unlike an exponential
        average it does not lag behind the curve. The series must not be empty; the time grows with
        its length times the window, 0.1 s for 100,000 values and 1,000 neighbours.
        """
        reach = min(half_window, (len(self) - 1) // 2)
        values = self.values
        for _ in range(2):
            start = [values[: 2 * index + 1].mean() for index in range(reach)]
            # Not differences of a running sum: one spike of 1e30 would drown all that comes after
            # it.
            middle = np.convolve(values, np.full(2 * reach + 1, 1 / (2 * reach + 1)), mode="valid")
            end = [values[index - reach :].mean() for index in range(len(self) - reach, len(self))]
            values = np.concatenate([start, middle, end])
        return Series(self.steps, values, self.left_out)

    def thinned(self, limit: int) -> "Series":
        """At most `limit` points: the lowest and the highest of each of `limit // 2` equal
        stretches.

        Every spike survives. The usual mistake is to keep each n-th point, which hides most of
        them.
        """
        if len(self) <= limit:
            return self
        kept: list[int] = []
        for stretch in np.array_split(np.arange(len(self)), limit // 2):
            values = self.values[stretch]
            kept += sorted({int(stretch[values.argmin()]), int(stretch[values.argmax()])})
        kept[0], kept[-1] = 0, len(self) - 1  # the curve begins and ends where the run does
        return Series(self.steps[kept], self.values[kept], self.left_out)
