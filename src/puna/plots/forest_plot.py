"""The forest plot of a study: every arm's difference from the baseline with its interval, in rows.

Plain numbers in, an inline SVG and its description out; no statistics. What diverged is marked, and
never left out. A fraction of a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from puna.plots.canvas import frame, mark, name_width, quiet, sheet, shortened, write
from puna.plots.inline_svg import COLOURS, inline_svg

ROW = 27  # pixels of an arm
DIFFERENCE, INTERVAL, VERDICT = 82, 220, 236  # columns, in pixels from the right edge of the frame
VERDICT_COLOURS = {"better": "better", "worse": "worse", "diverged": "worse"}


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline. seeds: of each seed in which both have a value; mean and interval
    are None where there is no test.
    """

    arm: str
    seeds: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None
    verdict: str
    diverged: int = 0


@dataclass(frozen=True)
class ForestPlot:
    """Every arm's difference in a row, in the order given. noise: standard deviation of the
    baseline's runs, None where one diverged.
    """

    baseline: str
    unit: str
    level: str
    lower_is_better: bool
    rows: Sequence[Difference]
    noise: float | None
    smallest_difference: float
    runs: int

    @property
    def description(self) -> str:
        """The whole figure in words, for those who do not see it."""
        told = [
            (
                f"{row.arm} {row.mean:+.4f} ({row.interval[0]:+.4f} to {row.interval[1]:+.4f}),"
                f" {row.verdict}"
                if row.mean is not None and row.interval is not None
                else f"{row.arm} {self.untested(row)}"
            )
            for row in self.rows
        ]
        return (
            f"Mean paired difference from {self.baseline} in {self.unit}, with {self.level}"
            f" intervals: {'; '.join(told)}."
        )

    def untested(self, row: Difference) -> str:
        """The reason that an arm has no interval."""
        return (
            f"{row.diverged} of {self.runs} runs diverged"
            if row.diverged
            else f"not tested: {self.baseline} diverged"
        )

    @property
    def frame(self) -> tuple[float, float]:
        """The range of the axis: 0, the bands, and every arm that is not far out."""
        ranges = [
            (min(*row.seeds, row.interval[0]), max(*row.seeds, row.interval[1]))
            for row in self.rows
            if row.interval
        ]
        ranges = (
            ranges
            or [(min(row.seeds), max(row.seeds)) for row in self.rows if row.seeds]
            or [(-1.0, 1.0)]
        )
        low, high = frame(ranges, 0.0)
        band = max(self.noise or 0.0, 1.15 * self.smallest_difference)
        low, high = min(low, -band), max(high, band)
        margin = 0.05 * (high - low) or 1.0
        return low - margin, high + margin

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        height = ROW * len(self.rows) + 80
        left = name_width([row.arm for row in self.rows]) + 22
        figure, ((axes,),) = sheet(height, left, 320, 30, 50)
        axes.set_xlim(*self.frame)
        axes.set_ylim(len(self.rows) - 0.4, -0.6)  # the first row on top
        quiet(axes, "x")
        axes.set_yticks([])
        if self.noise:
            axes.axvspan(-self.noise, self.noise, color=COLOURS["line"], alpha=0.75, linewidth=0)
        if self.smallest_difference:
            for edge in (-self.smallest_difference, self.smallest_difference):
                axes.axvline(edge, color=COLOURS["reference"], linewidth=1.1, dashes=(4, 3))
        axes.axvline(0, color=COLOURS["ink"], linewidth=1.2)
        for index, row in enumerate(self.rows):
            self._draw_marks(axes, index, row)
            self._write_columns(axes, index, row)
        self._write_titles(axes)
        return inline_svg(figure, "differences", self.description)

    def _draw_marks(self, axes: Axes, index: int, row: Difference) -> None:
        """The seeds, the interval and the mean, within the frame; what lies beyond it is an arrow
        at the edge.
        """
        low, high = self.frame
        colour = COLOURS[VERDICT_COLOURS.get(row.verdict, "muted")]
        shown = [seed for seed in row.seeds if low <= seed <= high]
        axes.plot(
            shown,
            [index + 0.27] * len(shown),  # below the interval, so that both can be read
            linestyle="",
            marker="o",
            markersize=4.5,
            color=colour,
            alpha=0.5,
            markeredgewidth=0,
        )
        if row.mean is None or row.interval is None:
            # on the side of the worse
            mark(axes, high if self.lower_is_better else low, index, "x", colour)
            return
        ends = np.clip(row.interval, low, high)
        axes.plot(ends, [index, index], color=colour, linewidth=2.2, solid_capstyle="butt")
        if row.interval[0] < low:
            mark(axes, low, index, "<", colour, 7.5)
        if row.interval[1] > high:
            mark(axes, high, index, ">", colour, 7.5)
        if low <= row.mean <= high:
            mark(axes, row.mean, index, "D", colour)

    def _write_columns(self, axes: Axes, index: int, row: Difference) -> None:
        """The name to the left of the frame, the numbers to its right."""
        role = VERDICT_COLOURS.get(row.verdict, "muted")
        cells = [(0, -14, "right", "ink", shortened(row.arm))]
        if row.mean is None or row.interval is None:
            cells.append((1, 22, "left", role, self.untested(row)))
        else:
            interval = f"{row.interval[0]:+.4f} to {row.interval[1]:+.4f}"
            cells += [
                (1, DIFFERENCE, "right", "ink", f"{row.mean:+.4f}"),
                (1, INTERVAL, "right", "muted", interval),
                (1, VERDICT, "left", role, row.verdict),
            ]
        for edge, x, side, colour, text in cells:
            write(
                axes,
                text,
                edge,
                index,
                colour,
                xycoords=("axes fraction", "data"),
                xytext=(x, 0),
                horizontalalignment=side,
            )

    def _write_titles(self, axes: Axes) -> None:
        for x, side, text in (
            (DIFFERENCE, "right", "difference"),
            (INTERVAL, "right", f"{self.level} interval"),
            (VERDICT, "left", "verdict"),
        ):
            write(axes, text, 1, 1, xytext=(x, 14), horizontalalignment=side)
        across = f"difference from {shortened(self.baseline)}, {self.unit}"
        write(axes, across, 0.5, 0, xytext=(0, -38), horizontalalignment="center")
        less, more = ("better", "worse") if self.lower_is_better else ("worse", "better")
        write(axes, f"← {less}", 0, 0, less, xytext=(0, -38), horizontalalignment="left")
        write(axes, f"{more} →", 1, 0, more, xytext=(0, -38), horizontalalignment="right")
