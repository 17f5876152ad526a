"""The cost of every arm of a study against the metric that it reaches, one point an arm.

Plain numbers in, an inline SVG and its description out. What diverged is marked, and never left
out. A fraction of a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from puna.number_format import quantity
from puna.plots.canvas import (
    CHARACTER,
    LABEL,
    WIDTH,
    ArmStyle,
    frame,
    mark,
    quiet,
    sheet,
    shortened,
    write,
)
from puna.plots.inline_svg import COLOURS, inline_svg
from puna.plots.label_positions import Box, beside


@dataclass(frozen=True)
class CostPoint:
    """The cost of an arm, with a range, and its metric: one value a seed that did not
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
    styles: Mapping[str, ArmStyle]

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
    def frame(self) -> tuple[float, float]:
        """The range of the metric's axis: every arm that is not far out, with a margin."""
        whole = [point for point in self.points if not point.diverged]
        if not whole:
            return -0.07, 1.07
        centre = float(np.median([np.mean(point.values) for point in whole]))
        low, high = frame([(min(point.values), max(point.values)) for point in whole], centre)
        margin = 0.07 * (high - low) or 0.05
        return low - margin, high + margin

    @property
    def svg(self) -> str:
        """The figure, as an element of the page."""
        figure, ((axes,),) = sheet(460, 52, 16, 22, 46)
        self._fit_axes(axes)
        spots = [self._draw(axes, point) for point in self.points]
        figure.draw_without_rendering()  # fixes the transforms that the labels ask for
        self._draw_labels(axes, spots)
        write(axes, self.cost, 0.5, 0, xytext=(0, -34), horizontalalignment="center")
        return inline_svg(figure, "cost", self.description)

    def _fit_axes(self, axes: Axes) -> None:
        costs = [bound for point in self.points for bound in point.cost_range]
        if max(costs) > 10 * min(costs) > 0:
            axes.set_xscale("log")
            axes.set_xlim(min(costs) / 1.15, max(costs) * 1.3)
        else:
            margin = max(0.05 * (max(costs) - min(costs)), 0.01 * max(costs))
            axes.set_xlim(min(costs) - margin, max(costs) + 2 * margin)
        axes.set_ylim(*self.frame)
        quiet(axes)

    def _draw(self, axes: Axes, point: CostPoint) -> tuple[float, float]:
        """Draw the range of the cost, the seeds and their mean; returns where the mean's mark is,
        at the edge of the frame if it lies beyond.
        """
        low, high = self.frame
        colour = self.styles[point.arm].colour
        if point.diverged:
            worst = high if self.lower_is_better else low
            mark(axes, point.cost, worst, "x", colour)
            return point.cost, worst
        mean = float(np.mean(point.values))
        y = min(max(mean, low), high)
        bar: dict[str, Any] = {"color": colour, "linewidth": 1.2, "alpha": 0.6}
        axes.plot(point.cost_range, [y, y], **bar)
        seeds = [value for value in point.values if low <= value <= high]
        if seeds:
            axes.plot([point.cost] * 2, [min(seeds), max(seeds)], **bar)
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
        shape = "o" if low <= mean <= high else "^" if mean > high else "v"
        mark(axes, point.cost, y, shape, colour, 9)
        return point.cost, y

    def _label(self, point: CostPoint) -> str:
        """The arm; its mean too where the mark cannot show it."""
        if point.diverged:
            return f"{shortened(point.arm)} diverged"
        mean, (low, high) = float(np.mean(point.values)), self.frame
        return shortened(point.arm) + ("" if low <= mean <= high else f" {mean:.3f}")

    def _draw_labels(self, axes: Axes, spots: Sequence[tuple[float, float]]) -> None:
        """A label near each spot, with a hairline to it where the label had to move."""
        labels = [self._label(point) for point in self.points]
        pixels = [tuple(spot) for spot in axes.transData.transform(spots)]
        box = axes.get_window_extent()
        widths = [CHARACTER * len(label) for label in labels]
        positions = beside(pixels, widths, LABEL, Box(box.x0, box.y0, WIDTH, box.y1 + 20))
        for label, (x, y), (near, middle, right) in zip(labels, pixels, positions, strict=True):
            if abs(middle - y) > LABEL / 2:
                hairline = axes.transAxes.inverted().transform([(x, y), (near, middle)])
                axes.plot(
                    hairline[:, 0],
                    hairline[:, 1],
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
