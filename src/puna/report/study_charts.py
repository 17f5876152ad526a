"""The drawings of a study's differences, learning curves and costs: plain numbers in, an inline SVG
and its description out.

They know axes, labels and colours and no statistics; what diverged is marked, and never left out. A
fraction of a second each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from puna.report.canvas import (
    CHARACTER,
    WIDTH,
    Look,
    frame,
    mark,
    name_width,
    quiet,
    sheet,
    shortened,
    write,
)
from puna.report.formats import quantity
from puna.report.inline_svg import COLOURS, inline_svg
from puna.report.label_places import Box, beside, spread

Values = npt.NDArray[np.float64]

ROW = 27  # pixels of an arm in the forest plot
LABEL = 15.5  # pixels of a line of text
SETTLED = 0.4  # of an arm's tokens: what comes before may lie above the frame
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
class Forest:
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
        """Why an arm has no interval."""
        return (
            f"{row.diverged} of {self.runs} runs diverged"
            if row.diverged
            else f"not tested: {self.baseline} diverged"
        )

    @property
    def frame(self) -> tuple[float, float]:
        """What the axis holds: 0, the bands, and every arm that is not far out."""
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
        room = 0.05 * (high - low) or 1.0
        return low - room, high + room

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        height = ROW * len(self.rows) + 80
        figure, ((axes,),) = sheet(
            height, name_width([row.arm for row in self.rows]) + 22, 320, 30, 50
        )
        low, high = self.frame
        axes.set_xlim(low, high)
        axes.set_ylim(len(self.rows) - 0.4, -0.6)
        quiet(axes, "x")
        axes.set_yticks([])
        if self.noise:
            axes.axvspan(-self.noise, self.noise, color=COLOURS["line"], alpha=0.75, linewidth=0)
        for edge in (
            (-self.smallest_difference, self.smallest_difference)
            if self.smallest_difference
            else ()
        ):
            axes.axvline(edge, color=COLOURS["yardstick"], linewidth=1.1, dashes=(4, 3))
        axes.axvline(0, color=COLOURS["ink"], linewidth=1.2)
        for place, row in enumerate(self.rows):
            self._draw(axes, place, row)
        for x, side, text in (
            (82, "right", "difference"),
            (220, "right", f"{self.level} interval"),
            (236, "left", "verdict"),
        ):
            write(axes, text, 1, 1, xytext=(x, 14), horizontalalignment=side)
        write(
            axes,
            f"difference from {shortened(self.baseline)}, {self.unit}",
            0.5,
            0,
            xytext=(0, -38),
            horizontalalignment="center",
        )
        less, more = ("better", "worse") if self.lower_is_better else ("worse", "better")
        write(axes, f"← {less}", 0, 0, less, xytext=(0, -38), horizontalalignment="left")
        write(axes, f"{more} →", 1, 0, more, xytext=(0, -38), horizontalalignment="right")
        return inline_svg(figure, "differences", self.description)

    def _draw(self, axes: Axes, place: int, row: Difference) -> None:
        low, high = self.frame
        role = VERDICT_COLOURS.get(row.verdict, "muted")
        colour = COLOURS[role]
        at = ("axes fraction", "data")
        write(
            axes,
            shortened(row.arm),
            0,
            place,
            "ink",
            xycoords=at,
            xytext=(-14, 0),
            horizontalalignment="right",
        )
        shown = [seed for seed in row.seeds if low <= seed <= high]
        axes.plot(
            shown,
            [place + 0.27] * len(shown),
            linestyle="",
            marker="o",
            markersize=4.5,
            color=colour,
            alpha=0.5,
            markeredgewidth=0,
        )
        if row.mean is None or row.interval is None:
            mark(axes, high if self.lower_is_better else low, place, "x", colour)
            write(
                axes,
                self.untested(row),
                1,
                place,
                role,
                xycoords=at,
                xytext=(22, 0),
                horizontalalignment="left",
            )
            return
        axes.plot(
            np.clip(row.interval, low, high),
            [place, place],
            color=colour,
            linewidth=2.2,
            solid_capstyle="butt",
        )
        if row.interval[0] < low:
            mark(axes, low, place, "<", colour, 7.5)
        if row.interval[1] > high:
            mark(axes, high, place, ">", colour, 7.5)
        if low <= row.mean <= high:
            mark(axes, row.mean, place, "D", colour)
        interval = f"{row.interval[0]:+.4f} to {row.interval[1]:+.4f}"
        write(
            axes,
            f"{row.mean:+.4f}",
            1,
            place,
            "ink",
            xycoords=at,
            xytext=(82, 0),
            horizontalalignment="right",
        )
        write(
            axes,
            interval,
            1,
            place,
            "muted",
            xycoords=at,
            xytext=(220, 0),
            horizontalalignment="right",
        )
        write(
            axes,
            row.verdict,
            1,
            place,
            role,
            xycoords=at,
            xytext=(236, 0),
            horizontalalignment="left",
        )


@dataclass(frozen=True)
class CurveLine:
    """An arm's mean over the seeds by tokens, and the lowest and highest seed; may be empty where
    `diverged` runs are more than 0.
    """

    arm: str
    tokens: Values
    mean: Values
    low: Values
    high: Values
    diverged: int = 0


@dataclass(frozen=True)
class LearningCurves:
    """All arms over the tokens that they were trained on. At least one line has a point."""

    unit: str
    lines: Sequence[CurveLine]
    looks: Mapping[str, Look]

    @property
    def description(self) -> str:
        """The whole figure in words, for those who do not see it."""
        told = [
            (
                f"{line.arm} {line.mean[-1]:.4f} after {quantity(line.tokens[-1])} tokens"
                + (", then diverged" if line.diverged else "")
                if len(line.mean)
                else f"{line.arm} diverged at once"
            )
            for line in self.lines
        ]
        return f"{self.unit} by tokens: {'; '.join(told)}."

    @property
    def frame(self) -> tuple[float, float, float]:
        """The lowest and the highest value that are shown, and the highest of all: steep starts,
        which all arms share, are left out.
        """
        drawn = [line for line in self.lines if len(line.mean)]
        whole = [line for line in drawn if not line.diverged] or drawn
        low = min(line.low.min() for line in whole)
        later = max(line.high[line.tokens >= SETTLED * line.tokens[-1]].max() for line in whole)
        highest = max(line.high.max() for line in drawn)
        return low, (later if highest > later + 0.5 * (later - low) else highest), highest

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        labels = [self._label(line) for line in self.lines]
        height = max(440.0, LABEL * len(labels) + 70)
        drawn = [line for line in self.lines if len(line.mean)]
        figure, ((axes,),) = sheet(height, 52, CHARACTER * max(map(len, labels)) + 34, 12, 44)
        ends = [line.tokens[-1] for line in drawn]
        if max(ends) > 3 * min(ends):
            axes.set_xscale("log")
        low, top, _ = self.frame
        room = 0.05 * (top - low) or 0.05
        axes.set_ylim(low - room, top + room)
        first, last = min(self._entry(line, top + room) for line in drawn), max(ends)
        axes.set_xlim(min(first, 0.98 * last), last)
        quiet(axes)
        for line in drawn:
            axes.fill_between(
                line.tokens,
                line.low,
                line.high,
                color=self.looks[line.arm].colour,
                alpha=0.1,
                linewidth=0,
            )
        for line in drawn:
            axes.plot(line.tokens, line.mean, **self.looks[line.arm].line)
            end = (line.tokens[-1], min(line.mean[-1], top + room))
            mark(
                axes,
                *end,
                "x" if line.diverged else "o",
                self.looks[line.arm].colour,
                6.5 if line.diverged else 5,
            )
        figure.draw_without_rendering()
        wanted = [top if line.diverged else line.mean[-1] for line in self.lines]
        pixels = axes.transData.transform([(last, value) for value in wanted])[:, 1]
        box = axes.get_window_extent()
        places = spread(pixels, LABEL, box.y0 + 4, box.y1 - 4)
        for line, label, pixel, place in zip(self.lines, labels, pixels, places, strict=True):
            write(axes, label, 1, 0, "ink", xytext=(26, place - box.y0), horizontalalignment="left")
            heights = [
                (place if line.diverged else pixel) / box.height - box.y0 / box.height,
                (place - box.y0) / box.height,
            ]
            style = {**self.looks[line.arm].line, "linewidth": 1.2}
            axes.plot(
                [1 + 4 / box.width, 1 + 22 / box.width],
                heights,
                transform=axes.transAxes,
                clip_on=False,
                **style,
            )
        write(
            axes,
            "tokens" + (", log scale" if axes.get_xscale() == "log" else ""),
            0.5,
            0,
            xytext=(0, -34),
            horizontalalignment="center",
        )
        return inline_svg(figure, "learning-curves", self.description)

    def _label(self, line: CurveLine) -> str:
        value = f"{line.mean[-1]:.3f}" if len(line.mean) and not line.diverged else "diverged"
        return f"{value}  {shortened(line.arm)}"

    def _entry(self, line: CurveLine, top: float) -> float:
        """The tokens at which a line comes into the frame from above."""
        inside = int(np.argmax(line.mean <= top)) if (line.mean <= top).any() else 0
        return float(
            np.interp(
                -top,
                -line.mean[max(0, inside - 1) : inside + 1],
                line.tokens[max(0, inside - 1) : inside + 1],
            )
        )


@dataclass(frozen=True)
class CostPoint:
    """What an arm costs, with a range, against what it reaches: one value a seed that did not
    diverge.
    """

    arm: str
    cost: float
    cost_range: tuple[float, float]
    values: tuple[float, ...]
    diverged: int = 0


@dataclass(frozen=True)
class CostChart:
    """Cost across, the metric up, one point an arm: the mean of its seeds."""

    cost: str
    unit: str
    lower_is_better: bool
    points: Sequence[CostPoint]
    looks: Mapping[str, Look]

    @property
    def description(self) -> str:
        """The whole figure in words, for those who do not see it."""
        told = [
            f"{point.arm} {quantity(point.cost)}, "
            + ("diverged" if point.diverged else f"{np.mean(point.values):.4f}")
            for point in self.points
        ]
        return f"{self.unit} against {self.cost}: {'; '.join(told)}."

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        figure, ((axes,),) = sheet(460, 52, 16, 22, 46)
        whole = [point for point in self.points if not point.diverged]
        means = [float(np.mean(point.values)) for point in whole]
        low, high = (
            frame(
                [(min(point.values), max(point.values)) for point in whole], float(np.median(means))
            )
            if whole
            else (0.0, 1.0)
        )
        room = 0.07 * (high - low) or 0.05
        low, high = low - room, high + room
        costs = [bound for point in self.points for bound in point.cost_range]
        if max(costs) > 10 * min(costs) > 0:
            axes.set_xscale("log")
            axes.set_xlim(min(costs) / 1.15, max(costs) * 1.3)
        else:
            margin = max(0.05 * (max(costs) - min(costs)), 0.01 * max(costs))
            axes.set_xlim(min(costs) - margin, max(costs) + 2 * margin)
        axes.set_ylim(low, high)
        quiet(axes)
        spots, labels = [], []
        for point in self.points:
            colour = self.looks[point.arm].colour
            mean = math.nan if point.diverged else float(np.mean(point.values))
            y = (
                (high if self.lower_is_better else low)
                if point.diverged
                else min(max(mean, low), high)
            )
            labels.append(
                shortened(point.arm)
                + (" diverged" if point.diverged else "" if low <= mean <= high else f" {mean:.3f}")
            )
            spots.append((point.cost, y))
            if point.diverged:
                mark(axes, point.cost, y, "x", colour)
                continue
            axes.plot(point.cost_range, [y, y], color=colour, linewidth=1.2, alpha=0.6)
            seeds = [value for value in point.values if low <= value <= high]
            if seeds:
                axes.plot(
                    [point.cost] * 2,
                    [min(seeds), max(seeds)],
                    color=colour,
                    linewidth=1.2,
                    alpha=0.6,
                )
            axes.plot(
                [point.cost] * len(seeds),
                seeds,
                linestyle="",
                marker="o",
                markersize=3.6,
                color=colour,
                alpha=0.5,
                markeredgewidth=0,
            )
            mark(
                axes,
                point.cost,
                y,
                "o" if low <= mean <= high else "^" if mean > high else "v",
                colour,
                9,
            )
        figure.draw_without_rendering()
        pixels = [tuple(spot) for spot in axes.transData.transform(spots)]
        box = axes.get_window_extent()
        widths = [CHARACTER * len(label) for label in labels]
        places = beside(pixels, widths, LABEL, Box(box.x0, box.y0, WIDTH, box.y1 + 20))
        for label, (x, y), (near, middle, right) in zip(labels, pixels, places, strict=True):
            if abs(middle - y) > LABEL / 2:
                to = axes.transAxes.inverted().transform([(x, y), (near, middle)])
                axes.plot(
                    to[:, 0],
                    to[:, 1],
                    transform=axes.transAxes,
                    color=COLOURS["muted"],
                    linewidth=0.7,
                    clip_on=False,
                    zorder=0.9,
                )
            write(
                axes,
                label,
                0,
                0,
                "ink",
                xytext=(near - box.x0, middle - box.y0),
                horizontalalignment="left" if right else "right",
            )
        write(axes, self.cost, 0.5, 0, xytext=(0, -34), horizontalalignment="center")
        return inline_svg(figure, "cost", self.description)
